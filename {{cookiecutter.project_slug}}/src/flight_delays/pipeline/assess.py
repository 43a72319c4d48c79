"""Stage 7: look closer at the model than its score does: features, slices, groups, age, and what its errors cost."""

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from flight_delays.assess import costs, groups, impact, search, slices, staleness, values
from flight_delays.assess.evidence import Evidence
from flight_delays.errors import report_errors
from flight_delays.settings import params

ASSESSMENT = Path("reports/assessment.json")
PAGE = Path("reports/assessment.md")
FIGURES = Path("reports/assessment")
_SHOWN = 3  # problems of a question on the screen; the page has them all
_BY_NAME: dict[str, ModuleType] = {
    "values": values,
    "costs": costs,
    "slices": slices,
    "groups": groups,
    "staleness": staleness,
    "impact": impact,
    "search": search,
}


def assess(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Ask each question of the model, as many at a time as there are cores.

    Parameters
    ----------
    evidence
        The model and its test rows.
    chosen
        The section `assess` of `params.yaml`.

    Returns
    -------
    dict
        By question, what its module's `measure` found.
    """
    shared = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    count, context = min(os.cpu_count() or 1, len(_BY_NAME)), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _be_quiet) as workers:
        asked = {
            name: workers.submit(module.measure, evidence, shared | chosen.get(name, {}))
            for name, module in reversed(_BY_NAME.items())  # the longest are the last of the report
        }
        try:
            for answered in track(as_completed(asked.values()), "assess", len(asked), transient=True):
                answered.result()
        except BaseException:
            for worker in multiprocessing.active_children():  # nobody waits for the other answers
                worker.kill()
            raise
    return {name: asked[name].result() for name in _BY_NAME}


def _be_quiet() -> None:
    """Leave the screen and Ctrl-C to the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def write(found: dict[str, Any]) -> None:
    """Write what was found: as data, as a page, and as a picture for each question.

    Parameters
    ----------
    found
        From `assess`.
    """
    FIGURES.mkdir(parents=True, exist_ok=True)
    ASSESSMENT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# A closer look at the model",
        "",
        "Written by `make score`; the bounds stand in `params.yaml`, `assess`.",
    ]
    for name, module in _BY_NAME.items():
        title = (module.__doc__ or name).split("?")[0] + "?"
        lines += ["", f"## {title}", ""]
        if reason := found[name].get("does_not_apply"):
            lines.append(f"Does not apply: {reason}.")
            continue
        module.draw(found[name], FIGURES / f"{name}.png")
        lines += [module.say(found[name]), "", f"![{title}](assessment/{name}.png)"]
        lines += ["", *(f"- **To do**: {problem}" for problem in found[name]["problems"])]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _in_short(problems: list[str]) -> str:
    more = [f"and {len(problems) - _SHOWN} more: {PAGE}"] if len(problems) > _SHOWN else []
    return "\n".join([*problems[:_SHOWN], *more])


@report_errors
def main() -> None:
    """Run the stage."""
    chosen = params("assess")
    found = assess(Evidence.load(chosen["rows"]), chosen)
    write(found)
    table = Table("question", "answer", title="assess", title_justify="left")
    for name, entry in found.items():
        reason = entry.get("does_not_apply")
        table.add_row(name, f"does not apply: {reason}" if reason else _in_short(entry["problems"]) or "good")
    Console(width=120).print(table)
    print(f"assess: {PAGE}, {ASSESSMENT}")


if __name__ == "__main__":
    main()
