"""Does every panel of every board show something, for the one who is on call at night?"""

import copy
import re
from pathlib import Path

import pytest
import yaml

from tests.monitoring import boards
from tests.monitoring.conftest import Watched, rules

by_board = pytest.mark.parametrize("path", boards.PATHS, ids=lambda path: path.stem)


def test_there_are_boards() -> None:
    assert {path.stem for path in boards.PATHS} == {"service", "model", "data", "release", "pipeline"}


@by_board
def test_every_panel_and_variable_shows_something(path: Path, watched: Watched) -> None:
    board = boards.read(path)
    assert boards.faults(board, watched.prometheus, watched.known) == []
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked
            values = watched.prometheus.get(f"label/{asked[2]}/values", **{"match[]": asked[1]})
            assert set(values) == {"1", "2"}


def test_a_panel_that_shows_nothing_is_seen(watched: Watched) -> None:
    sound = boards.read(boards.FOLDER / "service.json")
    planted = {
        "no metric is called service_log_failure_total": ("service_log_failures_total", "service_log_failure_total"),
        "it gives nothing": ('up{job="service"}', 'up{job="services"}'),
        "the legend names state": ("{{status}}", "{{state}}"),
        "series, and one number is shown": ("sum(service:requests:rate5m)", "service:requests:rate5m"),
        "parse error": ("sum(service:requests:rate5m)", "sum(service:requests:rate5m"),
    }
    for words, (right, wrong) in planted.items():
        board = copy.deepcopy(sound)
        changed = 0
        for panel in board["panels"]:
            for target in panel["targets"]:
                for part in ("expr", "legendFormat"):
                    if right in target.get(part, "") and not changed:
                        target[part] = target[part].replace(right, wrong)
                        changed += 1
        assert changed == 1
        (fault,) = boards.faults(board, watched.prometheus, watched.known)
        assert words in fault


@by_board
def test_a_board_can_be_read(path: Path) -> None:
    board = boards.read(path)
    assert board["uid"] == path.stem
    assert not boards.layout_faults(board)


def test_a_board_that_cannot_be_read_is_seen() -> None:
    board = boards.read(boards.FOLDER / "service.json")
    first, second, third, *_ = board["panels"]
    second["gridPos"] = first["gridPos"] | {"x": 1}
    del third["fieldConfig"]["defaults"]["unit"]
    assert boards.layout_faults(board) == [
        f"{second['title']}: it lies over {first['title']}",
        f"{third['title']}: it has no unit",
    ]


def test_each_alert_has_a_panel_that_leads_to_its_section_of_the_runbook() -> None:
    groups = [group for path in rules() for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    alerts = {rule["alert"].lower() for group in groups for rule in group["rules"] if "alert" in rule}
    leads = {section for path in boards.PATHS for section in boards.links(boards.read(path))}
    assert leads == alerts


def test_metrics_are_found_in_an_expression() -> None:
    found = boards.metrics(
        'topk(3, max by (a, le) (rate(a_total{b="c", d=~"e|f"}[5m]))) / on (g) group_left h:i:j or vector(0) > 1e3'
    )
    assert found == {"a_total", "h:i:j"}
