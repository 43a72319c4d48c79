"""How are findings drawn? In three colours, what is wrong in red; often as dots with intervals, one line each."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "agg")

BLUE, GREY, RED = "#2f6f9f", "#9aa5ad", "#b5483a"
MOST = 30  # lines that a person still reads
_LONGEST = 60


def worst_first(entries: Sequence[dict[str, Any]], wrong: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Choose what is shown where there is too much for one picture: what is wrong, then the rest, in their order.

    Parameters
    ----------
    entries
        In the order of the picture.
    wrong
        Whether an entry is a problem.
    """
    chosen = sorted(range(len(entries)), key=lambda place: (not wrong(entries[place]), place))[:MOST]
    return [entries[place] for place in sorted(chosen)]


def pyplot() -> Any:
    """Give Matplotlib's pyplot, set to the style of all pictures."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    return plt


@contextmanager
def panel(path: Path, nothing: str = "") -> Iterator[Any]:
    """Give the axes of a small picture, and write it when all is drawn.

    Parameters
    ----------
    path
        A PNG file.
    nothing
        Written into the picture where there is nothing to draw.
    """
    figure, axes = pyplot().subplots(figsize=(6.5, 3.6))
    if nothing:
        axes.text(0.5, 0.5, nothing, ha="center", va="center")
        axes.set_axis_off()
    yield axes
    finish(figure, path)


def start(title: str, *counts: int) -> tuple[Any, list[Any]]:
    """Start a picture; give Matplotlib's figure and, one below the other, its axes.

    Parameters
    ----------
    title
        Says what was found.
    *counts
        How many lines each of the axes has.
    """
    plt = pyplot()
    heights = [0.6 + 0.27 * max(count, 1) for count in counts]
    size, ratio = (8, 0.6 + sum(heights)), {"height_ratios": heights}
    figure, grid = plt.subplots(len(counts), figsize=size, squeeze=False, gridspec_kw=ratio, layout="constrained")
    for axes, count in zip(grid[:, 0], counts, strict=True):
        axes.set_ylim(max(count, 1) - 0.5, -0.5)
    grid[0, 0].set_title(title)
    return figure, list(grid[:, 0])


def name_lines(axes: Any, names: Sequence[str]) -> None:
    """Write the lines' names.

    Parameters
    ----------
    axes
        From `start`.
    names
        From the top.
    """
    short = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in short])


def interval(axes: Any, line: float, entry: dict[str, Any], color: str) -> None:
    """Draw one number with its interval.

    Parameters
    ----------
    axes
        From `start`.
    line
        Which line, from the top.
    entry
        `value`, `low` and `high`; an end that is `None` is not known.
    color
        Of both.
    """
    if entry["low"] is not None and entry["high"] is not None:
        ends = [entry["low"], entry["high"]]
        axes.plot(ends, [line, line], color=color, lw=2.5, alpha=0.5, solid_capstyle="butt")
    axes.plot(entry["value"], line, "o", color=color, ms=5)


def finish(figure: Any, path: Path) -> None:
    """Write the picture, the same bytes each time.

    Parameters
    ----------
    figure
        From `start`.
    path
        A PNG file.
    """
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)
