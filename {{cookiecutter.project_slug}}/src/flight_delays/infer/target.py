"""What is predicted? Classes or an amount, and whether the data allows it."""

import difflib
from dataclasses import dataclass
from typing import Any

from flight_delays.errors import InputError
from flight_delays.infer.personal import mentions
from flight_delays.infer.survey import LISTED, Facts, Survey

TASKS = ("auto", "classification", "regression")
_MOST_CLASSES = 20  # a target with more different whole numbers is an amount
_COUNT_WORDS = (
    "count", "counts", "number", "num", "quantity", "qty", "amount", "total", "days", "hours", "minutes", "seconds",
    "visits", "sales", "price", "cost", "age", "years", "anzahl", "menge", "nombre de", "cantidad", "n",
)  # fmt: skip
_NEGATIVES = {"0", "no", "n", "false", "f", "-1", "negative", "nein", "non", "nao", "não"}


@dataclass(frozen=True)
class Target:
    """What is predicted: the column, `classification` or `regression`, its classes in order, and why."""

    name: str
    task: str
    classes: tuple[Any, ...]
    why: str


def aim(survey: Survey, name: str, task: str, path: str) -> Target:
    """Decide how the target is predicted.

    Parameters
    ----------
    survey
        The measured rows.
    name
        The target.
    task
        `auto`, `classification` or `regression`.
    path
        The source, for messages.

    Raises
    ------
    InputError
        The target cannot be predicted: it is missing, empty, constant, of a type without classes or amounts,
        or has too few rows.
    """
    facts = present(survey, name, path)
    where = f"{path}: target {name!r}"
    kind = facts.kind.name
    if kind in {"date", "timestamp", "time"} or facts.kind.nested:
        raise InputError(f"{where} is a {kind}: predict a number or a category made from it")
    if task == "regression" and kind not in {"integer", "number"}:
        example = f", such as {facts.kind.example!r}" if facts.kind.example else ""
        raise InputError(f"{where} is no number{example}: correct it, or use task classification")
    amount = "as asked" if task == "regression" else _amount(facts) if task == "auto" else ""
    if amount:
        return Target(name, "regression", (), amount)
    _refuse_classes(facts, where)
    why = f"{facts.distinct} whole numbers, taken as classes" if kind == "integer" else f"{facts.distinct} classes"
    return Target(name, "classification", _classes(facts), why if task == "auto" else "as asked")


def most_classes(task: str) -> int:
    """Say how many different whole numbers can still be classes.

    Parameters
    ----------
    task
        One of `TASKS`.
    """
    return {"auto": _MOST_CLASSES, "classification": LISTED, "regression": 0}[task]


def given(entry: Any) -> Target:
    """Read from a contract's entry how its target is predicted.

    Parameters
    ----------
    entry
        The target's entry, complete.
    """
    classes = tuple(item["value"] for item in entry.get("enum") or ())
    classified = bool(classes) or entry["logicalType"] not in {"integer", "number"}
    return Target(entry["name"], "classification" if classified else "regression", classes, "")


def _refuse_classes(facts: Facts, where: str) -> None:
    """Refuse a target whose values are no classes, or have too few rows to learn and to test."""
    if facts.kind.name == "string" and facts.unique:
        raise InputError(
            f"{where} is different in each of its {facts.distinct:,} rows, so there is nothing to learn: "
            "name another column"
        )
    if not facts.counts:
        raise InputError(
            f"{where} has {facts.distinct:,} different values, more than the {LISTED} classes allowed: "
            "group them, or use task regression on a number"
        )
    if facts.kind.name == "number":
        raise InputError(f"{where} has fractions such as {facts.high}, which are no classes: use task regression")
    if facts.present < 2 * len(facts.counts):
        raise InputError(f"{where} has {len(facts.counts)} classes in {facts.present} rows: add rows, or join classes")
    for value, count in facts.counts.items():
        if count < 2:
            raise InputError(f"{where}: class {value!r} has one row: add rows, join classes, or leave it out")


def present(survey: Survey, name: str, path: str) -> Facts:
    """Give the facts of the target.

    Parameters
    ----------
    survey
        The measured rows.
    name
        The target.
    path
        The source, for messages.

    Raises
    ------
    InputError
        It is missing, empty or constant, or there is only one row.
    """
    if name not in survey.facts:
        folded = {known.casefold(): known for known in survey.facts}
        close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
        hint = f"did you mean {folded[close[0]]!r}?" if close else f"it has {', '.join(list(survey.facts)[:20])}"
        raise InputError(f"{path} has no column {name!r}, the target: {hint}")
    facts = survey.facts[name]
    if facts.rows == 1:
        raise InputError(f"{path} has one row: there is nothing to learn from it")
    if not facts.present:
        raise InputError(f"{path}: target {name!r} is empty in all {facts.rows:,} rows: name another column")
    if facts.distinct == 1:
        raise InputError(
            f"{path}: target {name!r} is the same in every row, so there is nothing to learn: name another column"
        )
    return facts


def _amount(facts: Facts) -> str:
    """Say why a target is an amount rather than a class; nothing where it is a class."""
    if facts.kind.name == "number":
        return "a number"
    if facts.kind.name != "integer":
        return ""
    if facts.distinct > _MOST_CLASSES:
        return f"{facts.distinct:,} whole numbers"
    if facts.distinct > 2 and (word := mentions(facts.name, _COUNT_WORDS)):
        return f"an amount, by the word {word!r}"
    gaps = facts.high - facts.low + 1 > 2 * facts.distinct
    thin = min(facts.counts.values(), default=0) < 2
    if facts.distinct > _MOST_CLASSES / 2 and (gaps or thin):
        return f"{facts.distinct} whole numbers with gaps or single rows, taken as an amount"
    return ""


def _classes(facts: Facts) -> tuple[Any, ...]:
    """Put two classes in the order no, yes; where the words do not say, the rarer one last."""
    classes = list(facts.counts)
    if len(classes) != 2:
        return tuple(classes)
    negative = [str(value).casefold() in _NEGATIVES for value in classes]
    if sum(negative) == 1:
        return tuple(sorted(classes, key=lambda value: str(value).casefold() not in _NEGATIVES))
    return tuple(sorted(classes, key=lambda value: -facts.counts[value]))
