"""Are the parts what they should be: by time where there is one, else stable under order and repetition?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.pipeline.split import PARTS, split

Split = Callable[..., dict[str, pa.Table]]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contract: Contract) -> Split:
    """Split the rows of a query, under a contract made of the query's columns."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()

    def run(
        query: str, time: bool = False, valid: float = 0.15, test: float = 0.15, seed: int = 0, key: str = ""
    ) -> dict[str, pa.Table]:
        duckdb.connect().execute(f"COPY ({query}) TO 'data/rows.parquet' (FORMAT parquet)")
        split(
            _made_for(pq.read_schema("data/rows.parquet"), contract, time, key),
            valid,
            test,
            seed,
            Path("data/rows.parquet"),
        )
        return {part: pq.read_table(path) for part, path in PARTS.items()}

    return run


def _made_for(schema: pa.Schema, contract: Contract, time: bool, key: str) -> Contract:
    from dataclasses import replace

    roles = {"late": "target"} | ({"day": "time"} if time else {}) | ({key: "key"} if key else {})
    names: dict[Any, str] = {pa.bool_(): "boolean", pa.int64(): "integer", pa.timestamp("us"): "timestamp"}
    columns = tuple(
        replace(
            contract.target, name=f.name, type=names[f.type], roles=frozenset({roles.get(f.name, "feature")}), values=()
        )
        for f in schema
    )
    return Contract("x", "x", columns, contract.source, (), "binary", "")


ROWS = "SELECT range AS a, range % 10 = 0 AS late, TIMESTAMP '2024-01-01' + to_days(range::INT) AS day FROM range(1000)"


def test_the_newest_rows_are_the_test(parts: Split) -> None:
    made = parts(ROWS, time=True)
    assert [table.num_rows for table in made.values()] == [700, 150, 150]
    assert made["train"]["a"].to_pylist() == list(range(700))
    assert made["test"]["a"].to_pylist() == list(range(850, 1000))


def test_rows_of_one_time_are_not_parted(parts: Split) -> None:
    made = parts(ROWS.replace("to_days(range::INT)", "to_days((range // 100)::INT)"), time=True)
    days = [set(table["day"].to_pylist()) for table in made.values()]
    assert sum(len(part) for part in days) == len(set.union(*days))


def test_without_time_each_class_is_parted_in_the_same_shares(parts: Split) -> None:
    made = parts(ROWS)
    assert [table.num_rows for table in made.values()] == [700, 150, 150]
    assert [sum(table["late"].to_pylist()) for table in made.values()] == [70, 15, 15]


def test_without_time_the_order_of_the_rows_does_not_matter(parts: Split) -> None:
    first = {part: set(table["a"].to_pylist()) for part, table in parts(ROWS).items()}
    again = {part: set(table["a"].to_pylist()) for part, table in parts(ROWS + " ORDER BY hash(range)").items()}
    assert first == again
    assert first != {part: set(table["a"].to_pylist()) for part, table in parts(ROWS, seed=1).items()}


@pytest.mark.parametrize("key", ["", "id"])
def test_without_time_a_new_column_moves_no_row(parts: Split, key: str) -> None:
    """Else a champion would be tested on rows that it has learned from."""
    rows = "SELECT range * 7 % 1000 AS id, range % 13 AS a, range % 101 AS b, range % 10 = 0 AS late FROM range(1000)"
    before = parts(rows, key=key)
    after = parts(f"SELECT *, a * b AS newcomer FROM ({rows})", key=key)
    for part in PARTS:
        assert before[part]["id"].to_pylist() == after[part]["id"].to_pylist()


def test_a_repeated_row_stands_on_one_side(parts: Split) -> None:
    made = parts(f"{ROWS} UNION ALL {ROWS.replace('1000', '200')}")
    for value in range(200):
        assert sum(value in set(table["a"].to_pylist()) for table in made.values()) == 1


def test_few_columns_of_few_values_are_still_parted_by_the_shares(parts: Split) -> None:
    made = parts("SELECT range % 3 AS a, range % 4 = 0 AS late FROM range(1000)")
    assert [table.num_rows for table in made.values()] == pytest.approx([700, 150, 150], abs=2)


def test_nothing_is_lost_and_nothing_is_doubled(parts: Split) -> None:
    made = parts(ROWS)
    assert sorted(value for table in made.values() for value in table["a"].to_pylist()) == list(range(1000))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"valid": 0.6, "test": 0.5}, "must leave rows"), ({"valid": 0.0}, "must leave rows")],
)
def test_impossible_shares_are_refused(parts: Split, options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parts(ROWS, **options)


def test_one_time_for_all_rows_is_refused(parts: Split) -> None:
    with pytest.raises(InputError, match="'day' has too few different times"):
        parts(ROWS.replace("to_days(range::INT)", "to_days(1)"), time=True)


def test_too_few_rows_are_refused(parts: Split) -> None:
    with pytest.raises(InputError, match="too few rows"):
        parts(ROWS.replace("1000", "2"))
