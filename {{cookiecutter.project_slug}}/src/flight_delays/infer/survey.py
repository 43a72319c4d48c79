"""What is in each column? Counts, ranges and values, aggregated in DuckDB so that any number of rows fits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import psutil
import pyarrow as pa

from flight_delays.infer.kinds import Kind, misfits, settle
from flight_delays.source import quote, text

LISTED = 100  # so many different values are listed one by one
_SAMPLE = 100_000
_TEXTS = 1000
_MEMORY = 4 << 30  # beyond it, DuckDB works on disk
_COLUMNS_AT_ONCE = 20


@dataclass(frozen=True)
class Facts:
    """What a column holds.

    Attributes
    ----------
    name, stored, kind
        The column, its SQL type in the source, and how it is read.
    rows, nulls
        How many rows there are, and how many of them have no value here.
    distinct
        How many different values: exact where few or nearly all differ, near otherwise.
    low, high, mean, spread
        Smallest, largest, mean and standard deviation; `None` where they mean nothing.
    length
        The mean length of text.
    counts
        Each value with the number of its rows, where few enough to be listed.
    """

    name: str
    stored: str
    kind: Kind
    rows: int
    nulls: int
    distinct: int
    low: Any
    high: Any
    mean: float | None
    spread: float | None
    length: float
    counts: Mapping[Any, int]

    @property
    def unique(self) -> bool:
        """Whether no value stands twice."""
        return self.present > 1 and self.distinct == self.present

    @property
    def present(self) -> int:
        """How many rows have a value."""
        return self.rows - self.nulls


class Survey:
    """The rows of a source, copied once to a database on disk, and what was measured on them.

    Attributes
    ----------
    rows
        How many there are.
    stored
        The columns with their SQL types.
    misfits
        Columns with values that are not of their settled type: how many, and the smallest.
    facts
        What each column holds, in the source's order.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        stored: dict[str, str],
        file: str,
        classes: Mapping[str, int],
        known: Mapping[str, Kind],
    ) -> None:
        """Measure the view `source`.

        Parameters
        ----------
        connection, stored
            From `connect` and `open_source`.
        file
            Where the rows are kept meanwhile.
        classes
            The column to predict, with the most classes it may have.
        known
            Columns whose type is settled already.
        """
        self._connection = connection
        self.stored = stored
        connection.execute(f"SET memory_limit = '{min(_MEMORY, psutil.virtual_memory().total * 4 // 5)}B'")
        connection.execute(f"ATTACH '{file}' AS survey")
        connection.execute("CREATE TABLE survey.rows AS SELECT * FROM source")
        self.rows = int(self._ask("SELECT count(*) FROM survey.rows")[0][0])
        self.misfits: dict[str, tuple[int, str | None]] = {}
        for name in stored.keys() & known.keys():
            count, example = misfits(connection, "survey.rows", name, stored[name], known[name])
            if count:
                self.misfits[name] = (count, example)
        kept = {name: kind for name, kind in known.items() if name not in self.misfits}
        unknown = {name: kind for name, kind in stored.items() if name not in kept}
        kinds = settle(connection, "survey.rows", unknown, self.rows, classes)
        self._kinds = {name: kept.get(name) or kinds[name] for name in stored}
        self.facts: dict[str, Facts] = {}
        for some in _parts(stored):
            self.facts |= self._measure(some)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.execute("DETACH survey")

    def sample(self, names: list[str]) -> pa.Table:
        """Read up to 100,000 evenly spaced rows of some columns."""
        columns = ", ".join(f"{self._sql(name)} AS {quote(name)}" for name in names)
        step = -(-self.rows // _SAMPLE)
        query = f"SELECT {columns} FROM survey.rows WHERE rowid % {step} = 0 ORDER BY rowid"
        return self._connection.execute(query).to_arrow_table()

    def texts(self, name: str) -> list[str]:
        """Read up to 1,000 different values of a column as text; the same ones each time."""
        value = f"trim({Kind('string').sql(name, self.stored[name])})"
        step = -(-self.rows // _SAMPLE)
        rows = self._ask(
            f"SELECT DISTINCT {value} AS value FROM survey.rows WHERE rowid % {step} = 0 AND {quote(name)} IS NOT NULL "
            f"ORDER BY md5(value), value LIMIT {_TEXTS}"
        )
        return [text for (text,) in rows]

    def names_a_row(self, names: list[str]) -> bool:
        """Check whether no two rows agree in all of some columns."""
        columns = ", ".join(map(quote, names))
        present = " AND ".join(f"{quote(name)} IS NOT NULL" for name in names)
        for part in (f"(SELECT * FROM survey.rows LIMIT {_SAMPLE})", "survey.rows"):
            query = f"SELECT 1 FROM {part} WHERE {present} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
            if self._connection.execute(query).fetchone():
                return False
        return True

    def others(self, name: str, values: list[Any]) -> list[Any]:
        """List the values of a column that are not among some, 1,000 at most."""
        value = self._sql(name)
        known = ", ".join(text(str(v).lower() if isinstance(v, bool) else v) for v in values)
        rows = self._ask(
            f"SELECT DISTINCT {value} AS value FROM survey.rows "
            f"WHERE {value} IS NOT NULL AND CAST({value} AS VARCHAR) NOT IN ({known}) ORDER BY value LIMIT 1000"
        )
        return [value for (value,) in rows]

    def parts(self, name: str) -> dict[str, int]:
        """Count the different values of the parts of a date or time."""
        kind, value = self._kinds[name].name, self._sql(name)
        known = {
            "timestamp": ("hour", "isodow", "month", "year"),
            "date": ("isodow", "month", "year"),
            "time": ("hour",),
        }
        counts = ", ".join(f"count(DISTINCT {part}({value}))" for part in known[kind])
        (row,) = self._ask(f"SELECT {counts} FROM survey.rows")
        return dict(zip([part.replace("isodow", "weekday") for part in known[kind]], row, strict=True))

    def _ask(self, query: str) -> list[Any]:
        return self._connection.execute(query).fetchall()

    def _sql(self, name: str) -> str:
        return self._kinds[name].sql(name, self.stored[name])

    def _measure(self, names: list[str]) -> dict[str, Facts]:
        terms = [term for name in names for term in self._terms(name)]
        (row,) = self._ask(f"SELECT {', '.join(terms)} FROM survey.rows")
        found = {}
        for name, (present, near, low, high, mean, spread, length) in zip(names, _groups(row, 7), strict=True):
            distinct, counts = self._values(name, present, min(near, present))
            found[name] = Facts(
                name, self.stored[name], self._kinds[name], self.rows, self.rows - present, distinct,
                low, high, mean, spread, length or 0.0, counts,
            )  # fmt: skip
        return found

    def _terms(self, name: str) -> list[str]:
        kind, value = self._kinds[name], self._sql(name)
        ordered = kind.name not in {"string", "boolean"}
        numeric = kind.name in {"integer", "number"}
        if kind.nested:
            value = f"CAST({value} AS VARCHAR)"
        return [
            f"count({value})",
            f"approx_count_distinct({value})",
            f"min({value})" if ordered else "NULL",
            f"max({value})" if ordered else "NULL",
            f"avg(CAST({value} AS DOUBLE))" if numeric else "NULL",
            f"stddev_pop(CAST({value} AS DOUBLE))" if numeric else "NULL",
            f"avg(length({value}))" if kind.name == "string" else "NULL",
        ]

    def _values(self, name: str, present: int, near: int) -> tuple[int, dict[Any, int]]:
        """Count exactly where it matters: few values, or nearly as many as rows."""
        value = self._sql(name)
        if near <= 1.5 * LISTED:
            query = (
                f"SELECT {value} AS value, count(*) FROM survey.rows WHERE {value} IS NOT NULL GROUP BY 1 ORDER BY 1"
            )
            counts = dict(self._ask(query))
            return len(counts), counts if len(counts) <= LISTED else {}
        if near < 0.8 * present or self._kinds[name].name == "number":
            return near if near < present else present - 1, {}
        ((distinct,),) = self._ask(
            f"SELECT count(*) FROM (SELECT DISTINCT {value} AS value FROM survey.rows WHERE {value} IS NOT NULL)"
        )
        return int(distinct), {}


def _parts(names: Mapping[str, str]) -> list[list[str]]:
    listed = list(names)
    return [listed[start : start + _COLUMNS_AT_ONCE] for start in range(0, len(listed), _COLUMNS_AT_ONCE)]


def _groups(row: tuple[Any, ...], size: int) -> list[tuple[Any, ...]]:
    return [row[start : start + size] for start in range(0, len(row), size)]
