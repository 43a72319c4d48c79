"""What do the boards ask, and what is wrong with them? For the tests of dashboards, on the JSON that Grafana reads."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from tests.prometheus import Prometheus, QueryError

FOLDER = Path(__file__).parents[2] / "ops/grafana/dashboards"
PATHS = sorted(FOLDER.glob("*.json"))
COLUMNS, MOST_PANELS = 24, 9
NO_DATA = "no data"  # shown where a panel must never be empty
_VALUES = {"$__rate_interval": "1m", "$version": ".*"}
_WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}
_NO_NAMES = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)')
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\w|\s*\()")

Board = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """A query of a panel.

    Attributes
    ----------
    panel
        The panel's title.
    expression
        In PromQL, with values for Grafana's variables.
    legend
        As Grafana fills it in: `{{label}}`.
    single
        Whether it must give one series.
    may_be_empty
        Whether the panel says in words what it means that there is nothing.
    """

    panel: str
    expression: str
    legend: str
    single: bool
    may_be_empty: bool


def read(path: Path) -> Board:
    """Read a board.

    Parameters
    ----------
    path
        Of `PATHS`.
    """
    found: Board = json.loads(path.read_text(encoding="utf-8"))
    return found


def queries(board: Board) -> Iterator[Query]:
    """Give all queries of a board.

    Parameters
    ----------
    board
        From `read`.
    """
    for entry in board["annotations"]["list"]:
        yield Query(entry["name"], entry["expr"], "", single=False, may_be_empty=True)
    for panel in board["panels"]:
        empty = panel["fieldConfig"]["defaults"]["noValue"] != NO_DATA
        for target in panel["targets"]:
            legend = target.get("legendFormat", "")
            expression = target["expr"]
            for variable, value in _VALUES.items():
                expression = expression.replace(variable, value)
            yield Query(panel["title"], expression, legend, panel["type"] == "stat" and "{{" not in legend, empty)


def metrics(expression: str) -> set[str]:
    """Name the metrics of an expression.

    Parameters
    ----------
    expression
        In PromQL.
    """
    names = set(_NAME.findall(_NO_NAMES.sub(" ", expression)))
    return {name for name in names if name not in _WORDS and not name.isdecimal()}


def faults(board: Board, prometheus: Prometheus, known: re.Pattern[str]) -> list[str]:
    """Ask all that a board asks, and name what does not give what the panel needs.

    Parameters
    ----------
    board
        From `read`.
    prometheus
        That scrapes a service under traffic.
    known
        Matches the names of all metrics that there can be.
    """
    found = []
    for query in queries(board):
        where = f"{board['uid']}, {query.panel}: {query.expression}"
        if unknown := sorted(name for name in metrics(query.expression) if not known.fullmatch(name)):
            found.append(f"{where}: no metric is called {', '.join(unknown)}")
            continue
        try:
            series = prometheus.query(query.expression)
        except QueryError as error:
            found.append(f"{where}: {error}")
            continue
        found += [f"{where}: {fault}" for fault in _shape(query, series)]
    return found


def _shape(query: Query, series: list[dict[str, Any]]) -> Iterator[str]:
    if not series:
        if not query.may_be_empty:
            yield "it gives nothing"
        return
    if query.single and len(series) != 1:
        yield f"it gives {len(series)} series, and one number is shown"
    named = [tuple(sorted(one["metric"].items())) for one in series]
    labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    for one in series:
        if missing := labels - one["metric"].keys():
            yield f"the legend names {', '.join(sorted(missing))}, which a series has not"
            break
    if not any(isfinite(one["value"]) for one in series):
        yield "no value is a number"
    if len(set(named)) != len(named):
        yield "two series have the same name"


def layout_faults(board: Board) -> list[str]:
    """Name what keeps a board from being read: panels over each other or without title, unit, words or a query.

    Parameters
    ----------
    board
        From `read`.
    """
    found, taken = [], dict[tuple[int, int], str]()
    if len(board["panels"]) > MOST_PANELS:
        found.append(f"{len(board['panels'])} panels, which nobody takes in at once")
    for panel in board["panels"]:
        title, place = panel["title"], panel["gridPos"]
        defaults = panel["fieldConfig"]["defaults"]
        for name, there in {
            "title": title,
            "description": panel.get("description"),
            "unit": defaults.get("unit"),
            "query": panel["targets"] and all(target["expr"] for target in panel["targets"]),
            "thresholds": defaults.get("thresholds"),
            "words for no data": defaults.get("noValue"),
        }.items():
            if not there:
                found.append(f"{title}: it has no {name}")
        if place["x"] + place["w"] > COLUMNS:
            found.append(f"{title}: it is cut off at the right")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if other := taken.get((x, y)):
                    found.append(f"{title}: it lies over {other}")
                    break
                taken[x, y] = title
            else:
                continue
            break
        if len(panel["targets"]) > 1 and not all(target.get("legendFormat") for target in panel["targets"]):
            found.append(f"{title}: one cannot tell its lines apart")
    return found


def links(board: Board) -> Iterator[str]:
    """Give the sections of the runbook that panels lead to.

    Parameters
    ----------
    board
        From `read`.
    """
    for panel in board["panels"]:
        for link in panel.get("links", ()):
            address, _, section = link["url"].partition("#")
            assert address == "${runbook}", link
            yield section
