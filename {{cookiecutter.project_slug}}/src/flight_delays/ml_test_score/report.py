"""How do people and programs see the score? A table, a JSON file, a page, a badge, and metrics in MLflow."""

import contextlib
import io
import json
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flight_delays.ml_test_score.rubric import PAPER
from flight_delays.ml_test_score.score import (
    BY_HAND,
    DID_NOT_RUN,
    DOES_NOT_APPLY,
    FAILED,
    PASSED,
    Change,
    Result,
    Score,
)

JSON = Path("reports/ml_test_score.json")
PAGE = Path("reports/ml_test_score.md")
BADGE = Path("reports/ml_test_score.svg")
_CANDIDATE = Path("models/candidate")  # as in pipeline.train, which takes seconds to import
STYLES = {PASSED: "green", BY_HAND: "yellow", FAILED: "red", DID_NOT_RUN: "red", DOES_NOT_APPLY: "dim"}
_COLOURS = ((0, "#b5483a"), (2, "#6b757d"), (5, "#2f6f9f"), (7, "#2e7d4f"))  # white letters can be read on each


def draw(table: Table, width: int, *, coloured: bool) -> str:
    """Turn a table into text for a terminal.

    Parameters
    ----------
    table
        What to show.
    width
        In characters.
    coloured
        Whether the terminal shows colours.
    """
    text = io.StringIO()
    system: Any = "standard" if coloured else None
    Console(file=text, width=width, force_terminal=coloured, color_system=system).print(table)
    return text.getvalue()


def make_table(score: Score) -> Table:
    """Lay the score out for a terminal: the sections with their sums, and a line a row.

    Parameters
    ----------
    score
        To show.
    """
    table = Table("row", "what is asked", "state", title="ML Test Score", title_justify="left")
    table.add_column("why", overflow="fold")
    for section in score.sections:
        table.add_section()
        table.add_row("", Text(section.title, "bold"), Text(section.words, "bold"))
        for result in section.results:
            style = STYLES.get(result.state, "dim")
            table.add_row(result.row.id, result.row.title, Text(result.state, style), Text(result.detail))
    return table


def to_json(score: Score) -> dict[str, Any]:
    """Give the score as plain data; `schema.json` beside this module says what is in it.

    Parameters
    ----------
    score
        To write down.
    """
    sections = [
        {
            "id": section.id,
            "title": section.title,
            "points": section.points,
            "maximum": section.maximum,
            "rows": [_row_to_json(result) for result in section.results],
        }
        for section in score.sections
    ]
    return {"format": 1, "score": score.value, "reading": score.reading, "sections": sections}


def _row_to_json(result: Result) -> dict[str, Any]:
    return {
        "id": result.row.id,
        "title": result.row.title,
        "state": result.state,
        "points": None if result.state == DOES_NOT_APPLY else result.points,
        "detail": result.detail,
        "tests": [{"id": found.test, "state": found.state, "detail": found.detail} for found in result.outcomes],
    }


def to_markdown(score: Score) -> str:
    """Give the score as a page.

    Parameters
    ----------
    score
        To write down.
    """
    lines = [
        f"# ML Test Score: {score.words}",
        "",
        f"By the paper's scale: {score.reading}.",
        "",
        "The score is the smallest of the four sections' sums. A row has its point only if every test that carries its",
        "id ran and passed; rows that do not apply to this project are left out. The rubric is",
        f"[Breck et al., 2017]({PAPER}).",
        "Written by `make score`; `make prove` shows that the tests behind it can fail.",
        "",
        "| section | points |",
        "|---|---|",
        *(f"| {section.title} | {section.words} |" for section in score.sections),
    ]
    for section in score.sections:
        lines += ["", f"## {section.title}: {section.words}", "", "| row | what is asked | state | why |"]
        lines += ["|---|---|---|---|", *(_row_to_markdown(result) for result in section.results)]
    badge = f"[![ML Test Score]({BADGE.as_posix()})]({PAGE.as_posix()})"
    lines += ["", f"To show the score in `README.md`, commit `{BADGE.parent}/` and put in: `{badge}`"]
    return "\n".join(lines) + "\n"


def _row_to_markdown(result: Result) -> str:
    detail = re.sub(r"([\\`*_|\[\]~])", r"\\\1", escape(result.detail))
    state = f"**{result.state}**" if result.state in {FAILED, DID_NOT_RUN} else result.state
    return f"| {result.row.id} | {result.row.title} | {state} | {detail} |"


def to_svg(score: Score) -> str:
    """Draw the badge.

    Parameters
    ----------
    score
        To show.
    """
    label, words = "ML Test Score", score.words
    left, right = (round(5.9 * len(text)) + 14 for text in (label, words))
    colour = next(colour for limit, colour in _COLOURS if score.value <= limit)

    def write(text: str, start: int, width: int) -> str:
        # the given length holds in every font
        return f'<text x="{start + width / 2:g}" y="14" textLength="{width - 14}">{text}</text>'

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{label}: {words}">'
        f"<title>{label}: {words}</title>"
        f'<clipPath id="c"><rect width="{left + right}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#c)"><rect width="{left}" height="20" fill="#4a4f54"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{write(label, 0, left)}{write(words, left, right)}</g></svg>\n"
    )


def write(score: Score, root: Path) -> None:
    """Write the three files of the report.

    Parameters
    ----------
    score
        To write down.
    root
        The project's folder.
    """
    (root / JSON).parent.mkdir(exist_ok=True)
    (root / JSON).write_text(json.dumps(to_json(score), indent=1) + "\n", encoding="utf-8")
    (root / PAGE).write_text(to_markdown(score), encoding="utf-8")
    (root / BADGE).write_text(to_svg(score), encoding="utf-8")


def find_last(root: Path) -> tuple[dict[str, Any] | None, str]:
    """Read the last report: the committed one, else the one on disk.

    Parameters
    ----------
    root
        The project's folder.

    Returns
    -------
    report, place
        None, and nothing, if there is no report.
    """
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{JSON.as_posix()}"],
        cwd=root,
        capture_output=True,
        check=False,
    )
    if shown.returncode == 0:
        content, place = shown.stdout, "the last commit"
    elif (root / JSON).is_file():
        content, place = (root / JSON).read_bytes(), "the last run"
    else:
        return None, ""
    with contextlib.suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found, place
    return {}, place


def tell_change(change: Change, place: str, score: Score) -> Iterable[str]:
    """Say what is other than in the last report, a line each.

    Parameters
    ----------
    change
        From `compare`.
    place
        Where the last report stood.
    score
        Now.
    """
    moved = "as" if score.value == change.before else f"was {change.before:g}"
    yield f"the score is {score.value:g}, {moved} in {place}"
    for what, rows in (("lost", change.lost), ("won", change.won), ("no longer apply", change.left)):
        if rows:
            yield f"{what}: {', '.join(rows)}"


def log(score: Score, root: Path) -> str:
    """Log the score to the MLflow run that made the model in `models/candidate`.

    Parameters
    ----------
    score
        To log.
    root
        The project's folder.

    Returns
    -------
    str
        What was done, or why nothing was, in one line.
    """
    if not (root / _CANDIDATE).is_dir():
        return f"not logged to MLflow: there is no {_CANDIDATE} yet"
    from flight_delays.model import Model
    from flight_delays.pipeline.register import provenance
    from flight_delays.tracking import Registry

    with contextlib.chdir(root):
        model = Model.load(_CANDIDATE)
        registry = Registry(model.contract.id)
        version = registry.find_version({"model": provenance(model)["model"]})
        if version is None:
            return f"not logged to MLflow: no registered version is the model in {_CANDIDATE}; run `make score`"
        sums = {f"ml_test_score.{section.id}": section.points for section in score.sections if section.maximum}
        now = time.time_ns() // 1_000_000
        registry.log(version.run, {}, {"ml_test_score": score.value} | sums, [JSON], now)
    return f"logged to MLflow: run {version.run}, of model version {version.number}"
