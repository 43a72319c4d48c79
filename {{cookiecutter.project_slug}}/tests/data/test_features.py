"""Is the encoding a pure function of contract and row, whatever the values, the batch and the order?"""

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_delays import features
from flight_delays.contract import ARROW_TYPES, Column, Contract

MANY = 32  # rows that are encoded a column at a time
MUTATED = pytest.mark.ml_test("data-7", twin="tests/data/test_feature_code.py changes the feature code under it")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "date": st.dates(),
    "integer": st.integers(-(2**53), 2**53),
    "number": st.floats(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "time": st.times(),
    "timestamp": st.datetimes(),
}


def rows_of(contract: Contract) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Draw rows of any content that the types allow, known categories among it."""
    columns = {}
    for column in (*contract.features, contract.target):
        values = st.none() | VALUES[column.type]
        columns[column.name] = (st.sampled_from(column.values) | values) if column.values else values
    return st.lists(st.fixed_dictionaries(columns), max_size=12)


def batch_of(rows: list[dict[str, Any]], contract: Contract) -> pa.Table:
    columns = tuple({column.name: column for column in (*contract.features, contract.target)}.values())
    return pa.Table.from_pylist(rows, contract.schema(columns))


def column(kind: str, **given: Any) -> Column:
    neutral: dict[str, Any] = {
        "roles": frozenset({"feature"}), "required": False, "unique": False, "values": (), "minimum": None,
        "maximum": None, "max_null_share": 1.0, "personal": False, "description": "", "options": {}, "custom": {},
        "rules": (),
    }  # fmt: skip
    return Column(name="x", type=kind, **(neutral | given))


def made_of(contract: Contract, *columns: Column, task: str = "regression") -> Contract:
    """Make a contract of these columns, whatever this project's own are."""
    return replace(contract, columns=columns, rules=(), task=task, digest="")


def encoded(content: list[Any], contract: Contract, kind: str, **given: Any) -> list[list[float]]:
    """Encode one column under a contract that has only this feature."""
    table, alone = pa.table({"x": pa.array(content, ARROW_TYPES[kind])}), made_of(contract, column(kind, **given))
    result = features.encode(table, alone)
    np.testing.assert_array_equal(features.encode(table.to_batches()[0], alone), result)
    encode_rows, values = features.encoder(alone), [(value,) for value in table["x"].to_pylist()]
    assert encode_rows(values).tobytes() == result.tobytes()
    assert encode_rows(values * MANY).tobytes() == result.tobytes() * MANY
    rows: list[list[float]] = result.tolist()
    return rows


@MUTATED
@given(data=st.data())
def test_any_rows_become_a_matrix_of_finite_numbers_or_missing(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    X = features.encode(batch_of(rows, contract), contract)
    assert X.shape == (len(rows), len(features.features(contract)))
    assert X.dtype == np.float64
    assert not np.isinf(X).any()


@MUTATED
@given(data=st.data())
def test_a_row_is_encoded_alike_alone_and_in_any_batch(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    order = data.draw(st.permutations(range(len(rows))))
    whole = features.encode(batch_of(rows, contract), contract)
    shuffled = features.encode(batch_of([rows[index] for index in order], contract), contract)
    np.testing.assert_array_equal(shuffled, whole[list(order)])
    encode_rows = features.encoder(contract)
    values = [[row[column.name] for column in contract.features] for row in rows]
    assert encode_rows(values).tobytes() == whole.tobytes()
    assert encode_rows(values * MANY).tobytes() == whole.tobytes() * MANY
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(features.encode(batch_of([row], contract), contract)[0], whole[index])
        assert encode_rows([values[index]]).tobytes() == whole[index].tobytes()


@MUTATED
@given(data=st.data())
def test_a_record_batch_a_chunked_table_and_a_slice_are_encoded_alike(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    table = batch_of(rows, contract)
    whole = features.encode(table, contract)
    chunked = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    np.testing.assert_array_equal(features.encode(chunked, contract), whole)
    for batch in table.to_batches():
        np.testing.assert_array_equal(features.encode(batch, contract), whole)
    np.testing.assert_array_equal(features.encode(table.slice(1), contract), whole[1:])


@MUTATED
@given(data=st.data())
def test_the_target_does_not_reach_the_matrix(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    blank = [row | {contract.target.name: None} for row in rows]
    np.testing.assert_array_equal(
        features.encode(batch_of(rows, contract), contract), features.encode(batch_of(blank, contract), contract)
    )


def test_each_kind_of_value_has_its_numbers(contract: Contract) -> None:
    nan = float("nan")
    assert encoded([True, False], contract, "boolean") == [[1.0], [0.0]]
    assert encoded([3, -(2**53), 2**60 + 1], contract, "integer") == [[3.0], [-(2.0**53)], [2.0**60]]
    assert encoded([3, 1], contract, "integer", values=(3, 1)) == [[3.0], [1.0]]
    assert encoded([1.5], contract, "number") == [[1.5]]
    assert encoded(["b", "a"], contract, "string", values=("a", "b")) == [[1.0], [0.0]]
    assert encoded(["b", "a"], contract, "string", values=("a", "b", "a")) == [[1.0], [0.0]]
    moment = dt.datetime(2024, 2, 29, 13, 37, tzinfo=None)  # noqa: DTZ001, a Thursday
    assert encoded([moment], contract, "timestamp") == [[13.0, 3.0, 2.0]]
    assert encoded([moment], contract, "timestamp", custom={"parts": ["day", "minute"]}) == [[29.0, 37.0]]
    assert encoded([moment.date()], contract, "date") == [[2024.0, 2.0, 3.0]]
    assert encoded([moment.time()], contract, "time") == [[13.0, 37.0]]
    np.testing.assert_equal(encoded([None, nan, float("inf"), -float("inf")], contract, "number"), [[nan]] * 4)
    np.testing.assert_equal(encoded(["c", None], contract, "string", values=("a", "b")), [[nan]] * 2)
    np.testing.assert_equal(encoded([None], contract, "string", values=("a", None)), [[nan]])


def test_a_column_of_the_matrix_is_named_for_its_column_and_part(contract: Contract) -> None:
    kinds = {"town": "string", "price": "number", "when": "timestamp", "day": "date", "at": "time"}
    found = features.features(made_of(contract, *(replace(column(kind), name=name) for name, kind in kinds.items())))
    assert [feature.name for feature in found] == [
        "town", "price", "when.hour", "when.weekday", "when.month", "day.year", "day.month", "day.weekday",
        "at.hour", "at.minute",
    ]  # fmt: skip
    assert [feature.name for feature in found if feature.categorical] == ["town"]
    assert [feature.column.name for feature in found] == [feature.name.split(".")[0] for feature in found]


def test_unlisted_text_goes_to_a_bucket_that_never_changes(contract: Contract) -> None:
    assert encoded(["Zürich", "Zürich", "Oslo"], contract, "string") == [[198.0], [198.0], [151.0]]


def test_the_target_becomes_its_place_among_the_classes(contract: Contract) -> None:
    table = pa.table({contract.target.name: pa.array(contract.classes or [1, 2.5], contract.target.arrow_type)})
    expected = list(range(len(contract.classes))) if contract.classes else [1, 2.5]
    assert features.encode_target(table, contract).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "values", "task", "content", "expected"),
    [
        ("boolean", (), "binary", [True, False], [1.0, 0.0]),
        ("string", ("low", "mid", "high"), "multiclass", ["high", "low", "mid"], [2.0, 0.0, 1.0]),
        ("integer", (7, 3), "binary", [3, 7], [1.0, 0.0]),
        ("number", (), "regression", [2.5, -1.0], [2.5, -1.0]),
        ("integer", (7, 3), "regression", [3, 7], [3.0, 7.0]),
    ],
)
def test_a_target_of_any_kind_becomes_numbers(
    contract: Contract, kind: str, values: tuple[Any, ...], task: str, content: list[Any], expected: list[float]
) -> None:
    target = column(kind, values=values, roles=frozenset({"target"}))
    table = pa.table({"x": pa.array(content, target.arrow_type)})
    assert features.encode_target(table, made_of(contract, target, task=task)).tolist() == expected


def test_a_file_is_read_chunk_by_chunk_as_it_would_be_at_once(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = replace(column("number"), name="y", roles=frozenset({"target"}))
    planted = made_of(contract, column("integer"), target)
    table = pa.table({"x": pa.array(range(25)), "y": pa.array([place / 2 for place in range(25)])})
    pq.write_table(table, tmp_path / "rows.parquet")
    monkeypatch.setattr(features, "_BATCH_ROWS", 7)
    for chosen in ([0, 6, 7, 24], [13], [3, 4, 5, 20], list(range(25))):
        X, y = features.load(tmp_path / "rows.parquet", planted, np.array(chosen))
        assert (X[:, 0].tolist(), (2 * y).tolist()) == (chosen, chosen)
    X, y = features.load(tmp_path / "rows.parquet", planted)
    np.testing.assert_array_equal(X, features.encode(table, planted))
    np.testing.assert_array_equal(y, features.encode_target(table, planted))


def test_only_the_features_and_the_target_are_read_from_a_file(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = batch_of([{}], contract)
    pq.write_table(table.append_column("stranger", pa.array(["x"])), tmp_path / "rows.parquet")
    seen: list[list[str]] = []
    encode = features.encode

    def see(batch: pa.RecordBatch, contract: Contract) -> features.Floats:
        seen.append(batch.schema.names)
        return encode(batch, contract)

    monkeypatch.setattr(features, "encode", see)
    features.load(tmp_path / "rows.parquet", contract)
    assert seen == [table.schema.names]


def test_a_row_is_encoded_by_the_names_of_its_columns(contract: Contract) -> None:
    kinds = {"when": "timestamp", "price": "number", "label": "string", "at": "time"}
    columns = [replace(column(kind), name=name) for name, kind in kinds.items()]
    columns[2] = replace(columns[2], roles=frozenset({"target"}))
    encode_rows = features.encoder(made_of(contract, *columns))
    moment = dt.datetime(2024, 2, 29, 13, 37, tzinfo=None)  # noqa: DTZ001
    for many in (1, MANY):
        known = encode_rows([(moment, 2.5, moment.time())] * many)
        np.testing.assert_array_equal(known, [[13.0, 3.0, 2.0, 2.5, 13.0, 37.0]] * many)
        np.testing.assert_array_equal(encode_rows([(None, None, None)] * many), [[float("nan")] * 6] * many)
    with pytest.raises(ValueError, match="shorter"):
        encode_rows([(None, None, None)] * MANY + [(None, None)])
