"""Is a file predicted as the service would predict its rows, whatever its kind, its faults and the process's end?"""

import contextlib
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_data_contract_standard.model import Server

from flight_delays import features
from flight_delays.contract import ARROW_TYPES, Column, Contract
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model, fit, make_estimator
from flight_delays.serving import batch, door
from flight_delays.serving.sieve import Sieve, Sifted
from flight_delays.source import connect, open_source

from tests.conftest import MARKER, PERSONAL, Project

Copy = Callable[[Project], Project]
KINDS = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet")
TASKS = ("binary", "multiclass", "regression")
CHUNK = 200  # rows
FEWEST = 4_000  # in a file


def write(rows: pa.Table, path: Path) -> Path:
    """Write rows as a file of the kind that its name says."""
    kind = path.name.split(".", 1)[1].removesuffix(".gz")
    how = {"csv": "csv", "tsv": "csv, DELIMITER '\t'", "jsonl": "json", "parquet": "parquet"}[kind]
    gz = ", COMPRESSION gzip" if path.name.endswith(".gz") else ""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        connection.execute(f"COPY (SELECT * FROM rows) TO '{path}' (FORMAT {how}{gz})")
    return path


def read(path: Path) -> dict[str, list[Any]]:
    """Read an output with numbers as they stand."""
    if ".jsonl" in path.name:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = [json.loads(line) for line in text.splitlines()]
        return {name: [str(line[name]) for line in lines] for name in lines[0]}
    with connect() as connection:
        open_source(connection, Server(server="output", type="local", path=str(path)))
        table = connection.execute("SELECT * FROM source_as_stored").to_arrow_table()
    return {name: [str(value) for value in table[name].to_pylist()] for name in table.column_names}


def refused(path: Path) -> list[dict[str, Any]]:
    """Read a side file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def model(finished_project: Project) -> Model:
    """The sample project's own model."""
    return Model.load(finished_project.path / "models/candidate")


@pytest.fixture(scope="module")
def rows(finished_project: Project) -> pa.Table:
    """The sample's rows, as the pipeline stores them; a few are repeated, so that they make a file of many chunks."""
    stored = pq.read_table(finished_project.path / "data/rows.parquet")
    return pa.concat_tables([stored] * -(-FEWEST // stored.num_rows)).combine_chunks()


def as_task(model: Model, rows: pa.Table, task: str) -> Model:
    """Fit a small model of a task to the same columns."""
    labels = {"binary": ("no", "yes"), "multiclass": ("red", "green", "blue")}.get(task, ())
    kind = "string" if labels else "number"
    target = replace(model.contract.target, type=kind, values=labels, custom={"task": "auto"})
    columns = tuple(target if column.name == target.name else column for column in model.contract.columns)
    aimed = replace(model.contract, columns=columns, task=task)
    X = features.encode(rows, aimed)
    y = np.argsort(np.nan_to_num(X).sum(axis=1)).argsort() % (len(labels) or len(X))
    both = (X, y.astype(np.float64))
    return Model(aimed, fit(make_estimator("auto", task, {"n_estimators": 5}, 0), aimed, both, both), 0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_gets_the_models_own_answers(
    model: Model, rows: pa.Table, kind: str, tmp_path: Path
) -> None:
    source = write(rows, tmp_path / f"rows.{kind}")
    output = tmp_path / f"answers.{kind}"
    whole, parts = batch.predict(source, output, model, "m", rows=1_000)
    assert (whole.rows, whole.scored, whole.refused) == (rows.num_rows, rows.num_rows, [])
    expected = model.score(rows)
    found = read(output)
    assert [int(number) for number in found["row"]] == list(range(1, rows.num_rows + 1))
    if model.contract.task == "binary":
        assert [float(share) for share in found["probability"]] == expected.tolist()
    if model.contract.task == "multiclass":
        shares = [found[f"probability_{name}"] for name in model.contract.classes]
        assert [[float(share) for share in row] for row in zip(*shares, strict=True)] == expected.tolist()
    decided = [str(value) for value in model.decide(expected)]
    same = (
        [float(value) for value in found["prediction"]] == expected.tolist()
        if model.contract.task == "regression"
        else ([value.lower() for value in found["prediction"]] == [value.lower() for value in decided])
    )
    assert same
    for key in model.contract.keys:
        assert (key.name in found) != key.personal
    assert not parts.folder.exists()
    assert not parts.refused.exists()
    assert MARKER not in (gzip.decompress(output.read_bytes()) if kind.endswith("gz") else output.read_bytes()).decode(
        errors="replace"
    )


def test_of_keys_the_personal_ones_are_left_out(model: Model, rows: pa.Table, tmp_path: Path) -> None:
    public = model.contract.features[0].name
    keys = {PERSONAL, public}
    columns = tuple(
        replace(column, roles=(column.roles - {"key"}) | ({"key"} if column.name in keys else set()))
        for column in model.contract.columns
    )
    keyed = replace(model, contract=replace(model.contract, columns=columns))
    batch.predict(write(rows, tmp_path / "rows.parquet"), tmp_path / "answers.parquet", keyed, "m")
    found = pq.read_table(tmp_path / "answers.parquet")
    assert found[public].to_pylist() == rows[public].to_pylist()
    assert PERSONAL not in found.column_names


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_decided_as_the_model_decides(model: Model, rows: pa.Table, task: str, tmp_path: Path) -> None:
    aimed = as_task(model, rows, task)
    batch.predict(write(rows, tmp_path / "rows.parquet"), tmp_path / "answers.parquet", aimed, "m")
    found = pq.read_table(tmp_path / "answers.parquet")
    output = aimed.score(rows)
    assert found["prediction"].to_pylist() == aimed.decide(output)
    if task == "binary":
        assert found["probability"].to_pylist() == output.tolist()
    if task == "multiclass":
        shares = [found[f"probability_{name}"].to_pylist() for name in aimed.contract.classes]
        assert [list(row) for row in zip(*shares, strict=True)] == output.tolist()


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "date": st.dates(),
    "integer": st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1),
    "number": st.integers(-5, 5).map(float) | st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text("ab\n é", max_size=4) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9),
    "time": st.times(),
    "timestamp": st.datetimes(),
}


def of_one(contract: Contract, column: Column, kind: str, **given: Any) -> Contract:
    """Make a contract whose only feature is `x`."""
    plain: dict[str, Any] = {
        "required": False,
        "values": (),
        "options": {},
        "custom": {},
        "roles": frozenset({"feature"}),
    }
    return replace(contract, columns=(replace(column, name="x", type=kind, **(plain | given)),))


def draw_rules(data: st.DataObject, kind: str) -> dict[str, Any]:
    """Draw what a contract may ask of a column of a type."""
    one = VALUES[kind].map(door.plain)
    options: dict[str, Any] = {}
    if kind in {"date", "integer", "number", "time", "timestamp"}:
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        options = data.draw(st.dictionaries(st.sampled_from(names), one, max_size=2))
    if kind == "string":
        options = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "minLength": st.integers(0, 3),
                    "maxLength": st.integers(0, 5),
                    "pattern": st.sampled_from(["a*", "[ab]+|é", "^a.*$", "(?i)A"]),
                },
            )
        )
    values = tuple(data.draw(st.lists(one, max_size=3, unique=True))) if kind != "boolean" else ()
    return {"options": options, "values": values, "required": data.draw(st.booleans())}


def sift(contract: Contract, source: Path) -> Sifted:
    """Hold a file against a contract, as one chunk."""
    with connect() as connection:
        sieve = Sieve(contract, open_source(connection, Server(server="input", type="local", path=str(source))))
        (chunk,) = batch._chunks(connection, sieve.query(), 1_000, 0)
    return sieve.sift(chunk)


@pytest.mark.parametrize("kind", ARROW_TYPES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_column_of_any_rules_is_refused_as_at_the_door(
    contract: Contract, kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    one = of_one(contract, contract.features[0], kind, **draw_rules(data, kind))
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=8))
    table = pa.table({"x": pa.array(values, ARROW_TYPES[kind])})
    expected, violations = door.read(door.to_json(table, one), one)
    pq.write_table(table, tmp_path / "x.parquet")
    sifted = sift(one, tmp_path / "x.parquet")
    assert sifted.violations == violations
    kept = [place for place in range(len(values)) if place not in {entry.row for entry in violations}]
    assert sifted.places.tolist() == kept
    assert pa.table(sifted.rows.columns, names=["x"]).equals(table.take(pa.array(kept, pa.int64())))
    assert expected.num_rows == len(values)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("boolean", "1"),
        ("date", "2024-02-30"),
        ("integer", "5.5"),
        ("integer", "9223372036854775808"),
        ("integer", "many"),
        ("number", "inf"),
        ("number", "1_000"),
        ("time", "12:00:00+01:00"),
        ("timestamp", "epoch"),
        ("timestamp", "0000-01-01T00:00:00"),
    ],
)
def test_text_that_is_of_no_such_type_is_refused_as_at_the_door(
    contract: Contract, kind: str, text: str, tmp_path: Path
) -> None:
    one = of_one(contract, contract.features[0], kind)
    (tmp_path / "x.csv").write_text(f'x,y\n"{text}",1\n,2\n', encoding="utf-8")
    assert sift(one, tmp_path / "x.csv").violations == door.read([{"x": text}, {"x": None}], one)[1]


def test_numbers_that_are_none_are_gaps_or_refused(contract: Contract, tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, float("nan"), float("inf"), float("-inf"), None]})
    pq.write_table(table, tmp_path / "x.parquet")
    one = of_one(contract, contract.features[0], "number")
    sifted = sift(one, tmp_path / "x.parquet")
    assert sifted.violations == door.read([{"x": v} for v in (1.0, None, float("inf"), float("-inf"), None)], one)[1]
    assert sifted.rows.column(0).to_pylist() == [1.0, None, None]  # NaN is how pandas writes a gap
    required = of_one(contract, contract.features[0], "integer", required=True)
    found = [(entry.row, entry.rule) for entry in sift(required, tmp_path / "x.parquet").violations]
    assert found == [(1, "required"), (2, "type"), (3, "type"), (4, "required")]


def test_what_the_contract_only_wants_counted_is_let_pass(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x\n1\n-1\nmany\n-2\n", encoding="utf-8")
    lenient = {"options": {"minimum": 0}, "custom": {door.ON_VIOLATION: door.WARN}}
    sifted = sift(of_one(contract, contract.features[0], "integer", **lenient), tmp_path / "x.csv")
    assert [(entry.row, entry.rule) for entry in sifted.violations] == [(2, "type")]
    assert sifted.rows.column(0).to_pylist() == [1, -1, -2]
    assert sifted.warnings == {("x", "minimum"): 2}


@pytest.fixture
def faulty(rows: pa.Table, model: Model, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A file with a wrong type in some rows of the first feature that is no text; and what is to be said."""
    columns = [column for column in model.contract.features if column.type not in {"string", "boolean"}]
    if not columns:
        does_not_apply("every feature is text")
    name, kind = columns[0].name, door.KINDS[columns[0].type]
    places = list(range(5, 3_000, 700))
    texts = rows[name].cast(pa.string()).to_pylist()
    for place in places:
        texts[place] = "many"
    changed = rows.set_column(rows.column_names.index(name), name, pa.array(texts, pa.string()))
    said = [{"row": place + 1, "column": name, "rule": "type", "message": f'"many" is no {kind}'} for place in places]
    return write(changed, tmp_path / "faulty.csv"), said


def test_rows_that_break_the_contract_go_to_a_file_of_their_own(
    faulty: tuple[Path, list[dict[str, Any]]], model: Model, rows: pa.Table, tmp_path: Path
) -> None:
    source, said = faulty
    whole, parts = batch.predict(source, tmp_path / "answers.parquet", model, "m", rows=CHUNK)
    assert parts.refused == tmp_path / "answers.refused.jsonl"
    assert refused(parts.refused) == said
    assert whole.refused == [(said[0]["column"], "type", len(said))]
    bad = {entry["row"] for entry in said}
    found = pq.read_table(tmp_path / "answers.parquet")
    assert found["row"].to_pylist() == [row for row in range(1, rows.num_rows + 1) if row not in bad]
    kept = model.score(rows.take(pa.array(found["row"].to_numpy() - 1)))
    assert found["prediction"].to_pylist() == model.decide(kept)


START = """
import sys, pathlib
from flight_delays.model import Model
from flight_delays.serving import batch
source, output, folder, rows = sys.argv[1:]
batch.predict(pathlib.Path(source), pathlib.Path(output), Model.load(pathlib.Path(folder)), "m", print, int(rows))
"""


def start(source: Path, output: Path, project: Project) -> "subprocess.Popen[str]":
    """Predict in a process of its own, in small chunks."""
    command = [sys.executable, "-c", START, str(source), str(output), "models/candidate", str(CHUNK)]
    return subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(chunks: int, source: Path, output: Path, project: Project) -> Path:
    """Kill a run once it has done so many chunks, and give its folder."""
    folder = output.with_name(f"{output.name}.partial")
    process = start(source, output, project)
    done = 0
    while done < chunks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
        with contextlib.suppress(FileNotFoundError):  # it is emptied before it is begun
            done = len(list(folder.glob("*.done")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl.gz"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    faulty: tuple[Path, list[dict[str, Any]]], model: Model, finished_project: Project, kind: str, tmp_path: Path
) -> None:
    source, said = faulty
    undisturbed = tmp_path / f"undisturbed.{kind}"
    batch.predict(source, undisturbed, model, "m", rows=CHUNK)
    output = tmp_path / f"answers.{kind}"
    folder = kill_after(3, source, output, finished_project)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.done")}
    lost = next(iter(before))
    (folder / lost).with_suffix(".answers").unlink()  # a disk that lost a piece
    again = kill_after(len(before) + 3, source, output, finished_project)
    assert all((again / name).stat().st_mtime_ns == when for name, when in before.items() if name != lost)
    said_lines: list[str] = []
    batch.predict(source, output, model, "m", said_lines.append, CHUNK)
    assert [line[:13] for line in said_lines] == ["goes on after"]
    assert output.read_bytes() == undisturbed.read_bytes()
    assert refused(tmp_path / "answers.refused.jsonl") == said


def test_a_changed_input_or_model_starts_over(
    faulty: tuple[Path, list[dict[str, Any]]], rows: pa.Table, model: Model, finished_project: Project, tmp_path: Path
) -> None:
    source, _ = faulty
    output = tmp_path / "answers.csv"
    folder = kill_after(3, source, output, finished_project)
    lines: list[str] = []
    write(rows.slice(0, 300), source)
    batch.predict(source, output, model, "m", lines.append, CHUNK)
    assert lines == [f"starts over: of what {folder} was begun with, the input changed"]
    assert [int(row) for row in read(output)["row"]] == list(range(1, 301))
    output.unlink()
    write(rows, source)
    kill_after(3, source, output, finished_project)
    batch.predict(source, output, model, "another", lines.append, CHUNK)
    assert lines[1:] == [f"starts over: of what {folder} was begun with, the model changed"]
    assert len(read(output)["row"]) == rows.num_rows


def test_an_old_side_file_does_not_stay_beside_a_new_output(model: Model, rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "answers.refused.jsonl").write_text("{}\n", encoding="utf-8")
    batch.predict(write(rows, tmp_path / "rows.parquet"), tmp_path / "answers.csv", model, "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "rows.parquet"]


def test_an_output_that_is_no_number_is_refused(model: Model, rows: pa.Table, tmp_path: Path) -> None:
    class Broken:
        """A predictor that loses each tenth number."""

        def predict(self, X: features.Floats) -> features.Floats:
            found = np.zeros(len(X))
            found[::10] = np.nan
            return found

    target = replace(model.contract.target, type="number", values=(), custom={})
    columns = tuple(target if column.name == target.name else column for column in model.contract.columns)
    broken = Model(replace(model.contract, columns=columns, task="regression"), Broken())
    source = write(rows, tmp_path / "rows.parquet")
    whole, parts = batch.predict(source, tmp_path / "answers.parquet", broken, "m", rows=100)
    assert whole.refused == [("", "output", -(-rows.num_rows // 10))]
    assert [entry["row"] for entry in refused(parts.refused)] == list(range(1, rows.num_rows + 1, 10))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.csv", None, "is missing"),
        ("rows.xlsx", b"PK", "unknown kind of file"),
        ("rows.csv", b"", "is empty"),
        ("rows.csv", b"stranger\n1\n", "which the model needs"),
        ("rows.parquet", b"PAR1 and no more", "cannot be read"),
        ("rows.csv.gz", b"no gzip at all", "cannot be read"),
    ],
)
def test_an_input_that_cannot_be_is_said_in_one_line(
    finished_project: Project, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = finished_project.run(
        "python", "-m", batch.__name__, str(tmp_path / name), str(tmp_path / "out.csv"), "--model", "models/candidate"
    )
    assert (ran.returncode, len(ran.stderr.splitlines()), ran.stdout) == (1, 1, "")
    assert ran.stderr.startswith("error: ")
    assert words in ran.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {name}


def test_a_file_that_turns_bad_is_said_and_leaves_no_output(model: Model, rows: pa.Table, tmp_path: Path) -> None:
    source = write(rows, tmp_path / "rows.csv")
    with source.open("ab") as file:
        file.write(b"\xff\xfe,\xff\n" * 3)
    with pytest.raises((InputError, duckdb.Error)):
        batch.predict(source, tmp_path / "out.csv", model, "m", rows=CHUNK)
    assert not (tmp_path / "out.csv").exists()


def test_an_output_that_cannot_be_is_refused(model: Model, rows: pa.Table, tmp_path: Path) -> None:
    source = write(rows.slice(0, 9), tmp_path / "rows.csv")
    with pytest.raises(InputError, match="unknown kind of file: use"):
        batch.predict(source, tmp_path / "out.xlsx", model, "m")
    with pytest.raises(InputError, match="is the input"):
        batch.predict(source, source, model, "m")


def test_a_file_without_any_good_row_is_an_error_that_names_the_rule(
    model: Model, rows: pa.Table, faulty: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, said = faulty
    name = said[0]["column"]
    texts = pa.array(["many"] * rows.num_rows, pa.string())
    source = write(rows.set_column(rows.column_names.index(name), name, texts), tmp_path / "bad.csv")
    with pytest.raises(InputError, match=f"none of its {rows.num_rows:,} rows .* column '{name}', rule 'type'"):
        batch.predict(source, tmp_path / "out.csv", model, "m")
    assert not (tmp_path / "out.csv").exists()
    assert len(refused(tmp_path / "out.refused.jsonl")) == rows.num_rows


@pytest.mark.skipif(os.name != "posix", reason="a limit to the size of files is POSIX's")
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_later(
    finished_project: Project, rows: pa.Table, tmp_path: Path
) -> None:
    source = write(rows, tmp_path / "rows.csv")
    command = [
        sys.executable,
        "-m",
        batch.__name__,
        str(source),
        str(tmp_path / "out.csv"),
        "--model",
        "models/candidate",
    ]

    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ran = subprocess.run(
        command, cwd=finished_project.path, preexec_fn=few_bytes, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("error: ")
    assert "the disk is full" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out.csv").exists()
    ran = subprocess.run(command, cwd=finished_project.path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"{rows.num_rows:,} rows" in ran.stdout


def test_the_registrys_champion_answers_where_no_model_is_named(
    finished_project: Project, copy: Copy, rows: pa.Table, tmp_path: Path
) -> None:
    project = copy(finished_project)
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    client.set_registered_model_alias(project.contract.id, "champion", "1")  # whatever the gate says of a sample
    write(rows, tmp_path / "rows.csv")
    ran = project.run("python", "-m", batch.__name__, str(tmp_path / "rows.csv"), str(tmp_path / "out.csv"))
    assert ran.returncode == 0, ran.stderr
    assert len(read(tmp_path / "out.csv")["row"]) == rows.num_rows


def test_memory_does_not_grow_with_the_file(finished_project: Project, rows: pa.Table, tmp_path: Path) -> None:
    measure = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    used = []
    for times in (10, 300):
        source = tmp_path / f"{times}.parquet"
        with pq.ParquetWriter(source, rows.schema) as writer:
            for _ in range(times):
                writer.write_table(rows)
        command = [sys.executable, "-c", START + measure, str(source), str(tmp_path / f"{times}.out.csv")]
        command += ["models/candidate", "8192"]
        ran = subprocess.run(command, cwd=finished_project.path, capture_output=True, text=True, check=True)
        used.append(int(ran.stdout.split()[-1]))
    assert used[1] < 1.3 * used[0]
