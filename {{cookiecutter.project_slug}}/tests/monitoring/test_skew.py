"""Is a feature or an output that is served otherwise than the pipeline computes it found, and named?"""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from flight_delays import features
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model, fit, make_estimator
from flight_delays.monitoring import skew
from flight_delays.serving import door, service
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.release import STORE, Release, Store

from tests.conftest import ROOT, Project
from tests.service import ask, serve

Json = dict[str, Any]
Copy = Callable[[Project], Project]
REQUESTS, SEVERAL = 60, (10, 20, 100)  # of one row, and the sizes of others


@pytest.fixture
def stored(finished_project: Project, copy: Copy) -> Project:
    """The sample project, whose model is released as version 1."""
    made = copy(finished_project)
    shutil.rmtree(made.path / STORE, ignore_errors=True)
    store = Store(made.path / STORE)
    store.add("1", made.path / "models/candidate")
    store.publish(Release("1"))
    return made


def rows_of(project: Project, count: int) -> list[Json]:
    """Give rows of the project's data, as they are sent."""
    table = pq.read_table(project.path / "data/test.parquet")
    table = table.take(np.arange(count) % table.num_rows)
    sent: list[Json] = json.loads(json.dumps(door.to_json(table, project.contract)))
    return sent


def answers(project: Project, requests: list[list[Json]], version: str = "1") -> list[Json]:
    """Answer requests as the service does, row by row, and give the records of its log."""
    model = Model.load(project.path / STORE / "models" / version)
    found = []
    for place, rows in enumerate(requests):
        tables = [door.read([row], model.contract)[0] for row in rows]
        X = np.concatenate([features.encode(table, model.contract) for table in tables])
        record: Json = {"kind": "answer", "id": f"r{place}", "at": "2026-11-24T22:00:00.123456Z", "release": "a"}
        record |= {"version": version, "role": "champion", "assigned": False, "rows": rows, "x": X.tolist()}
        found.append(record | {"output": model.predict(X).tolist(), "ms": 0.2, "failed": None, "warnings": 0})
    return found


def second(answer: Json, **changed: Any) -> Json:
    """Make the record of the model that was asked as well."""
    record = {"kind": "second", "id": answer["id"], "at": answer["at"], "release": "a", "version": "1"}
    return record | {"role": "challenger", "output": answer["output"], "ms": 0.3, "failed": None} | changed


def write(project: Project, records: list[Json]) -> Path:
    """Write a prediction log, and give its folder."""
    folder = project.path / STORE / "predictions"
    log = PredictionLog(folder, max_bytes=20_000, max_seconds=1e6)
    for record in records:
        log.write(msgspec.json.encode(record))
    log.close()
    return folder


@pytest.fixture
def served(stored: Project) -> list[Json]:
    """What the log has of some requests of one row, and a few of several."""
    rows = rows_of(stored, REQUESTS + 30)
    return answers(stored, [[row] for row in rows[:REQUESTS]] + [rows[REQUESTS:][:20], rows[REQUESTS:][20:]])


@pytest.fixture(scope="session")
def source() -> Path:
    """The code that serves."""
    return ROOT / "src"


@pytest.fixture
def changed() -> Callable[[Project], None]:
    """What happens between serving and the comparison: nothing."""
    return lambda _: None


@pytest.mark.slow
@pytest.mark.ml_test("mon-3")
def test_what_is_served_is_what_the_pipeline_computes(
    stored: Project, source: Path, changed: Callable[[Project], None]
) -> None:
    rows = rows_of(stored, REQUESTS + sum(SEVERAL))
    with serve(stored, "--alone", source=source) as client:
        for size in (*[1] * REQUESTS, *SEVERAL):
            ask(client, "/predict", rows[:size])
            del rows[:size]
    changed(stored)
    ran = stored.run("python", "-m", skew.__name__)
    if ran.returncode:
        pytest.fail(ran.stderr.strip() or ran.stdout, pytrace=False)
    found = json.loads((stored.path / skew.REPORT).read_text(encoding="utf-8"))
    assert (found["requests"], found["rows"]) == (REQUESTS + len(SEVERAL), REQUESTS + sum(SEVERAL))


def plant(tmp_path: Path, module: ModuleType, right: str, wrong: str) -> Path:
    """Give a copy of the code with a fault in it."""
    assert module.__file__
    shutil.copytree(ROOT / "src", tmp_path / "src")
    path = tmp_path / "src" / Path(module.__file__).relative_to(ROOT / "src")
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    return tmp_path / "src"


def caught(words: str) -> Any:
    return pytest.raises(pytest.fail.Exception, match=rf"are served otherwise than the pipeline computes them.*{words}")


def place_of_most_numbers(stored: Project) -> int:
    rows = pq.read_table(stored.path / "data/test.parquet")
    return int(np.isfinite(features.encode(rows, stored.contract)).sum(axis=0).argmax())


@pytest.mark.sabotage(
    of=test_what_is_served_is_what_the_pipeline_computes,
    fault="the service encodes a feature of a single row with an offset",
)
def test_an_offset_in_the_service_is_named(stored: Project, tmp_path: Path, changed: Callable[[Project], None]) -> None:
    place = place_of_most_numbers(stored)
    step = f"(lambda step: (step[0], lambda value: step[1](value) * (1 + 1e-9) + 1e-9, step[2]))(steps[{place}])"
    line = "    def encode_row(row: Sequence[Any]) -> list[float]:"
    other = plant(tmp_path, features, line, f"    steps[{place}] = {step}\n{line}")
    name = features.features(stored.contract)[place].name
    with caught(f"above all '{re.escape(name)}': version 1, request .*, row 0"):
        test_what_is_served_is_what_the_pipeline_computes(stored, other, changed)


@pytest.mark.sabotage(
    of=test_what_is_served_is_what_the_pipeline_computes,
    fault="the order of a column's listed values has changed since the model was trained",
)
def test_values_in_another_order_are_named(stored: Project, source: Path) -> None:
    rows = rows_of(stored, REQUESTS + sum(SEVERAL))
    listed = [
        column.name
        for column in stored.contract.features
        if column.type == "string" and len(column.values) > 1 and any(row[column.name] is not None for row in rows)
    ]
    if not listed:
        does_not_apply("no feature has listed values")

    def turn(document: Json) -> None:
        for entry in document["schema"][0]["properties"]:
            if entry["name"] == listed[0]:
                entry["enum"].append(entry["enum"].pop(0))

    with caught(f"above all '{re.escape(listed[0])}'"):
        test_what_is_served_is_what_the_pipeline_computes(
            stored, source, lambda project: project.edit(f"{STORE}/models/1/contract.yaml", turn)
        )


@pytest.mark.sabotage(
    of=test_what_is_served_is_what_the_pipeline_computes,
    fault="the service rounds its outputs",
)
def test_a_rounded_output_is_named(stored: Project, tmp_path: Path, changed: Callable[[Project], None]) -> None:
    other = plant(tmp_path, service, '"output": output.tolist(),', '"output": output.astype("float32").tolist(),')
    with caught("above all 'output"):
        test_what_is_served_is_what_the_pipeline_computes(stored, other, changed)


def test_the_smallest_difference_is_named(stored: Project, served: list[Json]) -> None:
    numbers = served[17]["x"][0]
    numbers[-1] = 0.0 if np.isnan(numbers[-1]) else float(np.nextafter(numbers[-1], np.inf))
    write(stored, served)
    ran = stored.run("python", "-m", skew.__name__)
    name = features.features(stored.contract)[-1].name
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert f"error: 1 of {len(numbers) * (REQUESTS + 30):,} feature values" in ran.stderr
    assert f"above all {name!r}: version 1, request r17, row 0: served {numbers[-1]}, batch " in ran.stderr
    assert json.loads((stored.path / skew.REPORT).read_text(encoding="utf-8"))["differences"][0]["column"] == name


def test_a_missing_number_equals_a_missing_number(stored: Project) -> None:
    rows: list[Json] = [dict.fromkeys(row) for row in rows_of(stored, 3)]
    found = skew.replay(write(stored, answers(stored, [rows, rows[:1]])))
    (version,) = found["versions"]
    assert (version["values"], version["values_differing"]) == (4 * len(features.features(stored.contract)), 0)
    assert (version["outputs_differing"], found["differences"]) == (0, [])


def test_many_requests_at_once_are_compared_each_with_its_own(
    stored: Project, served: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skew, "_BATCH_ROWS", 7)
    output = served[-1]["output"]
    output[3:5] = np.full(np.shape(output[3:5]), None).tolist()
    found = skew.replay(write(stored, served))
    assert (found["requests"], found["rows"]) == (len(served), REQUESTS + 30)
    examples = [one for entry in found["differences"] for one in entry["examples"]]
    assert {(one["id"], one["row"], one["served"]) for one in examples} == {
        (served[-1]["id"], 3, None),
        (served[-1]["id"], 4, None),
    }


def test_the_second_output_is_compared_by_the_rows_of_the_first(stored: Project, served: list[Json]) -> None:
    shutil.copytree(stored.path / STORE / "models/1", stored.path / STORE / "models/2")
    for record in served:
        record["assigned"] = True
    seconds = [second(record, version="2") for record in served]
    found = skew.replay(write(stored, [*served[:30], *seconds[:30], *served[30:], *seconds[30:]]))
    assert [(one["version"], one["requests"], one["outputs_differing"]) for one in found["versions"]] == [
        ("1", len(served), 0),
        ("2", len(served), 0),
    ]
    assert found["versions"][1]["values"] == 0
    seconds[5]["output"] = served[6]["output"] if served[6]["output"] != served[5]["output"] else [None]
    shutil.rmtree(stored.path / STORE / "predictions")
    (difference,) = skew.replay(write(stored, [served[5], seconds[5]]))["differences"][:1]
    assert (difference["examples"][0]["version"], difference["examples"][0]["id"]) == ("2", "r5")


def test_a_second_output_without_its_rows_is_counted(
    stored: Project, served: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skew, "_HELD_ROWS", 10)
    for record in served[:20]:
        record["assigned"] = True
    twice = served[20] | {"assigned": True}
    failed = second(served[0], output=None, failed="ValueError: planted")
    late = [second(served[0]), second(served[19])]
    found = skew.replay(write(stored, [*served[:20], failed, *late, twice, twice, second(twice)]))
    assert (found["requests"], found["unmatched"], found["differences"]) == (20 + 1 + 2, 2, [])


def test_a_version_that_is_gone_is_said(stored: Project, served: list[Json]) -> None:
    served[0]["version"] = "0"
    found = skew.replay(write(stored, served))
    assert (found["missing"], found["requests"]) == ({"0": 1}, len(served) - 1)
    shutil.rmtree(stored.path / STORE / "models/1")
    with pytest.raises(InputError, match=r"holds no prediction that can be compared; the models of 62 are no longer"):
        skew.replay(stored.path / STORE / "predictions")


def test_one_request_in_so_many_can_be_looked_at(stored: Project, served: list[Json]) -> None:
    folder = write(stored, served)
    found = skew.replay(folder, sample=4)
    assert 1 < found["requests"] < len(served) / 2
    assert found == skew.replay(folder, sample=4) | {"at": found["at"]}


def test_what_was_served_before_can_be_left_out(stored: Project, served: list[Json]) -> None:
    served[0]["x"][0][0] = 4711.0
    served[1]["at"] = "2026-11-26T00:00:00.000000Z"
    folder = write(stored, served)
    assert skew.replay(folder)["differences"]
    found = skew.replay(folder, since=datetime(2026, 11, 25, tzinfo=UTC))
    assert (found["differences"], found["requests"]) == ([], 1)
    ran = stored.run("python", "-m", skew.__name__, "--log", str(folder), "--days", "0.001")
    assert (ran.returncode, ran.stderr) == (0, "")  # nothing was served lately, and that is no fault
    report = json.loads((stored.path / skew.REPORT).read_text(encoding="utf-8"))
    assert (report["versions"], report["differences"]) == ([], [])


@pytest.mark.parametrize("x", [[[1.0] * 999], [], [[]], [[1.0], [1.0, 2.0]], [["a"]]])
def test_features_of_another_number_are_a_difference(stored: Project, served: list[Json], x: Any) -> None:
    served[0]["x"] = x
    found = skew.replay(write(stored, served))
    assert [(entry["column"], entry["count"]) for entry in found["differences"]] == [("number of values", 1)]
    assert found["versions"][0]["values_differing"] == len(features.features(stored.contract))


def test_an_estimator_that_adds_up_otherwise_in_batches_is_no_skew(stored: Project) -> None:
    contract = stored.contract
    X, y = features.load(stored.path / "data/train.parquet", contract)
    path, given = "sklearn.discriminant_analysis.LinearDiscriminantAnalysis", {"solver": "lsqr"}
    if contract.task == "regression":
        path, given = "sklearn.linear_model.Ridge", {}
    model = Model(contract, fit(make_estimator(path, contract.task, given, 0), contract, (X, y), (X, y)))
    model.save(stored.path / STORE / "models/2", stored.path / "contract.yaml")
    records = answers(stored, [[row] for row in rows_of(stored, 300)], version="2")
    assert skew.replay(write(stored, records))["differences"] == []


def test_a_project_that_served_nothing_says_so(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    ran = project.run("python", "-m", skew.__name__, "--log", "nowhere")
    assert (ran.returncode, ran.stderr) == (1, "error: nowhere is missing: there are no predictions yet\n")
    assert project.run("python", "-m", skew.__name__, "--sample", "0").returncode == 2
