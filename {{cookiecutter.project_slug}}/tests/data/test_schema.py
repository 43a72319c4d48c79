"""Does every feature have expectations, do they hold on the data, and is each kind of fault caught by them?"""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.pipeline.ingest import ingest
from flight_delays.pipeline.validate import expectations, message, validate
from flight_delays.source import quote, text

from tests.conftest import Project

Copy = Callable[[Project], Project]
Check = Callable[..., list[str]]
CAUGHT = pytest.mark.ml_test("data-1", twin="plants the fault itself, in healthy rows")


@pytest.mark.ml_test("data-1")
def test_every_feature_has_expectations(project: Project) -> None:
    contract = project.contract
    lines = [
        f"contract.yaml: feature {column.name!r} has no expectation: say what must hold for it (`required`, `enum`, "
        f"`logicalTypeOptions` or `quality`)"
        for column in contract.features
        if len(expectations(replace(contract, columns=(column,), rules=()), personal=False)) < 2  # 1: that it is there
    ]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.mark.ml_test("data-1")
def test_the_data_keeps_every_expectation(project: Project) -> None:
    rows = project.path / "data/rows.parquet"
    broken = [message(entry, rows) for entry in validate(project.contract, rows, docs=None) if not entry["success"]]
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


@pytest.mark.sabotage(of=test_every_feature_has_expectations, fault="a feature without a rule")
def test_a_feature_without_a_rule_is_named(fresh_project: Project, copy: Copy) -> None:
    project = copy(fresh_project)
    bare = {"name": "a_bare_one", "logicalType": "number", "tags": ["feature"]}
    project.edit("contract.yaml", lambda document: document["schema"][0]["properties"].append(bare))
    with pytest.raises(pytest.fail.Exception, match="feature 'a_bare_one' has no expectation: say what"):
        test_every_feature_has_expectations(project)


@pytest.mark.sabotage(of=test_the_data_keeps_every_expectation, fault="a null where none may be")
def test_a_broken_expectation_is_named(fresh_project: Project, copy: Copy) -> None:
    project = copy(fresh_project)
    column = next(column for column in project.contract.columns if column.required and not column.personal)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW healthy AS SELECT * FROM '{project.sample}'")
        connection.execute(f"COPY ({replaced(column, 'NULL')}) TO '{project.path / 'data/rows.parquet'}'")
    with pytest.raises(pytest.fail.Exception, match=f"column {column.name!r}: column values to not be null"):
        test_the_data_keeps_every_expectation(project)


@pytest.fixture
def check(fresh_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Put a query over the healthy rows in place of the data; give the messages of what is broken."""
    monkeypatch.chdir(tmp_path)

    def run(query: str, contract: Contract = fresh_project.contract) -> list[str]:
        source = tmp_path / str(contract.server.path)
        source.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            connection.execute(f"CREATE VIEW healthy AS SELECT * FROM '{fresh_project.sample}'")
            connection.execute(f"COPY ({query}) TO '{source}' (FORMAT parquet)")
        ingest(contract, tmp_path / "rows.parquet")
        found = validate(contract, tmp_path / "rows.parquet", docs=None)
        return [message(entry, tmp_path / "rows.parquet") for entry in found if not entry["success"]]

    return run


def pick(contract: Contract, wanted: Callable[[Column], Any], what: str) -> Column:
    """Choose a column to break, unless this project's contract has no such rule."""
    found = next((column for column in contract.columns if not column.personal and wanted(column)), None)
    return found or does_not_apply(f"the contract has no {what}")


def replaced(column: Column, value: str) -> str:
    """Write the query that puts a value into the seventh row of a column."""
    kind = {"string": "VARCHAR", "number": "DOUBLE", "integer": "BIGINT"}.get(column.type, column.type.upper())
    name = quote(column.name)
    rest = "SELECT *, row_number() OVER () AS _row FROM healthy"
    broken = f"CASE WHEN _row = 7 THEN CAST({value} AS {kind}) ELSE {name} END AS {name}"
    return f"SELECT * EXCLUDE (_row) REPLACE ({broken}) FROM ({rest}) ORDER BY _row"


def beyond(column: Column) -> str | None:
    """Write a value outside the column's range as SQL, where it has a range."""
    limit, step = (column.minimum, -1) if column.maximum is None else (column.maximum, 1)
    if limit is None:
        return None
    if column.type in {"integer", "number"}:
        return str(limit + step)
    return text(dt.datetime.fromisoformat(str(limit)) + dt.timedelta(days=step)) if column.type != "time" else None


@CAUGHT
def test_healthy_rows_pass(check: Check) -> None:
    assert check("SELECT * FROM healthy") == []


@CAUGHT
def test_a_missing_value_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: column.required, "required column")
    (words, *_) = check(replaced(column, "NULL"))
    assert repr(column.name) in words
    assert "not be null" in words


@CAUGHT
def test_too_many_missing_values_are_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: 0 < column.max_null_share < 1, "limit on missing values")
    (words, *_) = check(f"SELECT * REPLACE (NULL AS {quote(column.name)}) FROM healthy")
    assert repr(column.name) in words
    assert "not be null" in words


@CAUGHT
def test_a_value_out_of_range_is_caught_with_its_row(check: Check, contract: Contract) -> None:
    column = pick(contract, beyond, "column with a range")
    (words, *_) = check(replaced(column, str(beyond(column))))
    assert repr(column.name) in words
    assert "between" in words
    assert "the first is row 7" in words


@CAUGHT
def test_an_unseen_category_is_caught_with_its_row(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda c: c.values and c.type == "string", "column with listed values")
    (words, *_) = check(replaced(column, text("never seen")))
    assert repr(column.name) in words
    assert "never seen" in words
    assert "the first is row 7" in words


@CAUGHT
def test_text_of_another_form_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda c: "pattern" in c.options and not c.values, "column with a pattern")
    (words, *_) = check(replaced(column, text("\t")))
    assert f"column {column.name!r} matches {column.options['pattern']}" in words


@CAUGHT
def test_a_repeated_key_is_caught(check: Check, contract: Contract) -> None:
    if not contract.keys:
        does_not_apply("the contract has no key")
    found = check("SELECT * FROM healthy UNION ALL (SELECT * FROM healthy LIMIT 1)")
    assert any("unique" in words and contract.keys[0].name in words for words in found), found


@CAUGHT
def test_values_in_another_unit_are_caught(check: Check, fresh_project: Project, contract: Contract) -> None:
    """The sample's contract has no rules on means, so the one that is broken is taken from the project's own."""
    column = pick(contract, lambda c: "feature" in c.roles and (_has_mean(c) or _has_range(c)), "rule on a size")
    own = fresh_project.contract
    judged = replace(own, columns=tuple(column if other.name == column.name else other for other in own.columns))
    name = quote(column.name)
    assert check("SELECT * FROM healthy", judged) == []
    found = check(f"SELECT * REPLACE (1000 * {name} AS {name}) FROM healthy", judged)
    what = "mean" if _has_mean(column) else "values"
    assert any(f"column {column.name!r}: column {what} to be between" in words for words in found), found


def _has_mean(column: Column) -> bool:
    """Whether a rule on the mean leaves no room for zero, which is the same in each unit."""
    rules = [rule.implementation for rule in column.quality if isinstance(rule.implementation, dict)]
    means = [rule["kwargs"] for rule in rules if rule.get("type") == "expect_column_mean_to_be_between"]
    return any(limits.get("min_value", 0) > 0 or limits.get("max_value", 0) < 0 for limits in means)


def _has_range(column: Column) -> bool:
    return column.type in {"integer", "number"} and beyond(column) is not None


@CAUGHT
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
    ids=["missing", "extra", "renamed"],
)
def test_a_missing_extra_or_renamed_column_is_caught(check: Check, contract: Contract, change: str, words: str) -> None:
    name = contract.features[0].name
    with pytest.raises(InputError) as refusal:
        check(change.replace("{name}", quote(name)))
    assert words.replace("{name!r}", repr(name)) in str(refusal.value)


@CAUGHT
def test_a_column_of_another_type_is_caught(check: Check, contract: Contract) -> None:
    column = pick(contract, lambda column: column.type != "string", "column that is not text")
    with pytest.raises(InputError, match="row 1: 'many' is no") as refusal:
        check(f"SELECT * REPLACE ('many' AS {quote(column.name)}) FROM healthy")
    assert repr(column.name) in str(refusal.value)


@CAUGHT
def test_a_truncated_file_is_caught(fresh_project: Project, copy: Copy, tmp_path: Path) -> None:
    project = copy(fresh_project)
    project.sample.write_bytes(project.sample.read_bytes()[:-100])
    contract = replace(project.contract, source=project.contract.source | {"path": str(project.sample)})
    with pytest.raises(InputError, match=r"sample\.parquet cannot be read"):
        ingest(contract, tmp_path / "rows.parquet")


def test_a_single_key_is_unique_though_the_contract_does_not_say_so_twice(contract: Contract) -> None:
    column = replace(contract.features[0], roles=frozenset({"key", "feature"}), unique=False)
    rules = expectations(replace(contract, columns=(column, contract.target), rules=()), personal=False)
    assert any(type(rule).__name__ == "ExpectColumnValuesToBeUnique" and rule.column == column.name for rule in rules)


def test_the_values_of_a_personal_key_are_not_shown(contract: Contract) -> None:
    keys = tuple(
        replace(contract.features[0], name=name, roles=frozenset({"key"}), personal=name == "who")
        for name in ("who", "what")
    )
    shop = replace(contract, columns=(*keys, contract.target), rules=())
    shown, hidden = (
        [rule for rule in expectations(shop, personal) if type(rule).__name__ == "ExpectCompoundColumnsToBeUnique"]
        for personal in (False, True)
    )
    assert (len(shown), len(hidden)) == (0, 1)
