"""Is data that breaks the contract caught, each fault by its column and rule?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError
from flight_delays.pipeline.ingest import ingest
from flight_delays.pipeline.validate import message, validate
from flight_delays.source import quote, text

from tests.conftest import Project

Check = Callable[[str], list[str]]


@pytest.fixture
def check(finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Put a query over the healthy rows in place of the data; give the messages of what is broken."""
    healthy = finished_project.path / "data/rows.parquet"
    contract = finished_project.contract
    monkeypatch.chdir(tmp_path)

    def run(query: str) -> list[str]:
        source = tmp_path / str(contract.server.path)
        source.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            connection.execute(f"CREATE VIEW healthy AS SELECT * FROM '{healthy}'")
            connection.execute(f"COPY ({query}) TO '{source}' (FORMAT parquet)")
        ingest(contract, tmp_path / "rows.parquet")
        found = validate(contract, tmp_path / "rows.parquet", tmp_path / "docs")
        assert (tmp_path / "docs/index.html").exists()
        return [message(entry, tmp_path / "rows.parquet") for entry in found if not entry["success"]]

    return run


def pick(contract: Contract, wanted: Callable[[Column], Any], what: str) -> Column:
    """Choose a column to break, or skip where this project's contract has no such rule."""
    found = next((column for column in contract.columns if not column.personal and wanted(column)), None)
    if found is None:
        pytest.skip(f"does not apply: the contract has no {what}")
    return found


def replaced(column: Column, value: str) -> str:
    """Write the query that puts a value into the seventh row of a column."""
    kind = {"string": "VARCHAR", "number": "DOUBLE", "integer": "BIGINT"}.get(column.type, column.type.upper())
    name = quote(column.name)
    rest = "SELECT *, row_number() OVER () AS _row FROM healthy"
    broken = f"CASE WHEN _row = 7 THEN CAST({value} AS {kind}) ELSE {name} END AS {name}"
    return f"SELECT * EXCLUDE (_row) REPLACE ({broken}) FROM ({rest}) ORDER BY _row"


def test_healthy_data_passes(check: Check) -> None:
    assert check("SELECT * FROM healthy") == []


def test_a_missing_value_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: column.required, "required column")
    (words, *_) = check(replaced(column, "NULL"))
    assert repr(column.name) in words
    assert "not be null" in words


def test_a_value_out_of_range_is_caught_with_its_row(check: Check, contract: Contract) -> None:
    numeric = {"integer", "number"}
    column = pick(contract, lambda c: c.type in numeric and c.maximum is not None, "column with a maximum")
    (words, *_) = check(replaced(column, str(column.maximum + 1)))
    assert repr(column.name) in words
    assert "between" in words
    assert "the first is row 7" in words


def test_an_unseen_category_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda c: c.values and c.type == "string", "column with listed values")
    (words, *_) = check(replaced(column, text("never seen")))
    assert repr(column.name) in words
    assert "never seen" in words
    assert "the first is row 7" in words


def test_a_repeated_key_is_caught(check: Check, contract: Contract) -> None:
    if not contract.keys:
        pytest.skip("does not apply: the contract has no key")
    (words, *_) = check("SELECT * FROM healthy UNION ALL (SELECT * FROM healthy LIMIT 1)")
    assert "unique" in words
    assert contract.keys[0].name in words


def test_too_many_missing_values_are_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: 0 < column.max_null_share < 1, "limit on missing values")
    (words, *_) = check(f"SELECT * REPLACE (NULL AS {quote(column.name)}) FROM healthy")
    assert repr(column.name) in words
    assert "not be null" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("SELECT * EXCLUDE ({name}) FROM healthy", "column {name!r} is missing"),
        ("SELECT *, 1 AS stranger FROM healthy", "column 'stranger' is not in contract.yaml"),
        (
            "SELECT * RENAME ({name} AS stranger) FROM healthy",
            "column {name!r} is missing; column 'stranger' is not in",
        ),
    ],
)
def test_a_missing_extra_or_renamed_column_is_caught(check: Check, contract: Contract, change: str, words: str) -> None:
    name = contract.features[0].name
    with pytest.raises(InputError) as refusal:
        check(change.replace("{name}", quote(name)))
    assert words.replace("{name!r}", repr(name)) in str(refusal.value)


def test_a_column_of_another_type_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: column.type != "string", "column that is not text")
    with pytest.raises(InputError, match="row 1: 'many' is no"):
        check(f"SELECT * REPLACE ('many' AS {quote(column.name)}) FROM healthy")


def test_a_truncated_file_is_caught(check: Check, finished_project: Project, tmp_path: Path) -> None:
    check("SELECT * FROM healthy")
    source = tmp_path / str(finished_project.contract.server.path)
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        ingest(finished_project.contract, tmp_path / "rows.parquet")


def test_no_personal_value_reaches_the_reports(check: Check, contract: Contract, tmp_path: Path) -> None:
    personal = next((column for column in contract.columns if column.personal and column.type == "string"), None)
    if personal is None:
        pytest.skip("does not apply: the contract has no personal text")
    check(f"SELECT * REPLACE ('marker-4711' AS {quote(personal.name)}) FROM healthy")
    pages = [path for path in (tmp_path / "docs").rglob("*") if path.is_file()]
    assert pages
    assert not [path for path in pages if b"marker-4711" in path.read_bytes()]
