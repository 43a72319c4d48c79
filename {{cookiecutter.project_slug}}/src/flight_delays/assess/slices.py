"""On which slices of the rows is the model not good enough? Those of the contract, and weak regions that are found.

Two kinds are looked at. The values of each column that the contract tags `slice` are held to a floor: the score that
keeps a share of what the model gains over a constant on all rows. A slice is below only if its whole interval is, at a
confidence shared out over all slices; those too small to tell are listed, and blamed for nothing.

And weak regions are searched for that nobody thought of, as `regions` says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays import baselines, picture, scores
from flight_delays.assess import parts, regions
from flight_delays.assess.chance import (
    Estimate,
    Places,
    area_under_curve,
    blocks,
    estimate,
    holm,
    mean,
    tidy,
)
from flight_delays.assess.evidence import Evidence, count
from flight_delays.features import Floats
from flight_delays.picture import BLUE, GREY, RED

Mask = NDArray[np.bool_]


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Score the contract's slices, and search for weak regions.

    Parameters
    ----------
    evidence
        The model and its rows.
    chosen
        `floor`, the share of the advantage over a constant that each slice keeps; `few` and `few_of_class`, the rows
        below which a slice tells nothing; `confidence`.

    Returns
    -------
    dict
        `score`, `overall`, `slices` (`slice`, `rows`, `told`; if so, `value`, `low`, `high`, `floor` and `weak`), worst
        first; `regions` (`region`, `rows`, `model`, `constant`, and how much `worse` with `low` and `high`; `weak`);
        `few`, `problems`.
    """
    contract, name = evidence.contract, evidence.score.name
    common = {"score": name, "floor": chosen["floor"], "few": chosen["few"], "confidence": chosen["confidence"]}
    if contract.classes and len(np.unique(evidence.y)) < 2:
        problem = (
            f"the test rows hold one class of {contract.target.name!r} only: enlarge split.test, or bring more rows"
        )
        return common | {"overall": None, "slices": [], "regions": [], "problems": [problem]}
    training = evidence.training()
    view = _View.of(evidence)
    overall = view.score(np.ones(len(evidence.y), bool))
    entries, told = [], []
    for label, mask in _slices(evidence):
        entry = {"slice": label, "rows": int(mask.sum()), "told": view.enough(mask, chosen)}
        entries.append(entry)
        if entry["told"]:
            told.append((entry, view.score(mask), view.floor(mask, overall.value, chosen["floor"])))
    found = regions.search(evidence, training, view.block, chosen["few"])
    chances = [view.chance_of_weak(one, floor) for _, one, floor in told] + [one.worse.chance_above(0) for one in found]
    levels, weak = holm(chances, 1 - chosen["confidence"])
    for (entry, one, floor), level, below in zip(told, levels, weak, strict=False):
        margin = one.margin(level)
        low, high = max(one.value - margin, 0), min(one.value + margin, 1 if view.greater else np.inf)
        ends = {"value": one.value, "low": low, "high": high, "floor": floor}
        entry |= {key: tidy(number) for key, number in ends.items()} | {"weak": below}
    worst_first = sorted(told, key=lambda item: item[1].value * (1 if view.greater else -1))
    ordered = [entry for entry, *_ in worst_first] + [entry for entry in entries if not entry["told"]]
    shown = [
        one.entry(level, below) for one, level, below in zip(found, levels[len(told) :], weak[len(told) :], strict=True)
    ]
    problems = [_problem(entry, name) for entry in ordered if entry["told"] and entry["weak"]]
    problems += [regions.problem(entry) for entry in shown if entry["weak"]]
    if view.advantage().chance_above(0) > 1 - chosen["confidence"]:
        sure = f"{name} {overall.value:.4g}, confidence {chosen['confidence']:g}"
        words = f"the model is not surely better than a constant ({sure}), so no slice can be: bring more rows"
        problems.insert(0, f"all {count(contract, evidence.y)} rows: {words}, or features that tell more")
    return common | {"overall": tidy(overall.value), "slices": ordered, "regions": shown, "problems": problems}


def _slices(evidence: Evidence) -> list[tuple[str, Mask]]:
    found = []
    for column in evidence.contract.slices:
        codes, names = parts.split(evidence.rows[column.name], column)
        found += [(f"{column.name} = {name}", codes == code) for code, name in enumerate(names)]
    return [(label, mask) for label, mask in found if mask.any()]


@dataclass(frozen=True)
class _View:
    """The rows as scores see them."""

    task: str
    greater: bool
    y: Floats
    output: Floats
    loss: Floats
    constant: Floats  # the loss of each row under the constant that is best for all: the average of these very rows
    block: Places

    @classmethod
    def of(cls, evidence: Evidence) -> "_View":
        contract, y = evidence.contract, evidence.y
        loss = scores.losses(contract.task, y, evidence.output)
        constant = scores.losses(contract.task, y, baselines.constant(contract, y, len(y)))
        greater = evidence.score.greater_is_better
        return cls(contract.task, greater, y, evidence.output, loss, constant, blocks(evidence))

    def enough(self, mask: Mask, chosen: dict[str, Any]) -> bool:
        least = np.unique(self.y[mask], return_counts=True)[1].min() if self.task == "binary" else np.inf
        both = self.task != "binary" or len(np.unique(self.y[mask])) == 2
        return bool(mask.sum() >= chosen["few"] and both and least >= chosen["few_of_class"])

    def score(self, mask: Mask) -> Estimate:
        """Estimate the deciding score; of the root of a mean, by the delta method."""
        if self.task == "binary":
            return area_under_curve(self.y[mask], self.output[mask], self.block[mask])
        if self.task == "multiclass":
            return mean(self.loss[mask], self.block[mask])
        square = self.loss[mask].mean()
        root = max(np.sqrt(square), 1e-300)
        return estimate(root, (self.loss[mask] - square) / (2 * root * mask.sum()), self.block[mask])

    def floor(self, mask: Mask, overall: float, share: float) -> float:
        """Give the score that keeps a share of the advantage over the constant.

        A loss also depends on how much there is to miss in a slice, so there the advantage is the share of the
        constant's loss that the model saves; and a loss no larger than on all rows is good enough.
        """
        if self.task == "binary":
            return 0.5 + share * max(overall - 0.5, 0)
        power = 0.5 if self.task == "regression" else 1.0
        everywhere, here = float(self.constant.mean()) ** power, float(self.constant[mask].mean()) ** power
        saved = max(1 - overall / everywhere, 0) if everywhere else 0.0
        return max(here * (1 - share * saved), overall)

    def chance_of_weak(self, found: Estimate, floor: float) -> float:
        return found.chance_below(floor) if self.greater else found.chance_above(floor)

    def advantage(self) -> Estimate:
        if self.task == "binary":
            found = area_under_curve(self.y, self.output, self.block)
            return Estimate(found.value - 0.5, found.error, found.freedom)
        return mean(self.constant - self.loss, self.block)


def _problem(entry: dict[str, Any], score: str) -> str:
    spread = f"{entry['value']:.4g} ({entry['low']:.4g} to {entry['high']:.4g})"
    return (
        f"slice {entry['slice']!r}: {score} {spread} on {entry['rows']:,} rows is surely worse than its floor "
        f"{entry['floor']:.4g}: look at its rows, bring more of them or a feature that tells them apart; "
        "or, if it may be so, drop the column's tag `slice` in contract.yaml"
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw each slice's score with its interval and floor, and below them how the regions fare against a constant.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    slices = picture.worst_first([one for one in found["slices"] if one["told"]], lambda one: bool(one["weak"]))
    weak = [one["slice"] for one in found["slices"] if one["told"] and one["weak"]]
    weak += [one["region"] for one in found["regions"] if one["weak"]]
    title = (
        f"Weak: {weak[0]}" + (f" and {len(weak) - 1} more" if weak[1:] else "") if weak else "No slice is surely weak"
    )
    figure, (axes, *more) = picture.start(title, *([len(slices)] + [len(found["regions"])] * bool(found["regions"])))
    for line, one in enumerate(slices):
        picture.interval(axes, line, one, RED if one["weak"] else BLUE)
        axes.plot([one["floor"]] * 2, [line - 0.5, line + 0.5], color=RED, lw=1.2, zorder=0)
    if found["overall"] is not None:
        axes.axvline(found["overall"], color=GREY, lw=1, zorder=0)
    axes.set_xlabel(f"{found['score']}; grey: on all rows, red: the floor")
    picture.name_lines(axes, [f"{one['slice']} ({one['rows']:,})" for one in slices] or ["no slice is large enough"])
    for below in more:
        for line, one in enumerate(found["regions"]):
            picture.interval(below, line, one, RED if one["weak"] else BLUE)
        below.axvline(0, color=RED, lw=1.2, zorder=0)
        below.set_xlabel("found: loss beyond that of a constant; red: no better than it")
        picture.name_lines(below, [f"{one['region']} ({one['rows']:,})" for one in found["regions"]])
    picture.finish(figure, path)


def say(found: dict[str, Any]) -> str:
    """Say in tables how each slice and each found region fares.

    Parameters
    ----------
    found
        From `measure`.
    """
    lines = [
        (
            f"A slice must keep {found['floor']:.0%} of what the model gains over a constant on all rows. It is weak "
            "if its whole interval is beyond that floor; with a probability of "
            f"{found['confidence']:g}, none is called so by chance."
        ),
        "",
        f"| slice | rows | {found['score']} | floor | |",
        "|---|---|---|---|---|",
    ]
    for one in found["slices"]:
        score, floor, verdict = "", "", "too small to tell"
        if one["told"]:
            score, floor = f"{one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g})", f"{one['floor']:.4g}"
            verdict = "**weak**" if one["weak"] else "good"
        lines.append(f"| {one['slice']} | {one['rows']:,} | {score} | {floor} | {verdict} |")
    if not found["slices"]:
        lines = ["No column is tagged `slice`."]
    if not found["regions"]:
        return "\n".join([*lines, "", "A search for weak regions found none worth a check."])
    lines += [
        "",
        "Regions where the model seemed weak on one half of the rows, checked on the other half against always ",
    ]
    lines[-1] += "saying what was usual there in training:"
    lines += ["", "| region | rows | model's loss | constant's loss | worse by | |", "|---|---|---|---|---|---|"]
    for one in found["regions"]:
        worse = f"{one['value']:.3g} ({one['low']:.3g} to {one['high']:.3g})"
        numbers = f"{one['rows']:,} | {one['model']:.4g} | {one['constant']:.4g} | {worse}"
        lines.append(f"| {one['region']} | {numbers} | {'**weak**' if one['weak'] else 'good'} |")
    return "\n".join(lines)
