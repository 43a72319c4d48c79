"""What do people see of a model? Its figures, and the model card (Mitchell et al., FAT* 2019) filled from the run."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import features, picture
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.picture import BLUE, GREY

CARD = Path("reports/model_card.md")
FIGURES = Path("reports/figures")
_BINS = 10


def calibration(contract: Any, truth: Floats, output: Floats) -> list[dict[str, Any]]:
    """Compare predictions with what happened, in bins of equally many rows.

    Parameters
    ----------
    contract
        Says the task and the classes.
    truth, output
        The target and what `Model.predict` gave.

    Returns
    -------
    list of dict
        `class`, mean `predicted`, mean `observed` and `rows`, one entry a bin and class.
    """
    if contract.task == "multiclass":
        curves = [(name, truth == index, output[:, index]) for index, name in enumerate(contract.classes)]
    else:
        curves = [(contract.classes[-1] if contract.classes else contract.target.name, truth, output)]
    found = []
    for name, happened, predicted in curves:
        for rows in np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(truth))):
            means = {"predicted": float(predicted[rows].mean()), "observed": float(happened[rows].mean())}
            found.append({"class": name} | {key: round(mean, 9) for key, mean in means.items()} | {"rows": len(rows)})
    return found


def errors(model: Model, truth: Floats, output: Floats) -> list[dict[str, Any]]:
    """Count what was decided against what was true; in regression, by fifths of the true values.

    Parameters
    ----------
    model
        Decides.
    truth, output
        The target and what `predict` gave.

    Returns
    -------
    list of dict
        `actual`, `predicted` and `rows`, for each pair.
    """
    classes = model.contract.classes
    if classes:
        names = [str(name) for name in classes]
        actual = truth.astype(int)
        decided = (output >= model.threshold).astype(int) if model.contract.task == "binary" else output.argmax(axis=1)
    else:
        edges = np.unique(np.quantile(truth, [0.2, 0.4, 0.6, 0.8]))
        ends = [f"{edge:.4g}" for edge in edges]
        names = [
            f"up to {ends[0]}",
            *(f"{low} to {high}" for low, high in pairwise(ends)),
            f"above {ends[-1]}",
        ]
        actual, decided = np.searchsorted(edges, truth), np.searchsorted(edges, output)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (actual, decided), 1)
    return [
        {"actual": one, "predicted": other, "rows": int(counts[row, column])}
        for row, one in enumerate(names)
        for column, other in enumerate(names)
    ]


def draw(model: Model, found: dict[str, Any], curve: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> None:
    """Draw the figures.

    Parameters
    ----------
    model
        The candidate.
    found
        From `evaluate`.
    curve, pairs
        From `calibration` and `errors`.
    """
    FIGURES.mkdir(parents=True, exist_ok=True)
    for stale in FIGURES.glob("*.png"):
        stale.unlink()
    drawings = {
        "baselines": lambda: _draw_intervals(
            {"model": found["test"][found["score"]], **found["baselines"]},
            found["score"],
            "Against simpler models",
        ),
        "calibration": lambda: _draw_calibration(curve),
        "errors": lambda: _draw_errors(pairs),
    }
    if found["slices"]:
        bars = {f"{entry['slice']} ({entry['rows']:,})": entry["score"] for entry in found["slices"][:25]}
        drawings["slices"] = lambda: _draw_intervals(
            bars, found["score"], "By slice", found["test"][found["score"]].value
        )
    if np.isfinite(model.importance()).all():
        drawings["importance"] = lambda: _draw_importance(model)
    if model.contract.task == "regression":
        drawings["residuals"] = lambda: _draw_residuals(found["truth"], found["output"])
    for name, drawing in drawings.items():
        picture.finish(drawing(), FIGURES / f"{name}.png")


def _draw_intervals(bars: dict[str, Any], score: str, title: str, line: float | None = None) -> Any:
    figure, axes = picture.pyplot().subplots(figsize=(6.5, 0.8 + 0.28 * len(bars)))
    for height, entry in enumerate(bars.values()):
        axes.plot([entry.low, entry.high], [height, height], color=BLUE, lw=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot(entry.value, height, "o", color=BLUE, ms=5)
    if line is not None:
        axes.axvline(line, color=GREY, lw=1, zorder=0)
    axes.set(yticks=range(len(bars)), yticklabels=bars, xlabel=score, title=title, ylim=(len(bars) - 0.5, -0.5))
    return figure


def _draw_calibration(curve: list[dict[str, Any]]) -> Any:
    figure, axes = picture.pyplot().subplots(figsize=(4.5, 4))
    names = list(dict.fromkeys(entry["class"] for entry in curve))
    for name in names:
        points = [entry for entry in curve if entry["class"] == name]
        color = BLUE if len(names) == 1 else None
        axes.plot(
            [p["predicted"] for p in points],
            [p["observed"] for p in points],
            "o-",
            ms=4,
            lw=1.2,
            label=str(name),
            color=color,
        )
    ends = [min(e["predicted"] for e in curve), max(e["predicted"] for e in curve)]
    axes.plot(ends, ends, color=GREY, lw=1, zorder=0)
    axes.set(xlabel="predicted (mean of the bin)", ylabel="observed", title="Calibration")
    if 1 < len(names) <= 12:
        axes.legend(frameon=False, fontsize=7)
    return figure


def _draw_errors(pairs: list[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(pair["actual"] for pair in pairs))
    counts = np.array([pair["rows"] for pair in pairs]).reshape(len(names), len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.45 * min(len(names), 20)
    figure, axes = picture.pyplot().subplots(figsize=(size + 1, size))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            axes.text(
                column,
                row,
                f"{count:,}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.6 else "black",
            )
    axes.set(
        xticks=range(len(names)),
        yticks=range(len(names)),
        yticklabels=names,
        xlabel="predicted",
        ylabel="actual",
        title="Decisions",
    )
    axes.set_xticklabels(
        names,
        rotation=45 if max(map(len, names)) > 6 else 0,
        ha="right" if max(map(len, names)) > 6 else "center",
    )
    return figure


def _draw_importance(model: Model) -> Any:
    shares = sorted(zip(model.importance(), features.features(model.contract), strict=True), key=lambda pair: -pair[0])[
        :20
    ]
    figure, axes = picture.pyplot().subplots(figsize=(6.5, 0.8 + 0.25 * len(shares)))
    axes.barh([feature.name for _, feature in shares], [share for share, _ in shares], color=BLUE, height=0.7)
    axes.set(xlabel="share of the gain in training", title="What the model looks at")
    axes.invert_yaxis()
    return figure


def _draw_residuals(truth: Floats, output: Floats) -> Any:
    rows = np.linspace(0, len(truth) - 1, min(len(truth), 3000)).astype(int)
    figure, axes = picture.pyplot().subplots(figsize=(5.5, 3.6))
    axes.plot(output[rows], truth[rows] - output[rows], "o", ms=2.5, alpha=0.35, color=BLUE, mew=0)
    axes.axhline(0, color=GREY, lw=1)
    axes.set(xlabel="predicted", ylabel="actual − predicted", title="Residuals")
    return figure


def write_card(model: Model, found: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Write the model card.

    Parameters
    ----------
    model
        The candidate.
    found
        From `evaluate`.
    chosen
        The section `evaluate` of `params.yaml`.
    """
    contract = model.contract
    percent = f"{chosen['confidence']:.0%}"
    kind = type(model.predictor)
    made_by = "LightGBM" if model.boosted else f"{kind.__module__.split('.')[0]} {kind.__name__}"
    what = {
        "binary": f"the probability that `{contract.target.name}` is {(contract.classes or ('',))[-1]!r}",
        "multiclass": f"the probability of each class of `{contract.target.name}`",
        "regression": f"the value of `{contract.target.name}`",
    }[contract.task]
    test = found["test"]
    personal = [f"`{column.name}`" for column in contract.columns if column.personal]
    lines = [
        f"# Model card: {contract.name}",
        "",
        "Written by `evaluate` from the run; edit the code, not this page.",
        "",
        f"- **Predicts** {what}" + (f" ({contract.target.description})" if contract.target.description else "") + ".",
        f"- **From** {len(contract.features)} columns, {len(features.features(contract))} features"
        + (
            f"; tested on what came last by `{contract.time.name}`."
            if contract.time
            else "; tested on rows held back at random."
        ),
        f"- **Model**: {made_by}"
        + (
            f", decides from a probability of {model.threshold:.3g} on (costs {chosen['costs']})."
            if contract.task == "binary"
            else "."
        ),
        f"- **Personal, never seen by the model**: {', '.join(personal) or 'no column'}.",
        *([f"- **Limits**: {contract.limitations}"] if contract.limitations else []),
        "",
        f"## Quality on {found['rows']:,} test rows",
        "",
        f"Each number with its {percent} bootstrap interval, {chosen['resamples']} resamples.",
        "",
        "| score | model | constant | linear |",
        "|---|---|---|---|",
    ]
    for name, entry in test.items():
        simple = [str(value) for value in found["baselines"].values()] if name == found["score"] else ["", ""]
        lines.append(f"| {name} | {entry} | {' | '.join(simple)} |")
    lines += ["", "| better than | by | |", "|---|---|---|"]
    for name, entry in found["gain"].items():
        verdict = "yes" if entry.low > 0 else "not surely" if entry.high > 0 else "no, worse"
        lines.append(f"| {name} | {entry} | {verdict} |")
    if found["slices"]:
        lines += ["", "## Slices", "", f"| slice | rows | {found['score']} |", "|---|---|---|"]
        lines += [f"| {entry['slice']} | {entry['rows']:,} | {entry['score']} |" for entry in found["slices"]]
    lines += ["", "## Figures", ""]
    lines += [f"![{path.stem}](figures/{path.name})" for path in sorted(FIGURES.glob("*.png"))]
    CARD.write_text("\n".join(lines) + "\n", encoding="utf-8")
