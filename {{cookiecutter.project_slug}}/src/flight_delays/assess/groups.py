"""Does the model treat groups of people alike? Rates and errors of each group, and the gaps between them.

For each column that the contract tags `group`: how often each group is selected (the positive class is decided), how
often rightly and how often wrongly (true and false positive rate); with several classes how often the decision is
right; in regression how far and to which side predictions err, in standard deviations of the target.

All pairs of groups are compared. A gap is a problem if it is surely beyond its bound, at a confidence shared out over
all pairs of all columns. That no gap is sure proves no fairness where groups are small: what cannot be told is noted.
"""

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import picture
from flight_delays.assess import parts
from flight_delays.assess.chance import (
    Estimate,
    blocks,
    holm,
    of_sums,
    tidy,
)
from flight_delays.assess.evidence import Evidence
from flight_delays.contract import Column
from flight_delays.features import Floats
from flight_delays.picture import BLUE, RED

SELECTION = "selection_rate"
_WORDS = {
    SELECTION: "selected",
    "true_positive_rate": "rightly selected",
    "false_positive_rate": "wrongly selected",
    "accuracy": "rightly decided",
    "mean_error": "mean error, in standard deviations of the target",
    "absolute_error": "mean size of the error, in standard deviations of the target",
}


@dataclass(frozen=True)
class _Group:
    """One number of one group.

    Attributes
    ----------
    column, name, measure
        Whose and which number.
    value
        The number.
    sums
        Its influences, summed over each block; NaN where the block has no such row.
    rows
        That it rests on.
    """

    column: str
    name: str
    measure: str
    value: float
    sums: Floats
    rows: int

    @property
    def smallest_error(self) -> float:
        """The standard error that a rate has at least, also where it is 0 or 1 (Agresti and Coull, 1998)."""
        if self.measure.endswith("_error"):
            return 0.0
        share = (self.value * self.rows + 2) / (self.rows + 4)
        return float(np.sqrt(share * (1 - share) / (self.rows + 4)))

    def estimate(self) -> Estimate:
        return _combine(self.value, (1.0, self))


@dataclass(frozen=True)
class _Pair:
    """Two groups whose numbers differ.

    Attributes
    ----------
    higher, lower
        The groups.
    beyond
        How far the gap is beyond its bound.
    gap
        The lower number as a share of the higher one for the selection rate, else their difference.
    """

    higher: _Group
    lower: _Group
    beyond: Estimate
    gap: Estimate


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Measure each group, and name the gaps that are surely beyond their bounds.

    Parameters
    ----------
    evidence
        The model and its rows.
    chosen
        `selection_ratio`, the least share of another group's selection rate that a group has; `rate_gap`, the most that
        other rates differ; `error_gap`, the same of errors in standard deviations of the target; `few`, the rows
        that a number rests on at least; `confidence`.

    Returns
    -------
    dict
        `groups` (`column`, `group`, `measure`, `rows`, `value`, `low`, `high`, `wrong`), `gaps` (the widest of each
        column and measure: `column`, `measure`, `higher`, `lower`, `value`, `low`, `high`, `bound`, `wrong`), `notes`,
        `problems`; or `does_not_apply`.
    """
    columns = [column for column in evidence.contract.columns if "group" in column.roles]
    if not columns:
        return {"does_not_apply": "no column is tagged `group`"}
    every = [group for column in columns for group in _groups(evidence, column)]
    large = [group for group in every if group.rows >= chosen["few"]]
    pairs = [_pair(*two, chosen) for two in permutations(large, 2) if _comparable(*two)]
    if not pairs:
        return {"does_not_apply": f"no two groups of {_names(columns)} have {chosen['few']} test rows"}
    chances = [pair.beyond.chance_above(0) for pair in pairs]
    levels, sure = holm(chances, 1 - chosen["confidence"])
    wrong = [pair for pair, surely in zip(pairs, sure, strict=True) if surely]
    gaps, notes, problems = [], [], []
    for column, name in dict.fromkeys((pair.higher.column, pair.higher.measure) for pair in pairs):
        here = [
            place for place, pair in enumerate(pairs) if (pair.higher.column, pair.higher.measure) == (column, name)
        ]
        widest = min(here, key=lambda place: (chances[place] if sure[place] else 1, -pairs[place].beyond.value))
        found = [pair for pair in wrong if (pair.higher.column, pair.higher.measure) == (column, name)]
        gaps.append(_entry(pairs[widest], levels[widest], chosen, bool(found)))
        if found:
            problems.append(_problem(gaps[-1], len(found) - 1))
        elif pairs[widest].beyond.value > 0:
            notes.append(f"{_gap(gaps[-1])}; that may be chance, so more rows are needed to call it fair or unfair")
    notes += _too_small([group for group in every if group.rows < chosen["few"]], chosen["few"])
    level = (1 - chosen["confidence"]) / len(large)
    marked = {id(group) for pair in wrong for group in (pair.higher, pair.lower)}
    groups = [_shown(group, level, id(group) in marked) for group in large]
    return {"few": chosen["few"], "groups": groups, "gaps": gaps, "notes": notes, "problems": problems}


def _names(columns: list[Column]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def _groups(evidence: Evidence, column: Column) -> list[_Group]:
    """Measure the groups of one column with fairlearn; what a rate leaves out does not count."""
    from fairlearn.metrics import MetricFrame, false_positive_rate, mean_prediction, selection_rate, true_positive_rate
    from sklearn.metrics import accuracy_score, mean_absolute_error

    codes, names = parts.split(evidence.rows[column.name], column)
    y, all_rows = evidence.y, np.ones(len(evidence.y), bool)
    task = evidence.contract.task
    if task == "binary":
        decided = (evidence.output >= evidence.model.threshold).astype(int)
        truth: Floats = y.astype(int)
        functions = {
            SELECTION: (selection_rate, decided, all_rows),
            "true_positive_rate": (true_positive_rate, decided, truth == 1),
            "false_positive_rate": (false_positive_rate, decided, truth == 0),
        }
    elif task == "multiclass":
        decided = evidence.output.argmax(axis=1)
        truth = y.astype(int)
        functions = {"accuracy": (accuracy_score, decided == truth, all_rows)}
    else:
        decided = (evidence.output - y) / max(y.std(), 1e-300)
        truth = np.zeros(len(y))
        functions = {
            "mean_error": (mean_prediction, decided, all_rows),
            "absolute_error": (mean_absolute_error, np.abs(decided), all_rows),
        }
    frame = MetricFrame(
        metrics={name: function for name, (function, *_) in functions.items()},
        y_true=truth,
        y_pred=decided,
        sensitive_features=codes,
    ).by_group
    _, place = np.unique(blocks(evidence), return_inverse=True)
    found = []
    for name, (_, amounts, counted) in functions.items():
        for code, group in enumerate(names):
            mask = (codes == code) & counted
            if not (codes == code).any():
                continue
            value = float(frame.loc[code, name])
            influence = (amounts[mask] - value) / max(mask.sum(), 1)
            sums = np.bincount(place[mask], influence, minlength=place.max() + 1).astype(float)
            sums[np.bincount(place[mask], minlength=place.max() + 1) == 0] = np.nan
            found.append(_Group(column.name, group, name, value, sums, int(mask.sum())))
    return found


def _comparable(higher: _Group, lower: _Group) -> bool:
    same = (higher.column, higher.measure) == (lower.column, lower.measure)
    return same and (higher.value, higher.name) > (lower.value, lower.name)


def _combine(value: float, *terms: tuple[float, _Group]) -> Estimate:
    """Estimate a weighted sum of groups' numbers, over the blocks in which any of them has rows."""
    sums = np.array([weight * group.sums for weight, group in terms])
    found = of_sums(value, np.nansum(sums[:, ~np.isnan(sums).all(axis=0)], axis=0))
    least = float(np.sqrt(sum((weight * group.smallest_error) ** 2 for weight, group in terms)))
    return replace(found, error=max(found.error, least))


def _pair(higher: _Group, lower: _Group, chosen: dict[str, Any]) -> _Pair:
    if higher.measure == SELECTION:
        share, ratio = chosen["selection_ratio"], lower.value / max(higher.value, 1e-300)
        beyond = _combine(share * higher.value - lower.value, (share, higher), (-1.0, lower))
        scale = 1 / max(higher.value, 1e-9)
        return _Pair(higher, lower, beyond, _combine(ratio, (scale, lower), (-ratio * scale, higher)))
    gap = _combine(higher.value - lower.value, (1.0, higher), (-1.0, lower))
    return _Pair(higher, lower, replace(gap, value=gap.value - _bound(higher.measure, chosen)), gap)


def _bound(name: str, chosen: dict[str, Any]) -> float:
    if name == SELECTION:
        return chosen["selection_ratio"]
    return chosen["error_gap"] if name.endswith("_error") else chosen["rate_gap"]


def _entry(pair: _Pair, level: float, chosen: dict[str, Any], wrong: bool) -> dict[str, Any]:
    margin = pair.gap.margin(level)
    ends = {"value": pair.gap.value, **_ends(pair.higher.measure, pair.gap.value, margin)}
    sides = {"higher": pair.higher.name, "lower": pair.lower.name}
    numbers = {
        "of_higher": pair.higher.value,
        "of_lower": pair.lower.value,
        "bound": _bound(pair.higher.measure, chosen),
    }
    names = {"column": pair.higher.column, "measure": pair.higher.measure, **sides, "wrong": wrong}
    return names | {key: tidy(number) for key, number in (ends | numbers).items()}


def _ends(name: str, value: float, margin: float) -> dict[str, float]:
    low, high = value - margin, value + margin
    return {"low": low, "high": high} if name.endswith("_error") else {"low": max(low, 0), "high": min(high, 1)}


def _shown(group: _Group, level: float, wrong: bool) -> dict[str, Any]:
    margin = group.estimate().margin(level)
    numbers = {"value": group.value, **_ends(group.measure, group.value, margin)}
    names = {"column": group.column, "group": group.name, "measure": group.measure, "rows": group.rows, "wrong": wrong}
    return names | {key: tidy(number) for key, number in numbers.items()}


def _too_small(groups: list[_Group], few: int) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        found.setdefault((group.column, group.measure), []).append(f"{group.name} ({group.rows})")
    return [
        f"column {column!r}: fewer than {few} rows tell the {name.replace('_', ' ')} of {', '.join(names)}"
        for (column, name), names in found.items()
    ]


def _gap(entry: dict[str, Any]) -> str:
    """Say how far two groups are apart, and how far they may be."""
    apart = f"{entry['value']:.3g} ({entry['low']:.3g} to {entry['high']:.3g})"
    name = entry["measure"].replace("_", " ")
    if entry["measure"] == SELECTION:
        far, allowed = f"a ratio of {apart}", f"at least {entry['bound']:g}"
    else:
        far, allowed = f"a gap of {apart}", f"at most {entry['bound']:g}"
    return (
        f"column {entry['column']!r}: the {name} is {entry['of_lower']:.3g} for {entry['lower']!r} and "
        f"{entry['of_higher']:.3g} for {entry['higher']!r}, {far} where {allowed} is allowed"
    )


def _problem(entry: dict[str, Any], others: int) -> str:
    more = f" (and {others} more pairs of groups)" if others else ""
    return (
        f"{_gap(entry)}{more}: look for what differs between these groups, in the rows, the target and the features, "
        "and mend it; or, if it is meant, say so and set the bound in params.yaml, assess.groups"
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the numbers of each group with their intervals.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    names = list(dict.fromkeys(one["measure"] for one in found["groups"]))
    shown = {
        name: picture.worst_first(
            [one for one in found["groups"] if one["measure"] == name], lambda one: bool(one["wrong"])
        )
        for name in names
    }
    wrong = sorted({gap["column"] for gap in found["gaps"] if gap["wrong"]})
    title = (
        f"Groups are surely treated unlike: {', '.join(wrong)}"
        if wrong
        else "No group is surely treated unlike another"
    )
    figure, grid = picture.start(title, *(len(groups) for groups in shown.values()))
    for axes, (name, groups) in zip(grid, shown.items(), strict=True):
        for line, one in enumerate(groups):
            picture.interval(axes, line, one, RED if one["wrong"] else BLUE)
        axes.set_xlabel(f"{name.replace('_', ' ')}: {_WORDS[name]}")
        picture.name_lines(axes, [f"{one['column']} = {one['group']} ({one['rows']:,})" for one in groups])
    picture.finish(figure, path)


def say(found: dict[str, Any]) -> str:
    """Say in tables how far groups are apart, and what each group's numbers are.

    Parameters
    ----------
    found
        From `measure`.
    """
    lines = ["The widest gap of each column and measure:", ""]
    lines += ["| column | measure | from | to | gap | bound | |", "|---|---|---|---|---|---|---|"]
    for gap in found["gaps"]:
        bound = f"ratio ≥ {gap['bound']:g}" if gap["measure"] == SELECTION else f"≤ {gap['bound']:g}"
        sides = f"{gap['lower']} {gap['of_lower']:.3g} | {gap['higher']} {gap['of_higher']:.3g}"
        apart = f"{gap['value']:.3g} ({gap['low']:.3g} to {gap['high']:.3g})"
        verdict = "**surely beyond**" if gap["wrong"] else "not surely beyond"
        lines.append(f"| `{gap['column']}` | {gap['measure']} | {sides} | {apart} | {bound} | {verdict} |")
    lines += ["", "| group | measure | rows | |", "|---|---|---|---|"]
    for one in found["groups"]:
        spread = f"{one['value']:.3g} ({one['low']:.3g} to {one['high']:.3g})"
        lines.append(f"| {one['column']} = {one['group']} | {one['measure']} | {one['rows']:,} | {spread} |")
    return "\n".join([*lines, "", *(f"- {note}." for note in found["notes"])]).rstrip()
