"""Where do the data and the contract disagree? One difference for each rule, with how to take the data's side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from flight_delays.infer.document import Document, compact
from flight_delays.infer.entry import Proposal, describe
from flight_delays.infer.rules import bounds, mean_bounds, null_limit
from flight_delays.infer.survey import Facts, Survey
from flight_delays.infer.target import Target
from flight_delays.requirements import PERSONAL

_SHOWN = 5
_OF_THE_TYPE = ("logicalType", "required", "logicalTypeOptions", "enum", "quality")


@dataclass(frozen=True)
class Difference:
    """One rule that the data breaks.

    Attributes
    ----------
    column, rule
        Where it stands.
    contract, data
        What each says.
    accept
        Writes the data's side into the contract; `None` where only the data can be mended.
    """

    column: str
    rule: str
    contract: str
    data: str
    accept: Callable[[], object] | None


def differences(document: Document, survey: Survey, target: Target, names: list[str]) -> list[Difference]:
    """Compare the entries of some columns with the data.

    Parameters
    ----------
    document
        The contract.
    survey
        The measured rows.
    target
        What is predicted.
    names
        The columns that the contract described before.
    """
    found: list[Difference] = []
    for name in names:
        entry = document.entries[name]
        if name not in survey.facts:
            found.append(Difference(name, "column", "there", "gone", partial(document.properties.remove, entry)))
        elif name in survey.misfits:
            found.append(_type(entry, survey, target))
        else:
            found += _Comparison(entry, survey.facts[name], survey).all()
    keys = [name for name in names if "key" in (document.entries[name].get("tags") or ()) and name in survey.facts]
    if len(keys) > 1 and not survey.names_a_row(keys):
        entries = [document.entries[name] for name in keys]
        for name in keys:
            found.append(Difference(name, "key", " + ".join(keys), "repeats", partial(_no_key, *entries)))
    return found


class _Comparison:
    """The rules of one entry, checked against the facts."""

    def __init__(self, entry: Any, facts: Facts, survey: Survey) -> None:
        self.entry = entry
        self.facts = facts
        self.survey = survey
        self.secret = entry.get("classification") in PERSONAL
        self.tags = set(entry.get("tags") or ())

    def all(self) -> list[Difference]:
        return [*self._nulls(), *self._unique(), *self._values(), *self._bounds(), *self._mean()]

    def _differs(self, rule: str, contract: str, data: str, accept: Callable[[], object] | None) -> Difference:
        return Difference(self.facts.name, rule, contract, data, accept)

    def _nulls(self) -> Iterator[Difference]:
        share = 100 * self.facts.nulls / self.facts.rows
        said = f"{self.facts.nulls:,} null ({share:.2g} %)"
        limit = null_limit(self.facts)
        rules = [rule for rule in self.entry.get("quality") or () if rule.get("metric") == "nullValues"]
        if self.entry.get("required") and self.facts.nulls:
            fixed = self.tags & {"target", "time", "key"}
            yield self._differs("required", "never null", said, None if fixed else partial(self._allow_nulls, limit))
        for rule in [] if self.entry.get("required") else rules:
            below, most = rule.get("mustBeLessThan"), rule.get("mustBeLessOrEqualTo")
            if (below is not None and share >= below) or (most is not None and share > most):
                contract = f"< {below} % null" if below is not None else f"<= {most} % null"
                yield self._differs("nullValues", contract, said, partial(self._allow_nulls, limit))

    def _allow_nulls(self, limit: int | None) -> None:
        entry = self.entry
        entry.pop("required", None)
        rest = [rule for rule in entry.get("quality") or () if rule.get("metric") != "nullValues"]
        if limit is not None:
            rest.insert(
                0,
                compact({"type": "library", "metric": "nullValues", "mustBeLessThan": limit, "unit": "percent"}),
            )
        _replace_quality(entry, rest)

    def _unique(self) -> Iterator[Difference]:
        if self.entry.get("unique") and not self.facts.unique and not self.survey.names_a_row([self.facts.name]):
            repeated = f"{self.facts.present - self.facts.distinct:,} repeated"
            yield self._differs("unique", "no value twice", repeated, partial(_no_key, self.entry))

    def _values(self) -> Iterator[Difference]:
        listed = [item["value"] for item in self.entry.get("enum") or ()]
        new = self.survey.others(self.facts.name, listed) if listed else []
        if new:
            shown = ", ".join(repr(value) for value in new[:_SHOWN]) + (", …" if len(new) > _SHOWN else "")
            said = f"{len(new)} more" if self.secret else f"{len(new)} more: {shown}"
            values = [compact({"value": value}) for value in new]
            yield self._differs("enum", f"{len(listed)} values", said, partial(self.entry["enum"].extend, values))

    def _bounds(self) -> Iterator[Difference]:
        options = self.entry.get("logicalTypeOptions") or {}
        for rule, seen, beyond in (("minimum", self.facts.low, -1), ("maximum", self.facts.high, 1)):
            if rule not in options or seen is None:
                continue
            limit = _like(options[rule], seen)
            if ((seen > limit) - (seen < limit)) * beyond > 0:
                wider = bounds(self.facts).get(rule, seen.isoformat() if hasattr(seen, "isoformat") else seen)
                said = "beyond it" if self.secret else f"{seen:.6g}" if isinstance(seen, float) else str(seen)
                yield self._differs(rule, str(options[rule]), said, partial(options.update, {rule: compact(wider)}))

    def _mean(self) -> Iterator[Difference]:
        for rule in self.entry.get("quality") or ():
            expectation = rule.get("implementation") or {}
            if isinstance(expectation, str) or expectation.get("type") != "expect_column_mean_to_be_between":
                continue
            limits = expectation.get("kwargs") or {}
            low, high, mean = limits.get("min_value"), limits.get("max_value"), self.facts.mean
            if mean is None or ((low is None or mean >= low) and (high is None or mean <= high)):
                continue
            low_now, high_now = mean_bounds(self.facts) or (mean, mean)
            said = "beyond it" if self.secret else f"{mean:.4g}"
            accept = partial(limits.update, min_value=low_now, max_value=high_now)
            yield self._differs("mean", f"{low} to {high}", said, accept)


def _type(entry: Any, survey: Survey, target: Target) -> Difference:
    """Compare types; taking the data's side rewrites all that depends on the type."""
    facts, (count, example) = survey.facts[entry["name"]], survey.misfits[entry["name"]]
    fault = f"{count:,} of other type"
    if example is not None and entry.get("classification") not in PERSONAL:
        fault += f", such as {example[:30]!r}"

    def accept() -> None:
        secret = entry.get("classification") in PERSONAL
        proposed = describe(Proposal(facts, list(entry.get("tags") or ()), "", personal=secret), target)
        for word in _OF_THE_TYPE:
            entry.pop(word, None)
            if word in proposed:
                entry[word] = compact(proposed[word])

    return Difference(facts.name, "logicalType", entry["logicalType"], f"{facts.kind.name}: {fault}", accept)


def _like(limit: Any, seen: Any) -> Any:
    """Read a bound in the type of the value that it bounds."""
    if not hasattr(seen, "isoformat"):
        return limit
    read = type(seen).fromisoformat(str(limit))
    return read.replace(tzinfo=None) if isinstance(read, datetime) else read


def _replace_quality(entry: Any, rules: list[Any]) -> None:
    entry.pop("quality", None)
    if rules:
        entry["quality"] = compact([])
        entry["quality"].extend(rules)
        entry["quality"].fa.set_block_style()


def _no_key(*entries: Any) -> None:
    for entry in entries:
        for word in ("unique", "primaryKey", "primaryKeyPosition"):
            entry.pop(word, None)
        if "key" in (entry.get("tags") or ()):
            entry["tags"].remove("key")
            if not entry["tags"]:
                entry.pop("tags")
