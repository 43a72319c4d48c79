"""Is the encoding a pure function of contract and row, whatever the values, the batch and the order?"""

import datetime as dt
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
        "quality": (),
    }  # fmt: skip
    return Column(name="x", type=kind, **(neutral | given))


def encoded(content: list[Any], contract: Contract, kind: str, **given: Any) -> list[list[float]]:
    """Encode one column under a contract that has only this feature."""
    alone = Contract(
        id="one", name="one", columns=(column(kind, **given),), server=contract.server, quality=(), task="regression",
        digest="",
    )  # fmt: skip
    table = pa.table({"x": pa.array(content, ARROW_TYPES[kind])})
    result: list[list[float]] = features.encode(table, alone).tolist()
    return result


@given(data=st.data())
def test_any_rows_become_a_matrix_of_finite_numbers_or_missing(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    X = features.encode(batch_of(rows, contract), contract)
    assert X.shape == (len(rows), len(features.features(contract)))
    assert X.dtype == np.float64
    assert not np.isinf(X).any()


@given(data=st.data())
def test_a_row_is_encoded_alike_alone_and_in_any_batch(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(rows_of(contract))
    order = data.draw(st.permutations(range(len(rows))))
    whole = features.encode(batch_of(rows, contract), contract)
    shuffled = features.encode(batch_of([rows[index] for index in order], contract), contract)
    np.testing.assert_array_equal(shuffled, whole[list(order)])
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(features.encode(batch_of([row], contract), contract)[0], whole[index])


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
    assert encoded([3, -(2**53)], contract, "integer") == [[3.0], [-(2.0**53)]]
    assert encoded([1.5], contract, "number") == [[1.5]]
    assert encoded(["b", "a"], contract, "string", values=("a", "b")) == [[1.0], [0.0]]
    moment = dt.datetime(2024, 2, 29, 13, 37, tzinfo=None)  # noqa: DTZ001, a Thursday
    assert encoded([moment], contract, "timestamp") == [[13.0, 3.0, 2.0]]
    assert encoded([moment], contract, "timestamp", custom={"parts": ["day", "minute"]}) == [[29.0, 37.0]]
    assert encoded([moment.date()], contract, "date") == [[2024.0, 2.0, 3.0]]
    assert encoded([moment.time()], contract, "time") == [[13.0, 37.0]]
    np.testing.assert_equal(encoded([None, nan, float("inf"), -float("inf")], contract, "number"), [[nan]] * 4)
    np.testing.assert_equal(encoded(["c", None], contract, "string", values=("a", "b")), [[nan]] * 2)


def test_unlisted_text_goes_to_a_bucket_that_never_changes(contract: Contract) -> None:
    assert encoded(["Zürich", "Zürich", "Oslo"], contract, "string") == [[198.0], [198.0], [151.0]]


def test_the_target_becomes_its_place_among_the_classes(contract: Contract) -> None:
    table = pa.table({contract.target.name: pa.array(contract.classes or [1, 2.5], contract.target.arrow_type)})
    expected = list(range(len(contract.classes))) if contract.classes else [1, 2.5]
    assert features.encode_target(table, contract).tolist() == pytest.approx(expected)


def test_a_file_is_read_chunk_by_chunk_as_it_would_be_at_once(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = contract.classes or (1.0, 2.0)
    rows = [{contract.target.name: values[index % len(values)]} for index in range(25)]
    table = batch_of(rows, contract)
    pq.write_table(table, tmp_path / "rows.parquet")
    monkeypatch.setattr(features, "_BATCH_ROWS", 7)
    X, y = features.load(tmp_path / "rows.parquet", contract)
    np.testing.assert_array_equal(X, features.encode(table, contract))
    np.testing.assert_array_equal(y, features.encode_target(table, contract))
    chosen = np.array([0, 6, 7, 24])
    np.testing.assert_array_equal(features.load(tmp_path / "rows.parquet", contract, chosen)[1], y[chosen])
