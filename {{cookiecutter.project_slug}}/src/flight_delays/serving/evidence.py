"""Shall the challenger take over? Says promote, roll back or wait, from the prediction log and the labels that came.

Both models answer the assigned requests on the same rows, so all comparisons are paired. Each check is a number with
a confidence sequence (see `sequences`), so that looking after each batch of records costs nothing, and the
probability of error is shared out over the checks (Bonferroni). A request is one observation, whatever its rows, since
rows that are sent together are seldom independent.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.serving.sequences import Floats, Rate, Ratio

_BLOCK = 50  # requests that are looked at together; in it each is compared with the one half a block on, not with the
# next, which is likelier to come from the same sender
_FIRST = 100  # observations before a mean counts: its interval is sure for many only
_WAITING = 10_000  # halves of pairs that are waited for
_KEPT = 2_000_000  # numbers among the outputs that are kept for labels to come: 16 MB for each model
_LARGEST = 1e100  # beyond it, an output is as good as infinite
_EXTREME = 30  # typical values from which on a number is cut: one of them would outweigh all others
_SMALLEST = 1e-3  # probability of what happened, for the same reason
_CHECKS = ("failures", "warnings", "latency", "spread", "shift", "disagreement", "decisions", "loss")
_DIFFERENCES = {"shift", "disagreement", "decisions"}  # what a better model may be forgiven

Pair = tuple[Floats, Floats]


@dataclass(frozen=True)
class Verdict:
    """What the evidence says by now.

    Attributes
    ----------
    action
        `wait`, `promote` or `roll back`.
    reason
        In one line, with the numbers it rests on.
    checks
        Of each check: `name`, `count` of observations, `value`, `low`, `high`, `bound` (the lowest and the highest
        that is allowed) and `state`: `inside`, `outside`, `undecided`, or `unknown` where nothing was recorded.
    """

    action: str
    reason: str
    checks: list[dict[str, Any]]


class Evidence:
    """What is known about a challenger beside its champion; memory does not grow with the log.

    The checks, each with its bound of the same name in `chosen`:

    - `failures`: the share of requests on which the challenger fails and the champion does not: an exception, a
      wrong shape, what is not finite or no probability, or an answer that never came (it may have ended the process);
    - `warnings`: the share of requests on which only the challenger's contract is violated, where that is recorded;
    - `latency`: the challenger's mean milliseconds over the champion's;
    - `spread`: the mean distance between its outputs for two requests, over that between the champion's;
    - `shift`: the mean difference of the outputs, over the mean distance between the champion's for two requests;
    - `disagreement`: how differently the two models set two requests apart, from 0 to 1: 0.71 without any relation
      between normal outputs, whatever their level and about whatever their spread;
    - `decisions`: the share of rows on which the two decide differently; none in regression;
    - `loss`: the challenger's mean loss over the champion's, once labels come: log loss, or absolute error.

    Distances between outputs are absolute differences, for many classes the total variation. Numbers that have no
    bounds of their own are cut at 30 times what is typical of the champion.

    Parameters
    ----------
    contract
        The project's contract.
    champion_version, challenger_version
        As in the log's records.
    release_id
        Records of other releases are passed over.
    chosen
        The section `serve.canary` of `params.yaml`.
    thresholds
        From which probability on the champion and the challenger decide for the positive class.

    Attributes
    ----------
    unpaired
        How many answers were given up whose other half never came.

    Raises
    ------
    InputError
        A bound in `chosen` cannot be met, or means nothing.
    """

    def __init__(
        self,
        contract: Contract,
        champion_version: str,
        challenger_version: str,
        release_id: str,
        chosen: dict[str, Any],
        thresholds: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        _refuse(chosen)
        self.unpaired = 0
        self._versions = (champion_version, challenger_version)
        self._release, self._chosen, self._thresholds = release_id, chosen, thresholds
        self._task = contract.task
        self._width = len(contract.classes) if contract.task == "multiclass" else 1
        self._places = {value: place for place, value in enumerate(contract.classes)}
        self._level = (1 - chosen["confidence"]) / len(_CHECKS)
        self._rates = {name: Rate(chosen[name]) for name in ("failures", "warnings", "decisions")}
        least = chosen["least"]
        self._ratios = {name: Ratio(least) for name in ("latency", "loss")}
        self._ratios |= {name: Ratio(least / 2) for name in ("spread", "shift", "disagreement")}  # two requests each
        self._waiting: OrderedDict[str, dict[str, Any] | None] = OrderedDict()
        self._block: list[tuple[Floats, Floats, float, float]] = []
        self._names: list[str] = []  # of the block's requests
        self._farthest = self._slowest = np.inf
        self._kept: OrderedDict[str, Pair] = OrderedDict()
        self._size = 0
        self._early: OrderedDict[str, dict[int, Any]] = OrderedDict()

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Take records of the prediction log in, in any order and in any portions.

        Parameters
        ----------
        records
            Answers, and what the other model gave for the same requests; what does not concern this pair of models is
            passed over.
        """
        for record in records:
            if record["release"] != self._release or record["version"] not in self._versions:
                continue
            if record["kind"] == "answer" and not record["assigned"]:
                continue
            name = record["id"]
            if record["kind"] == "answer" and (record.get("failed") or {}).get("version") == self._versions[1]:
                if name in self._waiting:
                    del self._waiting[name]
                else:
                    self._waiting[name] = None  # the other half, if it is written at all, says nothing new
                self._rates["failures"].add(1, 1)
            elif name not in self._waiting:
                self._waiting[name] = record
            elif (other := self._waiting[name]) is None:
                del self._waiting[name]
            elif other["kind"] != record["kind"]:
                del self._waiting[name]
                self._pair(*((other, record) if other["kind"] == "answer" else (record, other)))
            if len(self._waiting) > _WAITING:
                self._give_up(self._waiting.popitem(last=False)[1])

    def labels(self, truths: Mapping[tuple[str, int], Any]) -> None:
        """Take labels in, before or after the requests that they belong to.

        Parameters
        ----------
        truths
            By request id and place of the row in the request, the target's value; each row once.
        """
        found: dict[str, dict[int, Any]] = {}
        for (name, place), truth in truths.items():
            found.setdefault(name, {})[place] = truth
        for name, rows in found.items():
            if name in self._kept:
                self._compare(self._kept[name], rows)
                continue
            self._early.setdefault(name, {}).update(rows)
            if len(self._early) > _WAITING:
                self._early.popitem(last=False)

    def verdict(self) -> Verdict:
        """Say what the evidence allows by now."""
        checks = self._checks()
        states = {check["name"]: check["state"] for check in checks}
        better = states["loss"] == "inside" and checks[-1]["high"] < 1
        count, chosen = self._rates["failures"].count, self._chosen
        judged = [check for check in checks if not (better and check["name"] in _DIFFERENCES)]
        outside = [check for check in judged if check["state"] == "outside"]
        if chosen["labels"] and states["loss"] in {"undecided", "unknown"}:  # labels may yet forgive a difference
            outside = [check for check in outside if check["name"] not in _DIFFERENCES]
        if outside:
            words = "; ".join(map(_words, outside))
            return Verdict("roll back", f"after {count:,} requests answered by both: {words}", checks)
        undecided = [check for check in judged if check["state"] not in {"inside", "unknown"}]
        words = "; ".join(map(_words, undecided))
        labelled = self._ratios["loss"].count
        enough = count >= chosen["least"] and labelled >= chosen["labels"]
        if enough and not undecided:
            words = "; ".join(_words(check) for check in judged if check["state"] == "inside")
            return Verdict("promote", f"after {count:,} requests answered by both: {words}", checks)
        if count >= chosen["most"]:
            words = words or f"{labelled:,} of {chosen['labels']:,} labelled requests"
            return Verdict(
                "roll back", f"not enough evidence after {count:,} requests answered by both: {words}", checks
            )
        wanted = f"{count:,} of at least {chosen['least']:,} requests answered by both"
        if chosen["labels"]:
            wanted += f", {labelled:,} of {chosen['labels']:,} with labels"
        return Verdict("wait", "; ".join(filter(None, [wanted, words])), checks)

    def _checks(self) -> list[dict[str, Any]]:
        bounds = {name: (None, self._chosen[name]) for name in _CHECKS}
        bounds["spread"] = (1 / self._chosen["spread"], self._chosen["spread"])
        bounds["shift"] = (-self._chosen["shift"], self._chosen["shift"])
        bounds["loss"] = (None, 1 + self._chosen["loss"])
        checks = []
        for name in _CHECKS:
            source = self._rates[name] if name in self._rates else self._ratios[name]
            lowest, highest = bounds[name]
            value, low, high = self._interval(name)
            enough = name in self._rates or source.count >= _FIRST
            if not source.count or (name == "loss" and not enough):
                state = "unknown" if name in {"warnings", "decisions", "loss"} else "undecided"
            elif not enough:
                state = "undecided"
            elif low > highest or (lowest is not None and high < lowest):
                state = "outside"
            else:
                state = "inside" if high <= highest and (lowest is None or low >= lowest) else "undecided"
            numbers = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
            checks.append({"name": name, "count": source.count, **numbers, "bound": bounds[name], "state": state})
        return checks

    def _interval(self, name: str) -> tuple[float, float, float]:
        if name in self._rates:
            return self._rates[name].interval(self._level)
        # of many classes, the one whose mean moved most, at a level that is shared out over them
        values, lows, highs = self._ratios[name].interval(self._level / (self._width if name == "shift" else 1))
        most = int(np.nan_to_num(np.abs(values)).argmax())
        return float(values[most]), float(lows[most]), float(highs[most])

    def _pair(self, answer: dict[str, Any], second: dict[str, Any]) -> None:
        if answer["version"] == second["version"]:
            return
        champion, challenger = (answer, second) if answer["version"] == self._versions[0] else (second, answer)
        rows = len(answer["rows"])
        ours, theirs = self._output(challenger, rows), self._output(champion, rows)
        self._rates["failures"].add(1, ours is None and theirs is not None)
        if "warnings" in second:
            self._rates["warnings"].add(1, challenger["warnings"] > champion["warnings"])
        if ours is None or theirs is None:
            return
        self._block.append((theirs, ours, champion["ms"], challenger["ms"]))
        self._names.append(answer["id"])
        if len(self._block) == _BLOCK:
            self._look(self._block)
            for name, (other, output, *_) in zip(self._names, self._block, strict=True):
                self._keep(name, (other, output))
            self._block, self._names = [], []

    def _output(self, record: dict[str, Any], rows: int) -> Floats | None:
        """Give a model's output, of shape (rows, outputs), or nothing where it failed."""
        try:
            output = np.array(record["output"], dtype=float)
        except (TypeError, ValueError):
            return None
        if not rows or output.shape != ((rows, self._width) if self._task == "multiclass" else (rows,)):
            return None
        lowest, highest = (0, 1) if self._places else (-_LARGEST, _LARGEST)
        if not ((output >= lowest) & (output <= highest)).all():  # NaN is neither
            return None
        return output.reshape(rows, -1)

    def _give_up(self, half: dict[str, Any] | None) -> None:
        """Count a half whose other one never came: against the challenger, where that one is missing."""
        if half is not None and half["kind"] == "answer":
            self.unpaired += 1
            self._rates["failures"].add(1, half["version"] == self._versions[0])

    def _look(self, block: list[tuple[Floats, Floats, float, float]]) -> None:
        """Compare the outputs of some requests, and the time they took."""
        outputs = [np.concatenate([entry[model] for entry in block]) for model in (0, 1)]
        counts = np.array([len(entry[0]) for entry in block])
        starts = counts.cumsum() - counts
        half = len(block) // 2
        shared = np.minimum(counts[:half], counts[half:])  # rows that each of two requests has
        firsts = shared.cumsum() - shared
        places = np.arange(shared.sum()) - firsts.repeat(shared)
        one, other = (starts[part].repeat(shared) + places for part in (slice(half), slice(half, None)))
        theirs, ours = (output[one] - output[other] for output in outputs)
        theirs, ours, both = (np.add.reduceat(_size(apart), firsts) / shared for apart in (theirs, ours, ours - theirs))
        if self._task == "regression" and np.isinf(self._farthest) and theirs.any():
            self._farthest = _EXTREME * float(theirs.mean())
        theirs, ours, both = (np.minimum(values, self._farthest) for values in (theirs, ours, both))
        moved = np.add.reduceat(outputs[1] - outputs[0], starts) / counts[:, None]
        moved = moved.clip(-self._farthest, self._farthest)
        self._ratios["spread"].add(ours[:, None], theirs)
        self._ratios["shift"].add((moved[:half] + moved[half:]) / 2, theirs)
        self._ratios["disagreement"].add(both[:, None], theirs + ours)
        if self._task != "regression":
            differ = self._decide(outputs[0], 0) != self._decide(outputs[1], 1)
            self._rates["decisions"].add(
                len(block), float((np.add.reduceat(differ, starts, dtype=float) / counts).sum())
            )
        usual, new = (np.array([entry[place] for entry in block], dtype=float) for place in (2, 3))
        if np.isinf(self._slowest):
            self._slowest = _EXTREME * float(np.median(usual))
        self._ratios["latency"].add(np.minimum(new, self._slowest)[:, None], np.minimum(usual, self._slowest))

    def _decide(self, output: Floats, model: int) -> Any:
        return output.argmax(axis=1) if self._width > 1 else output[:, 0] >= self._thresholds[model]

    def _keep(self, name: str, pair: Pair) -> None:
        """Keep outputs until their labels come, unless they have come already."""
        if rows := self._early.pop(name, None):
            self._compare(pair, rows)
        self._size += pair[0].size
        if name in self._kept:
            self._size -= self._kept.pop(name)[0].size
        self._kept[name] = pair
        while self._size > _KEPT:
            self._size -= self._kept.popitem(last=False)[1][0].size

    def _compare(self, pair: Pair, rows: dict[int, Any]) -> None:
        """Compare the losses of one request's labelled rows."""
        known = {place: truth for place, truth in rows.items() if place < len(pair[0])}
        if self._places:
            known = {place: self._places[truth] for place, truth in known.items() if truth in self._places}
        if not known:
            return
        truths, places = np.array(list(known.values()), dtype=float), list(known)
        theirs, ours = (np.minimum(self._loss(truths, output[places]), self._farthest).mean() for output in pair)
        self._ratios["loss"].add(np.array([[ours]]), np.array([theirs]))

    def _loss(self, truths: Floats, output: Floats) -> Floats:
        if self._task == "regression":
            return np.abs(truths - output[:, 0])
        if self._task == "binary":
            right = np.where(truths == 1, output[:, 0], 1 - output[:, 0])
        else:
            right = output[np.arange(len(truths)), truths.astype(int)] / np.maximum(output.sum(axis=1), _SMALLEST)
        return -np.log(np.clip(right, _SMALLEST, 1))


def _refuse(chosen: dict[str, Any]) -> None:
    """Refuse bounds that no challenger could ever keep, or none could break."""
    ranges: dict[str, tuple[float, float]] = dict.fromkeys(("latency", "spread"), (1, np.inf))
    ranges |= dict.fromkeys(("confidence", "failures", "warnings", "decisions", "disagreement"), (0, 1))
    ranges |= dict.fromkeys(("shift", "loss"), (0, np.inf))
    for name, (low, high) in ranges.items():
        if not low < chosen[name] < high:
            allowed = f"above {low}" + (f" and below {high}" if np.isfinite(high) else "")
            raise InputError(f"params.yaml: serve.canary.{name} is {chosen[name]}: it must be {allowed}")
    if not 0 < chosen["least"] <= chosen["most"]:
        raise InputError("params.yaml: serve.canary.least must be above 0, and at most serve.canary.most")


def _size(differences: Floats) -> Floats:
    """Give the distance of outputs: the absolute difference, for many classes the total variation."""
    return np.abs(differences).sum(axis=1) / (2 if differences.shape[1] > 1 else 1)


def _words(check: dict[str, Any]) -> str:
    """Write a check in words: `latency 3.1 (2.8 to 3.5, allowed: at most 2)`."""
    lowest, highest = check["bound"]
    allowed = f"at most {highest:.4g}" if lowest is None else f"{lowest:.4g} to {highest:.4g}"
    value, low, high = ("?" if check[key] is None else f"{check[key]:.4g}" for key in ("value", "low", "high"))
    return f"{check['name']} {value} ({low} to {high}, allowed: {allowed})"


def _plain(number: float) -> float | None:
    return float(f"{number:.6g}") if np.isfinite(number) else None
