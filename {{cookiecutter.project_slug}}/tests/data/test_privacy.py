"""Do personal values stay in the data, and the data with the user who runs the pipeline?

The sample carries a personal column of its own, with the same marker in every row: whatever a run of the sample
project writes is searched for it, in each project. In the project itself, its own personal values are looked for.
"""

import asyncio
import gzip
import html
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from flight_delays.contract import Column, Contract
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model
from flight_delays.pipeline.validate import message, validate
from flight_delays.privacy import FOLDERS
from flight_delays.serving.app import create_app
from flight_delays.source import connect, quote, text

from tests.conftest import MARKER, PERSONAL, Project

Copy = Callable[[Project], Project]
DATA = {str(folder) for folder in FOLDERS}  # where personal values belong
CODE = {".git", ".venv", "src", "tests", "node_modules", ".mypy_cache", ".ruff_cache"}  # no run writes there
PICTURES = {".eot", ".gif", ".jpg", ".png", ".ttf", ".woff", ".woff2"}
MOST_VALUES = 2_000  # of a column; a column that gets out does so in many rows
FEWEST = 5  # characters that tell something, and digits of a number that is no amount
FEWEST_DIGITS = 9
WORD = rb"[0-9A-Za-z\x80-\xff]+"


@pytest.mark.ml_test("data-5")
def test_no_output_holds_a_personal_value(project: Project) -> None:
    columns = personal_columns(project.contract)
    if not columns:
        does_not_apply("the contract has no personal column")
    refuse_leaks(project, {column.name: telling_values(project, column) for column in columns})


@pytest.mark.ml_test("data-5")
def test_no_output_of_the_sample_holds_the_marker(finished_project: Project) -> None:
    assert PERSONAL in {column.name for column in personal_columns(finished_project.contract)}
    assert telling_values(finished_project, personal_columns(finished_project.contract)[-1]) == [MARKER]
    refuse_leaks(finished_project, {PERSONAL: [MARKER]})


@pytest.mark.ml_test("data-5")
def test_other_users_cannot_read_the_stored_data(project: Project) -> None:
    if os.name != "posix":
        does_not_apply("files have no POSIX modes here")
    open_files = [path for path in stored(project) if is_open(project, path)]
    tops = {path.relative_to(project.path).parts[0] for path in open_files}
    lines = [
        f"{path.relative_to(project.path)}: every user of this machine can read it: run `chmod go-rwx {top}`"
        for top in sorted(tops)
        for path in [next(path for path in open_files if path.relative_to(project.path).parts[0] == top)]
    ]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def personal_columns(contract: Contract) -> list[Column]:
    """List the columns whose values are looked for; those of a group stand in reports, a group by its name."""
    return [column for column in contract.columns if column.personal and "group" not in column.roles]


def telling_values(project: Project, column: Column) -> list[str]:
    """Give values of a personal column that stand for nothing else: no words, amounts, days, nor another's values."""
    if column.type not in {"string", "integer"}:
        return []
    others = [other for other in project.contract.columns if not other.personal and other.type == "string"]
    rows = f"read_parquet({text(project.path / 'data/rows.parquet')})"
    value = f"CAST({quote(column.name)} AS VARCHAR)"
    query = f"SELECT DISTINCT {value} AS value FROM {rows} WHERE {value} IS NOT NULL"
    for other in others:
        query += f" EXCEPT SELECT {quote(other.name)} FROM {rows}"
    with connect() as connection:
        found = connection.execute(f"SELECT value FROM ({query}) ORDER BY md5(value) LIMIT {MOST_VALUES}").fetchall()
    return [value for (value,) in found if _tells(value)]


def _tells(value: str) -> bool:
    letters, digits = (sum(map(test, value)) for test in (str.isalpha, str.isdigit))
    if letters + digits < FEWEST or value.isalpha():
        return False
    return bool(letters) or digits >= FEWEST_DIGITS


def refuse_leaks(project: Project, values: dict[str, list[str]]) -> None:
    """Fail with each file that holds a value, and the value's column; the value itself is not shown."""
    forms = {
        form.encode(): column
        for column, entries in values.items()
        for value in entries
        for form in {value, json.dumps(value)[1:-1], html.escape(value)}
    }
    by_word: dict[bytes, list[bytes]] = {}
    for form in forms:
        by_word.setdefault(max(re.findall(WORD, form), key=len), []).append(form)
    lines = []
    for path in outputs(project):
        found = {f"the column {name!r}" for name in _parquet_columns(path) & set(values)}
        for content in _contents(path):
            words = set(re.findall(WORD, content)) & by_word.keys()
            found |= {f"a value of column {forms[form]!r}" for word in words for form in _whole(by_word[word], content)}
        place = path.relative_to(project.path)
        lines += [
            f"{place} holds {what}, which is personal: find what wrote it, and delete it" for what in sorted(found)
        ]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def _whole(forms: Iterable[bytes], content: bytes) -> Iterator[bytes]:
    """Find the values that stand there whole, and not as a part of a longer word."""
    return (form for form in forms if re.search(rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])" % re.escape(form), content))


def outputs(project: Project) -> Iterator[Path]:
    """Give all files that are neither data nor code, those of the same content once."""
    seen = set()
    for path in _files(project.path, DATA | CODE):
        if path.suffix not in PICTURES:
            digest = sha256(path.read_bytes()).digest()
            if digest not in seen:
                seen.add(digest)
                yield path


def _files(folder: Path, left_out: set[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name not in left_out and not path.is_symlink():
            if path.is_dir():
                yield from _files(path, {"__pycache__"})
            elif path.is_file():
                yield path


def _contents(path: Path) -> Iterator[bytes]:
    """Give what is in a file, unpacked."""
    if path.suffix == ".parquet":
        stored, table = pq.read_table(path).flatten(), pa.BufferOutputStream()
        for place, column in enumerate(stored.columns):
            if pa.types.is_nested(column.type):
                stored = stored.set_column(place, stored.column_names[place], [list(map(str, column.to_pylist()))])
        csv.write_csv(stored, table)
        yield table.getvalue().to_pybytes()
    elif path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    else:
        yield path.read_bytes()


def _parquet_columns(path: Path) -> set[str]:
    return set(pq.read_schema(path).names) if path.suffix == ".parquet" else set()


def stored(project: Project) -> Iterator[Path]:
    """Give the files that hold rows, or may do so: data, DVC's cache and temporary copies, logs and the source."""
    for folder in (
        project.path / "data",
        project.path / ".dvc/cache",
        project.path / ".dvc/tmp",
        project.path / "logs",
    ):
        if folder.exists():
            yield from _files(folder, set())
    server = project.contract.server
    source = project.path / str(server.path)
    if server.type == "local" and source.is_file() and source.is_relative_to(project.path):
        yield source


def is_open(project: Project, path: Path) -> bool:
    """Whether another user gets through all folders of the project to a file, and can read it."""
    folders = [folder for folder in path.parents if folder.is_relative_to(project.path)]
    return bool(path.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in folders)


@pytest.mark.parametrize(
    "name", ["reports/metrics.json", "models/candidate/notes.txt.gz", "reports/predictions.parquet"]
)
@pytest.mark.sabotage(of=test_no_output_holds_a_personal_value, fault="a personal value in an output")
def test_a_personal_value_in_an_output_is_named_by_file_and_column(
    finished_project: Project, copy: Copy, name: str
) -> None:
    project = copy(finished_project)
    path, found = project.path / name, f'{{"worst row": "{MARKER}"}}'.encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"row": [1], "who": [MARKER]}), path)
    else:
        path.write_bytes(gzip.compress(found) if path.suffix == ".gz" else found)
    with pytest.raises(pytest.fail.Exception, match=f"{name} holds a value of column '{PERSONAL}'") as refusal:
        test_no_output_holds_a_personal_value(project)
    assert MARKER not in str(refusal.value)


@pytest.mark.sabotage(of=test_no_output_of_the_sample_holds_the_marker, fault="rows kept among the reports")
def test_a_copy_of_the_rows_is_named_by_its_column(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    rows = pq.read_table(project.path / "data/test.parquet").slice(0, 3)
    pq.write_table(rows, project.path / "reports/hardest.parquet")
    with pytest.raises(pytest.fail.Exception, match=rf"hardest\.parquet holds the column '{PERSONAL}'"):
        test_no_output_of_the_sample_holds_the_marker(project)


@pytest.mark.sabotage(of=test_other_users_cannot_read_the_stored_data, fault="a data folder open to all")
def test_an_open_folder_is_named_with_the_command_that_closes_it(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    for folder in (project.path, project.path / "data"):
        folder.chmod(0o755)
    (project.path / "data/rows.parquet").chmod(0o644)
    with pytest.raises(pytest.fail.Exception, match=r"^data/.*parquet: every user .*: run `chmod go-rwx data`$"):
        test_other_users_cannot_read_the_stored_data(project)


@pytest.mark.ml_test("data-5", twin="plants the fault itself, in a column that is personal and in one that is not")
@pytest.mark.parametrize("personal", [True, False])
def test_a_broken_rule_shows_values_only_where_they_are_not_personal(
    finished_project: Project, tmp_path: Path, personal: bool
) -> None:
    *others, last = finished_project.contract.columns
    assert last.name == PERSONAL
    strict = replace(finished_project.contract, columns=(*others, replace(last, values=("nobody",), personal=personal)))
    rows = finished_project.path / "data/rows.parquet"
    broken = [entry for entry in validate(strict, rows, tmp_path / "docs") if not entry["success"]]
    pages = b"".join(path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file())
    words = " ".join(message(entry, rows) for entry in broken)
    assert PERSONAL in words
    assert (MARKER in words, MARKER.encode() in pages) == (not personal, not personal)


@pytest.mark.ml_test("data-5", twin="sends a personal value itself")
def test_the_service_neither_repeats_nor_logs_a_personal_value(
    finished_project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(finished_project.path)
    caplog.set_level(logging.DEBUG)
    good, refused = asyncio.run(send_marker(create_app(Model.load(Path("models/candidate")))))
    assert good.status_code == 200
    for answer in refused:
        assert answer.status_code == 422
        assert PERSONAL in answer.text
        assert MARKER not in answer.text
    assert MARKER not in "".join([*capfd.readouterr(), caplog.text])


async def send_marker(app: Any) -> tuple[httpx.Response, list[httpx.Response]]:
    """Send the service's own example as it is, and with a personal value to each path that takes rows."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        (row,) = (await client.get("/example")).json()["rows"]
        good = await client.post("/predict", json={"rows": [row]})
        paths = ("/predict", "/explain")
        return good, [await client.post(path, json={"rows": [row | {PERSONAL: MARKER}]}) for path in paths]
