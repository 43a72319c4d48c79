"""Which rows of a file keep the contract? The door's rules, asked of whole columns.

A rule is tried on each distinct value, by the very function that the door calls on a request; of numbers and times only
on the smallest and the largest, as long as these keep it.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flight_delays.contract import Column, Contract
from flight_delays.serving import door
from flight_delays.serving.door import Violation, violation
from flight_delays.source import SQL_TYPES, cast_column, connect, quote, text

_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_FLOATS = {"DOUBLE", "FLOAT"}
_CALENDAR = {  # Python's, in which dates and times are compared
    "date": (date.min, date.max),
    "time": (time.min, time.max),
    "timestamp": (f"{date.min} {time.min}", f"{date.max} {time.max}"),
}
_UNREADABLE = {"type", "finite"}  # there is no value to go on with


@dataclass(frozen=True)
class Sifted:
    """A chunk of a file, held against the contract.

    Attributes
    ----------
    rows
        Those that keep it, in the contract's types: the features, then the keys that are none.
    places
        Their places in the chunk, from 0.
    violations
        What the others break, row by row; `row` is the place in the chunk.
    warnings
        How often a rule of a column was broken that the contract only wants counted.
    """

    rows: pa.RecordBatch
    places: NDArray[np.intp]
    violations: list[Violation]
    warnings: Counter[tuple[str | None, str]]


class Sieve:
    """The rules of a contract for the rows of one file.

    Parameters
    ----------
    contract
        The model's.
    stored
        The file's columns with their SQL types, from `source.open_source`.
    """

    def __init__(self, contract: Contract, stored: dict[str, str]) -> None:
        features = contract.features
        self.keys = tuple(column for column in contract.keys if not column.personal and column.name in stored)
        self.columns = features + tuple(column for column in self.keys if column not in features)
        self._contract, self._stored = contract, stored
        self._of_thread = threading.local()

    def query(self) -> str:
        """Write the SQL that reads the columns: each in its type, and beside it the text that is of no such type.

        Text that is to become something else stays text, as its distinct values are quicker to turn.
        """
        chosen = []
        for place, column in enumerate(self.columns):
            value, refused = (quote(column.name), "NULL") if self._turns(column) else self._select(column)
            chosen += [f"{value} AS value{place}", f"{refused} AS refused{place}"]
        return f"SELECT {', '.join(chosen)} FROM source_as_stored"

    def sift(self, chunk: pa.RecordBatch) -> Sifted:
        """Tell the rows that keep the contract from the others.

        Parameters
        ----------
        chunk
            Of the query's result.
        """
        found: list[tuple[int, int, Violation]] = []
        warnings: Counter[tuple[str | None, str]] = Counter()
        arrays = []
        for number, column in enumerate(self.columns):
            values, texts = chunk.column(2 * number), chunk.column(2 * number + 1)
            if self._turns(column):
                values, texts = self._turn(column, values)
            values = values.cast(column.arrow_type)
            arrays.append(values)
            lenient = column.custom.get(door.ON_VIOLATION) == door.WARN
            for entry in self._violations(column, values, texts):
                if lenient and entry.rule not in _UNREADABLE:
                    warnings[column.name, entry.rule] += 1
                else:
                    found.append((entry.row or 0, number, entry))
        rows = pa.RecordBatch.from_arrays(arrays, schema=self._contract.schema(self.columns))
        if not found:
            return Sifted(rows, np.arange(chunk.num_rows), [], warnings)
        found.sort(key=lambda place: place[:2])
        keeps = np.ones(chunk.num_rows, bool)
        keeps[[row for row, _, _ in found]] = False
        return Sifted(rows.filter(pa.array(keeps)), np.flatnonzero(keeps), [entry for _, _, entry in found], warnings)

    def _turns(self, column: Column) -> bool:
        return self._stored[column.name] == "VARCHAR" and column.type != "string"

    def _turn(self, column: Column, texts: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Turn text into a column's type, each distinct text once; give also the text that is of no such type."""
        coded = texts.dictionary_encode()
        distinct = pa.table({column.name: coded.dictionary})
        value, refused = self._select(column)
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = connect()
        self._of_thread.connection.register("texts", distinct)
        query = f"SELECT {value} AS value, {refused} AS refused FROM texts"
        turned = self._of_thread.connection.execute(query).to_arrow_table()
        return tuple(part.combine_chunks().take(coded.indices) for part in turned.columns)

    def _select(self, column: Column) -> tuple[str, str]:
        return _select(column, self._stored[column.name])

    def _violations(self, column: Column, values: pa.Array, texts: pa.Array) -> Iterator[Violation]:
        """Find what a column's values break, in the order in which the door would say it of a row."""
        if texts.null_count < len(texts):
            yield from self._unreadable(column, texts)
        if "feature" not in column.roles:
            return
        if column.required and values.null_count > 0:
            missing = pc.and_(pc.is_null(values), pc.is_null(texts))
            yield from (violation("required", row, column.name) for row in pc.indices_nonzero(missing).to_pylist())
        tests = door.tests_of(column)
        pattern = column.options.get("pattern")
        if not pattern and (not tests or _within_bounds(tests, values)):
            return
        coded = values.dictionary_encode()
        distinct = coded.dictionary.to_pylist()
        asked = [(rule, limit, [not holds(value) for value in distinct]) for rule, limit, holds in tests]
        if pattern:
            matches = pc.match_substring_regex(coded.dictionary, rf"\A(?:{pattern})\z")
            asked.append(("pattern", pattern, pc.invert(matches).to_pylist()))
        for rule, limit, broken in asked:
            if any(broken):
                for row in pc.indices_nonzero(pa.array(broken).take(coded.indices)).to_pylist():
                    yield violation(rule, row, column.name, door.plain(distinct[coded.indices[row].as_py()]), limit)

    def _unreadable(self, column: Column, texts: pa.Array) -> Iterator[Violation]:
        stored = self._stored[column.name]
        rule = "finite" if column.type == "number" and stored in _FLOATS else "type"
        for row in pc.indices_nonzero(pc.is_valid(texts)).to_pylist():
            value = _as_sent(texts[row].as_py(), stored)
            yield violation(rule, row, column.name, value, door.KINDS[column.type])


def _select(column: Column, stored: str) -> tuple[str, str]:
    """Write the SQL of a column's value, and of what is there in its place where it has none of its type."""
    name, value = quote(column.name), cast_column(column, stored)
    there = f"({name} ->> '$') IS NOT NULL" if stored == "JSON" else f"{name} IS NOT NULL"
    if stored in _FLOATS:  # NaN is what other tools write for nothing; infinity is something
        there += f" AND NOT isnan({name})"
        value = f"CASE WHEN isfinite({name}) THEN {value} END"
    elif limits := _CALENDAR.get(column.type):
        first, last = (f"{SQL_TYPES[column.type]} {text(limit)}" for limit in limits)
        value = f"CASE WHEN ({value}) BETWEEN {first} AND {last} THEN {value} END"
    elif stored == SQL_TYPES[column.type]:
        return value, "NULL::VARCHAR"
    return value, f"CASE WHEN ({value}) IS NULL AND {there} THEN {name}::VARCHAR END"


def _as_sent(value: str, stored: str) -> Any:
    """Give a value as JSON would have it, to be shown."""
    if stored == "VARCHAR":
        return value
    try:
        return float(value) if stored in _FLOATS else json.loads(value)
    except ValueError:
        return value


def _within_bounds(tests: list[tuple[str, Any, Any]], values: pa.Array) -> bool:
    """Say whether all values keep the rules because the smallest and the largest do."""
    if not {rule for rule, _, _ in tests} <= _BOUNDS:
        return False
    ends = [end for end in pc.min_max(values).as_py().values() if end is not None]
    return all(holds(end) for _, _, holds in tests for end in ends)
