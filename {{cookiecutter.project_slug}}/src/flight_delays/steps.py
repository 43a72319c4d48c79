"""How do people read an explanation? As text, step by step, and as a picture of what moved the score."""

from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import picture
from flight_delays.contract import Contract
from flight_delays.features import Floats
from flight_delays.picture import BLUE, GREY, RED

_BARS = 12  # of the picture; the smaller contributions share the last
_ASKED = {
    "values": "one of {}",
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} characters or more",
    "maxLength": "{} characters at most",
    "pattern": "like {}",
}

Json = dict[str, Any]


def tell(found: Json, contract: Contract, title: str, truth: Any = None) -> None:
    """Print the steps for a person.

    Parameters
    ----------
    found
        From `explain.explain`.
    contract
        The model's.
    title
        What the row is.
    truth
        The target's value, where it is known.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"\n{title}", markup=False)
    checked = Table("column", "value", "asked for", "", title="1 contract", title_justify="left")
    for step in found["columns"]:
        checked.add_row(step["column"], _short(step["value"]), _asked(step["rules"]), step["message"] or "ok")
    console.print(checked, markup=False)
    moved = Table("feature", "number", "moves the score by", title="2 encoding and model", title_justify="left")
    most = max(abs(step["contribution"]) for step in found["features"]) or 1
    moved.add_row("(start)", "", f"{found['start']:+.4f}", end_section=True)
    for step in found["features"]:
        bar = "█" * round(20 * abs(step["contribution"]) / most)
        moved.add_row(step["feature"], _number(step["number"]), f"{step['contribution']:+.4f} {bar}")
    moved.add_section()
    moved.add_row(f"{found['scale']}{_of(found, contract)}", "", f"{found['score']:+.4f}")
    console.print(moved, markup=False)
    console.print("3 decision", style="italic")
    console.print(decision(found, contract, truth), markup=False, soft_wrap=True)


def decision(found: Json, contract: Contract, truth: Any = None) -> str:
    """Say in a sentence or two what was decided, why, and whether it was right.

    Parameters
    ----------
    found
        From `explain.explain`.
    contract
        The model's.
    truth
        The target's value, where it is known.
    """
    name, answer = contract.target.name, found["prediction"]
    known = f" In truth it is {_short(truth)}." if truth is not None else ""
    if contract.task == "regression":
        return f"{name} is {answer:.6g}.{known}"
    if truth is not None:
        known = f" In truth it is {truth}: {'right' if truth == answer else 'wrong'}."
    if contract.task == "multiclass":
        shares = zip(contract.classes, found["output"], strict=True)
        ranked = ", ".join(f"{label} {share:.3g}" for label, share in sorted(shares, key=lambda pair: -pair[1])[:5])
        return f"{name} is {answer}, the most probable: {ranked}.{known}"
    limit, label = found["threshold"], found["of"]
    side = "reaches" if found["output"] >= limit else "is below"
    costs = f"a missed {label} costs {(1 - limit) / limit:.3g} times a false one"
    words = f"the probability of {label}, {found['output']:.4g}, {side} the threshold {limit:.4g} ({costs})"
    return f"{name} is {answer}: {words}.{known}"


def draw(found: Json, contract: Contract, path: Path, truth: Any = None) -> None:
    """Draw how the features move the score, step by step from the start to the answer.

    Parameters
    ----------
    found
        From `explain.explain`.
    contract
        The model's.
    path
        The picture to write.
    truth
        The target's value, where it is known.
    """
    steps = sorted(found["features"], key=lambda step: -abs(step["contribution"]))
    bars = [(_label(step), step["contribution"]) for step in steps[:_BARS]]
    if rest := steps[_BARS:]:
        bars.append((f"{len(rest)} more", sum(step["contribution"] for step in rest)))
    ends = found["start"] + np.cumsum([0.0, *(size for _, size in bars)])
    figure, axes = picture.pyplot().subplots(figsize=(8, 1.7 + 0.3 * len(bars)))
    for place, (_, size) in enumerate(bars):
        axes.barh(place, size, left=ends[place], height=0.62, color=BLUE if size > 0 else GREY)
        axes.plot([ends[place + 1]] * 2, [place - 0.31, min(place + 1.31, len(bars) - 0.1)], color="#555555", lw=0.7)
    axes.text(ends[-1], len(bars) - 0.05, "this row", ha="center", va="top", fontsize=8)
    axes.axvline(ends[0], color="#555555", lw=0.7, ls=":")
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) + 0.5, -0.5)
    low, high = min(ends), max(ends)
    limit = _place_of_threshold(found)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
        axes.axvline(limit, color=RED, lw=1, ls="--")
        axes.text(limit, -0.6, f"{found['of']} from here", color=RED, ha="center", va="bottom", fontsize=8)
    margin = 0.08 * (high - low) or 1
    axes.set_xlim(low - margin, high + margin)
    scale = found["scale"]
    if scale == "log-odds":  # evenly in log-odds, named by the probability
        scale, ticks = "probability", _shares(low - margin, high + margin)
        axes.set_xticks(np.log(ticks / (1 - ticks)), [f"{tick:.3g}" for tick in ticks])
    words = "blue raises it, grey lowers it; dotted: where every row starts"
    axes.set_xlabel(f"{scale}{_of(found, contract)}\n{words}")
    output = found["output"]
    share = max(output) if contract.task == "multiclass" else output
    sure = f", as the probability of {found['of']} is {share:.3g}" if contract.classes else ""
    known = f" (in truth {_short(truth)})" if truth is not None else ""
    title = f"{contract.target.name} is {_short(found['prediction'])}{sure}{known}"
    axes.set_title(title, loc="left", fontsize=11, pad=18)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.finish(figure, path)


def _place_of_threshold(found: Json) -> float | None:
    limit = found["threshold"]
    if limit is None or found["scale"] not in {"log-odds", "probability"}:
        return None
    return float(np.log(limit / (1 - limit))) if found["scale"] == "log-odds" else float(limit)


def _shares(low: float, high: float) -> Floats:
    """Choose the probabilities that stand below an axis in log-odds."""
    from matplotlib.ticker import MaxNLocator

    least, most = 1 / (1 + np.exp(-np.array([low, high])))
    if most - least < 0.4:
        found = np.asarray(MaxNLocator(7).tick_values(least, most))
    else:
        found = np.array([0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
    return found[(found > max(least, 0)) & (found < min(most, 1))]


def _of(found: Json, contract: Contract) -> str:
    return f" of {contract.target.name}" + (f" = {_short(found['of'])}" if contract.classes else "")


def _label(step: Json) -> str:
    shown = _short(step["value"]) if step["feature"] == step["column"] else _number(step["number"])
    return f"{step['feature']} = {shown}" if step["number"] is not None else f"{step['feature']} is missing"


def _asked(rules: Json) -> str:
    words = [rules["type"] if rules["required"] else f"{rules['type']} or null"]
    return ", ".join(words + [form.format(_short(rules[rule])) for rule, form in _ASKED.items() if rule in rules])


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}"


def _short(value: Any) -> str:
    text = "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        text = ", ".join(map(str, value))
    return text if len(text) <= 40 else f"{text[:39]}…"
