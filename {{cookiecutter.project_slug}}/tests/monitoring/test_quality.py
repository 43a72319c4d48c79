"""Is the quality of what was served known, once labels come, and is its loss seen?"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flight_delays import features, scores
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model
from flight_delays.monitoring import labels, quality
from flight_delays.serving.log import read
from flight_delays.settings import params

from tests.alerts import firing
from tests.conftest import Project
from tests.served import VERSION, Served, served

Copy = Callable[[Project], Project]
Rows = list[dict[str, Any]]


@pytest.fixture
def asked(finished_project: Project, copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Predictions of a copy of the sample project, which is in the current folder."""
    project = copy(finished_project)
    project.edit("params.yaml", lambda document: document["monitor"]["quality"].update(few=50))
    monkeypatch.chdir(project.path)
    return served(project, tmp_path / "store")


def known(one: Served) -> dict[str, quality.Json]:
    """Say what the model scored on its test rows, as the registry would."""
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    constant = {"constant": metrics["baselines"]["constant"]["value"]}
    assert one.store.model(VERSION).is_dir()
    return {VERSION: metrics["test"][metrics["score"]] | constant}


def write(one: Served, rows: Rows) -> Path:
    """Write a file of labels."""
    path = Path("labels.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert one.store.labels.is_dir()
    return path


def label(one: Served, truth: dict[str, Any], **more: Any) -> dict[str, int]:
    """Take labels in."""
    name = one.contract.target.name
    path = write(one, [{"id": key, name: value} for key, value in truth.items()])
    return labels.take(one.store, one.contract, path, **{"days": 7, **more})


def require_good(one: Served, truth: dict[str, Any]) -> quality.Json:
    """Require that the predictions, with these labels, are as good as expected."""
    counts = label(one, truth)
    assert counts["new"] == len(truth)
    found = quality.measure(one.store, params("monitor"), known(one))
    if not found["windows"]:
        does_not_apply(f"{len(truth)} test rows are too few to score a window")
    if found["problems"]:
        pytest.fail("\n".join(found["problems"]), pytrace=False)
    return found


@pytest.mark.ml_test("mon-7")
def test_served_predictions_are_as_good_as_on_the_test_rows(asked: Served) -> None:
    found = require_good(asked, asked.truth)
    model = Model.load(Path("models/candidate"))
    rows = pq.read_table("data/test.parquet").slice(0, len(asked.truth))
    X, y = features.encode(rows, model.contract), features.encode_target(rows, model.contract)
    chosen = params("evaluate")
    first = scores.scores(model.contract.task, model.contract.classes, chosen["costs"])[0]
    for entry in found["windows"]:
        assert entry["rows"] == len(y)
        assert entry["value"] == pytest.approx(first.function(y, model.predict(X)), rel=1e-12)
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert found["waiting"] == found["missing"] == 0
    quality.write(found)
    assert quality.FIGURE.stat().st_size > 1_000


@pytest.mark.sabotage(
    of=test_served_predictions_are_as_good_as_on_the_test_rows, fault="the world turns against the model"
)
def test_lost_quality_is_named_with_its_numbers(asked: Served) -> None:
    contract = asked.contract
    against: dict[str, Any] = {}
    for record in read(asked.store.predictions):
        (output,) = record["output"]
        if contract.task == "regression":
            against[record["id"]] = output + 100 * (1 + abs(output))
            if contract.target.type == "integer":
                against[record["id"]] = round(against[record["id"]])
        elif contract.task == "binary":
            against[record["id"]] = output
        else:
            against[record["id"]] = contract.classes[int(np.argmin(output))]
    if contract.task == "binary":
        middle = float(np.median(list(against.values())))
        against = {name: contract.classes[int(output < middle)] for name, output in against.items()}
    with pytest.raises(pytest.fail.Exception, match=rf"version {VERSION}: \w+ of the last 1 days is .*, expected "):
        require_good(asked, against)


@pytest.mark.ml_test("mon-7", twin="plants its own fault")
def test_lost_quality_reaches_a_person() -> None:
    series = f'model_quality_worse{{version="{VERSION}", window="7d", score="any"}}'
    assert firing({series: "0x30 1x300"}, "1h") == {"QualityLost"}


def test_every_label_has_its_state(asked: Served) -> None:
    (first, truth), (second, other), (third, _) = list(asked.truth.items())[:3]
    name = asked.contract.target.name
    different = next(value for value in _values(asked) if value != other)
    counts = label(asked, {first: truth, second: other})
    assert counts == {"new": 2, "late": 0, "repeated": 0, "contradicting": 0, "unknown": 0}
    rows = [
        {"id": first, "row": 0, name: truth},
        {"id": second, "row": 0, name: different},
        {"id": third, "row": 0, name: other},
        {"id": third, "row": 0, name: different},
        {"id": first, "row": 1, name: truth},
        {"id": "nobody", "row": 0, name: truth},
        {"id": "order-3", "row": 0, name: asked.truth["order-3"]},
        {"id": "order-3", "row": 0, name: asked.truth["order-3"]},
    ]
    later = datetime.now(UTC) + timedelta(days=8)
    counts = labels.take(asked.store, asked.contract, write(asked, rows), 7, later)
    assert counts == {"new": 1, "late": 1, "repeated": 2, "contradicting": 3, "unknown": 2}
    assert labels.known(asked.store) == {
        (first, 0): truth,
        (second, 0): other,  # what was said first stands
        ("order-3", 0): asked.truth["order-3"],
    }
    lines = labels.REFUSED.read_text(encoding="utf-8").splitlines()
    assert lines == [
        "line,id,row,reason",
        f"1,{first},0,repeated",
        f"2,{second},0,contradicting",
        f"3,{third},0,contradicting",
        f"4,{third},0,contradicting",
        f"5,{first},1,unknown",
        "6,nobody,0,unknown",
        "8,order-3,0,repeated",
    ]


def _values(one: Served) -> list[Any]:
    return list(one.contract.classes) or [1, 2]


def test_labels_that_do_not_come_are_counted(asked: Served) -> None:
    half = dict(list(asked.truth.items())[::2])
    label(asked, half)
    rest = len(asked.truth) - len(half)
    found = quality.measure(asked.store, params("monitor"), {})
    assert (found["waiting"], found["missing"]) == (rest, 0)
    assert found["due"] == {"missing": 0, "labelled": 0}
    later = quality.measure(asked.store, params("monitor"), {}, datetime.now(UTC) + timedelta(days=8))
    assert (later["waiting"], later["missing"]) == (0, rest)
    assert later["due"] == {"missing": rest, "labelled": len(half)}
    at_last = quality.measure(asked.store, params("monitor"), {}, datetime.now(UTC) + timedelta(days=15))
    assert at_last["due"] == {"missing": 0, "labelled": 0}  # what is not there after two weeks is old news
    assert later["problems"] == []  # nothing is known that it could be compared with


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": None}, "row 2: id is null"),
        ({"row": -1}, "row 2: row is no place in a request, counted from 0"),
        ({"truth": None}, "row 2: {target} is None, which is no value of it"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_taken(asked: Served, row: dict[str, Any], words: str) -> None:
    name = asked.contract.target.name
    good = {"id": "order-0", "row": 0, name: asked.truth["order-0"]}
    bad = good | {name if key == "truth" else key: value for key, value in row.items()}
    path = write(asked, [good, bad])
    with pytest.raises(InputError, match=re.escape(f"{path}, {words.format(target=name)}")):
        labels.take(asked.store, asked.contract, path, 7)
    assert labels.known(asked.store) == {}


def test_files_that_lie_ready_are_taken_in_and_a_bad_one_keeps_nobody_back(asked: Served) -> None:
    name, (first, second, *_) = asked.contract.target.name, asked.truth
    for file, rows in (
        ("1.jsonl", [{"id": first, name: asked.truth[first]}]),
        ("2.jsonl", [{"id": "order-0"}]),
        ("3.jsonl", [{"id": second, name: asked.truth[second]}]),
    ):
        write(asked, rows).rename(asked.store.incoming / file)
    with pytest.raises(InputError, match=rf"2\.jsonl has no column '{name}'"):
        labels.take_incoming(asked.store, asked.contract, 7)
    assert set(labels.known(asked.store)) == {(first, 0), (second, 0)}
    assert [path.name for path in asked.store.incoming.iterdir() if path.is_file()] == ["2.jsonl"]
    (asked.store.incoming / "2.jsonl").unlink()
    assert sum(labels.take_incoming(asked.store, asked.contract, 7).values()) == 0


def test_without_any_label_it_is_known_how_many_are_missing(asked: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_DIR", str(asked.store.folder))
    ran = Project(Path.cwd()).run("python", "-m", quality.__name__)
    assert ran.returncode == 1
    assert "error: no prediction has a label yet: `make labels INPUT=…` takes them in\n" in ran.stderr
    report = json.loads(quality.REPORT.read_text(encoding="utf-8"))
    assert (report["windows"], report["waiting"]) == ([], len(asked.truth))


def test_a_file_without_the_target_is_refused(asked: Served) -> None:
    path = write(asked, [{"id": "order-0", "outcome": 1}])
    with pytest.raises(InputError, match=f"has no column '{asked.contract.target.name}'"):
        labels.take(asked.store, asked.contract, path, 7)


def test_both_commands_say_what_they_did(
    asked: Served, finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_DIR", str(asked.store.folder))
    project = Project(Path.cwd())
    name = asked.contract.target.name
    path = write(asked, [{"id": key, name: value} for key, value in asked.truth.items()])
    ran = project.run("python", "-m", labels.__name__, str(path))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(labels.REPORT.read_text(encoding="utf-8"))["counts"]["new"] == len(asked.truth)
    ran = project.run("python", "-m", quality.__name__)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(quality.REPORT.read_text(encoding="utf-8"))
    assert report["windows"]
    metrics = json.loads((finished_project.path / "reports/metrics.json").read_text(encoding="utf-8"))
    assert report["expected"][VERSION]["value"] == metrics["test"][metrics["score"]]["value"]
