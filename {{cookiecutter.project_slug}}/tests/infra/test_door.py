"""Does the service take what the contract allows and nothing else, naming each fault by row, column and rule?"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_delays.contract import ARROW_TYPES, Column, Contract
from flight_delays.serving import door, page

from tests.conftest import Project

Rows = list[dict[str, Any]]
WRONG = {"string": 5, "integer": True}  # of another type than this; for all others, text
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "date": st.dates(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "time": st.times(),
    "timestamp": st.datetimes(),
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def table(fresh_project: Project) -> pa.Table:
    """A hundred rows of the data, feature columns only."""
    contract = fresh_project.contract
    names = [column.name for column in contract.features]
    return (
        pq.read_table(fresh_project.sample, columns=names)
        .select(names)
        .slice(0, 100)
        .cast(contract.schema(contract.features))
    )


@pytest.fixture
def rows(table: pa.Table, contract: Contract) -> Rows:
    """The same, as they are sent."""
    found: Rows = json.loads(json.dumps(door.to_json(table, contract)))
    return found


def of_one(contract: Contract, kind: str, **given: Any) -> Contract:
    """Make a contract whose only feature is `x`, whatever this project's own are."""
    plain: dict[str, Any] = {
        "required": False,
        "values": (),
        "options": {},
        "custom": {},
        "roles": frozenset({"feature"}),
    }
    return replace(contract, columns=(replace(contract.features[0], name="x", type=kind, **(plain | given)),))


def faults(contract: Contract, *values: Any) -> list[str]:
    """List the rules that values of `x` break."""
    return [entry.rule for entry in door.read([{"x": value} for value in values], contract)[1]]


def ways_to_break(column: Column) -> Iterator[tuple[str, Any]]:
    """List rules of a column, each with a value that breaks it."""
    yield "type", WRONG.get(column.type, "many")
    if column.required:
        yield "required", None
    if column.type == "number":
        yield from (("finite", value) for value in (math.nan, math.inf, -math.inf))
    if column.values and column.type == "string":
        yield "values", "never seen"
    if column.type in {"integer", "number"}:
        yield from (("minimum", column.minimum - 1) for _ in [0] if column.minimum is not None)
        yield from (("maximum", column.maximum + 1) for _ in [0] if column.maximum is not None)
    if column.type == "timestamp" and column.minimum:
        yield "minimum", "0001-01-01T00:00:00"
    if column.options.get("pattern"):
        yield "pattern", "\n"


def test_rows_of_the_data_pass_the_door_unchanged(table: pa.Table, rows: Rows, contract: Contract) -> None:
    received, broken = door.read(rows, contract)
    assert broken == []
    assert received.equals(table)


def test_each_rule_of_each_column_is_kept(rows: Rows, contract: Contract) -> None:
    for column in contract.features:
        for rule, value in ways_to_break(column):
            sent = [*rows[:7], rows[7] | {column.name: value}, *rows[8:]]
            _, broken = door.read(sent, contract)
            assert (7, column.name, rule) in [(entry.row, entry.column, entry.rule) for entry in broken]
            assert {(entry.row, entry.column) for entry in broken} == {(7, column.name)}


def test_all_faults_are_named_row_by_row(rows: Rows, contract: Contract) -> None:
    first, last = contract.features[0].name, contract.features[-1].name
    sent = [{name: value for name, value in rows[0].items() if name != last}, 5, rows[1] | {"stranger": 1, first: {}}]
    _, broken = door.read(sent, contract)
    assert [(entry.row, entry.column, entry.rule) for entry in broken] == [
        (0, last, "missing"),
        (1, None, "row"),
        (2, "stranger", "unknown"),
        (2, first, "type"),
    ]
    assert str(broken[2]) == "row 2, column 'stranger': is not asked for: leave it out"


def test_of_columns_that_are_not_asked_for_no_value_is_shown(rows: Rows, contract: Contract) -> None:
    others = [column.name for column in contract.columns if "feature" not in column.roles]
    _, broken = door.read([rows[0] | dict.fromkeys([*others, "stranger"], "marker-4711")], contract)
    assert {entry.rule for entry in broken} == {"unknown"}
    assert {entry.column for entry in broken} == {*others, "stranger"}
    assert "marker-4711" not in str(broken)


@pytest.mark.parametrize("kind", ARROW_TYPES)
@given(data=st.data())
def test_a_value_of_any_type_comes_through_json_unchanged(contract: Contract, kind: str, data: st.DataObject) -> None:
    one = of_one(contract, kind)
    sent = pa.table({"x": pa.array(data.draw(st.lists(st.none() | VALUES[kind], max_size=5)), ARROW_TYPES[kind])})
    received, broken = door.read(json.loads(json.dumps(door.to_json(sent, one))), one)
    assert broken == []
    assert received.equals(sent)


@given(sent=st.lists(ANY_JSON | st.dictionaries(st.just("x"), ANY_JSON), max_size=5))
def test_whatever_is_sent_is_read_or_refused(contract: Contract, sent: list[Any]) -> None:
    for kind in ARROW_TYPES:
        received, broken = door.read(
            sent, of_one(contract, kind, options={"pattern": "a+"} if kind == "string" else {})
        )
        assert received.num_rows == len(sent)
        assert all(0 <= (entry.row or 0) < len(sent) for entry in broken)
        json.dumps([entry.message for entry in broken], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        ("integer", 5.0, "5"),
        ("number", 5, "5.0"),
        ("date", "2024-12-31", "2024-12-31"),
        ("time", "23:59", "23:59:00"),
        ("timestamp", "2024-12-31", "2024-12-31 00:00:00"),
        ("timestamp", "2024-01-01T01:00:00+02:00", "2023-12-31 23:00:00"),
        ("timestamp", "2024-01-01T01:00:00Z", "2024-01-01 01:00:00"),
    ],
)
def test_what_is_clear_is_understood(contract: Contract, kind: str, value: Any, meant: str) -> None:
    received, broken = door.read([{"x": value}], of_one(contract, kind))
    assert broken == []
    assert str(received["x"][0].as_py()) == meant


@pytest.mark.parametrize(
    ("kind", "value", "rule"),
    [
        ("boolean", 1, "type"),
        ("date", "2024-02-30", "type"),
        ("date", 20240131, "type"),
        ("integer", 5.5, "type"),
        ("integer", 2**63, "type"),
        ("integer", "5", "type"),
        ("integer", math.nan, "type"),
        ("number", True, "type"),
        ("number", "5", "type"),
        ("number", 10**400, "finite"),
        ("string", "\ud800", "type"),
        ("time", "12:00:00+01:00", "type"),
        ("timestamp", "epoch", "type"),
        ("timestamp", "0001-01-01T00:00:00+02:00", "type"),
    ],
)
def test_what_is_of_another_type_is_refused(contract: Contract, kind: str, value: Any, rule: str) -> None:
    assert faults(of_one(contract, kind), value) == [rule]


def test_bounds_lengths_and_patterns_are_kept(contract: Contract) -> None:
    closed = of_one(contract, "number", options={"minimum": 0, "maximum": 1})
    assert faults(closed, 0, 1, None) == []
    assert faults(closed, -1, 2) == ["minimum", "maximum"]
    assert faults(of_one(contract, "integer", options={"exclusiveMinimum": 0, "exclusiveMaximum": 2}), 0, 1, 2) == [
        "exclusiveMinimum",
        "exclusiveMaximum",
    ]
    text = of_one(contract, "string", options={"minLength": 2, "maxLength": 3, "pattern": "a|ab+"})
    assert faults(text, "abb", "ab", None) == []
    assert faults(text, "a", "abbb", "ab\n") == ["minLength", "maxLength", "pattern"]
    days = of_one(contract, "date", options={"minimum": "2024-01-01"}, values=("2024-01-05", "2023-01-05"))
    assert faults(days, "2024-01-05", "2023-01-05", "2024-01-06") == ["minimum", "values"]


def test_the_example_in_the_documentation_can_be_sent(contract: Contract) -> None:
    assert door.read(page.example(contract)["rows"], contract)[1] == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("string", {"pattern": "^[A-Z]{3}$"}),
        ("string", {"pattern": "[0-9]+", "minLength": 5}),
        ("number", {"minimum": 3}),
        ("number", {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        ("integer", {"maximum": -3}),
        ("date", {"maximum": "2020-01-01"}),
        ("timestamp", {"minimum": "2030-01-01T00:00:00"}),
        ("time", {}),
        ("boolean", {}),
    ],
)
def test_the_example_keeps_the_rules_of_any_column(contract: Contract, kind: str, options: dict[str, Any]) -> None:
    one = of_one(contract, kind, options=options, required=True)
    assert door.read(page.example(one)["rows"], one)[1] == []
