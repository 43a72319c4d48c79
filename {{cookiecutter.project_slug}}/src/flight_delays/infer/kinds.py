"""What type is a column? Decided by its values, read with the same SQL that ingest uses."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb

from flight_delays.source import cast, quote

_BASE = ("boolean", "integer", "number", "time", "date", "timestamp")
_TRIED_ROWS = 1000  # enough to rule a reading out; the rest of the rows decide
_NEARLY = 0.9  # so many values of one type make the others worth a look
_DAY_MONTH = re.compile(r"^(dd)([/.-])(MM)|^(MM)([/.-])(dd)")
_DATES = (
    *(f"{a}{sep}{b}{sep}{year}" for a, b in (("dd", "MM"), ("MM", "dd")) for sep in "/.-" for year in ("yyyy", "yy")),
    "yyyy.MM.dd",
    "yyyyMMdd",
    "dd MMM yyyy",
    "dd-MMM-yyyy",
    "dd-MMM-yy",
    "MMM dd, yyyy",
    "dd MMMM yyyy",
    "MMMM dd, yyyy",
)
_TIMES = ("HH:mm", "HH:mm:ss", "hh:mm a", "hh:mm:ss a")
_NATIVE = {
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIME": "time",
    "FLOAT": "number",
    "DOUBLE": "number",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "integer"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"), "integer"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}
_NOT_NUMBERS = {  # text that a number would spoil
    "codes": r"[+-]?0[0-9]+([.,][0-9]*)?",
    "long": r"[+-]?[0-9]{19,}",
    "decimals": r"[+-]?[0-9]*\.[0-9]*",
}


@dataclass(frozen=True)
class Kind:
    """How a column is read, and what is to be said about it.

    Attributes
    ----------
    name
        The logical type.
    pattern, decimal
        The date pattern and the decimal mark, where they are not the usual ones.
    nested
        Whether its values are lists, records or bytes.
    note
        What a person should know of the choice.
    doubt
        The values that did not fit, or the day and month that could be swapped: what a person should look at.
    example
        A value that does not fit the type that nearly all others have.
    """

    name: str
    pattern: str | None = None
    decimal: str = "."
    nested: bool = False
    note: str = ""
    doubt: str = ""
    example: str | None = None

    def sql(self, column: str, stored: str) -> str:
        """Write the SQL that reads a column so."""
        return cast(column, stored, self.name, self.pattern, self.decimal)


def settle(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    stored: dict[str, str],
    rows: int,
    whole: Mapping[str, int],
) -> dict[str, Kind]:
    """Find the type of every column: of a text column, the first that every one of its values has.

    Parameters
    ----------
    connection, table
        Where the rows are.
    stored
        The columns with their SQL types.
    rows
        The number of rows.
    whole
        Columns whose numbers become integers where all are whole and so few differ: classes may be written `1.0`.
    """
    found = {}
    for name, kind in stored.items():
        if kind in {"VARCHAR", "JSON"}:
            found[name] = _of_text(connection, table, name, kind, rows)
        else:
            found[name] = _of_native(connection, table, name, kind)
        if found[name].name == "number" and _all_whole(connection, table, name, kind, whole.get(name, 0)):
            found[name] = Kind("integer")
    return _agree_on_order(found)


def misfits(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, stored: str, kind: Kind
) -> tuple[int, str | None]:
    """Count the values that are not of a type, and give the smallest of them."""
    value, text = kind.sql(name, stored), Kind("string").sql(name, stored)
    count, example = connection.execute(
        f"SELECT count(*), min({text}) FROM {table} WHERE {value} IS NULL AND {quote(name)} IS NOT NULL"
    ).fetchone() or (0, None)
    return int(count), example


def _of_native(connection: duckdb.DuckDBPyConnection, table: str, name: str, stored: str) -> Kind:
    if stored.endswith("]") or stored.startswith(("STRUCT", "MAP", "UNION", "BLOB", "BIT", "VARIANT")):
        return Kind("string", nested=True, note=f"{stored.split('(')[0].lower()} values are no single number or text")
    if stored.startswith("DECIMAL"):
        kind = Kind("integer" if stored.endswith(",0)") else "number")
    else:
        kind = Kind(_NATIVE.get(stored, "string"))
    if kind.name == "integer" and misfits(connection, table, name, stored, kind)[0]:
        return Kind("string", note="whole numbers too large for 64 bits")
    return kind


def _of_text(connection: duckdb.DuckDBPyConnection, table: str, name: str, stored: str, rows: int) -> Kind:
    text = Kind("string").sql(name, stored)
    if stored == "JSON" and _count(connection, table, f"json_type({quote(name)}) IN ('ARRAY', 'OBJECT')"):
        return Kind("string", nested=True, note="lists and records are no single number or text")
    step = max(1, rows // _TRIED_ROWS)
    tried = f"(SELECT {quote(name)} FROM {table} WHERE rowid % {step} = 0)"
    kinds = [Kind(base) for base in _BASE] + [Kind("number", decimal=",")]
    shares = _shares(connection, tried, name, stored, kinds)
    likely = [kind for kind, share in zip(kinds, shares, strict=True) if share >= _NEARLY]
    if Kind("integer") in likely:
        likely = [*_compact_dates(connection, tried, name, stored), *likely]
    if not likely and _looks_dated(connection, tried, text):
        kinds = _patterns()
        shares = _shares(connection, tried, name, stored, kinds)
        likely = [kind for kind, share in zip(kinds, shares, strict=True) if share >= _NEARLY]
    shares = _shares(connection, table, name, stored, likely)
    fitting = [kind for kind, share in zip(likely, shares, strict=True) if share == 1]
    if fitting and fitting[0].name in {"integer", "number"}:
        return _number(connection, table, text, fitting)
    if fitting:
        return _in_order(fitting)
    if likely and max(shares) >= _NEARLY:
        nearly = likely[shares.index(max(shares))]
        count, example = misfits(connection, table, name, stored, nearly)
        doubt = f"{count:,} of its values {'is' if count == 1 else 'are'} no {nearly.name}, the others are"
        return Kind("string", doubt=doubt, example=example)
    return Kind("string")


def _number(connection: duckdb.DuckDBPyConnection, table: str, text: str, fitting: list[Kind]) -> Kind:
    """Choose among the readings of a column of numbers, or keep it as text where digits are no amount."""
    tests = [f"count(*) FILTER (regexp_full_match(trim({text}), '{shape}'))" for shape in _NOT_NUMBERS.values()]
    # after a comma, exactly three digits everywhere are more likely thousands
    tests.append(f"count(*) FILTER (regexp_full_match(trim({text}), '[+-]?(0|[0-9]*),[0-9]*') "
                 f"AND NOT regexp_full_match(trim({text}), '[+-]?[1-9][0-9]{{0,2}},[0-9]{{3}}'))")  # fmt: skip
    counts = connection.execute(f"SELECT {', '.join(tests)} FROM {table}").fetchone() or ()
    codes, long, decimals, commas = counts
    if codes:
        return Kind("string", note="digits with leading zeros are a code")
    names = [kind.name for kind in fitting]
    if long and "integer" not in names:
        return Kind("string", note="too many digits for a number: a code")
    if fitting[0].decimal == ",":
        if commas:
            return replace(fitting[0], note="decimal commas")
        return Kind("string", doubt="its commas may separate thousands or decimals")
    if "integer" in names and not decimals:
        return Kind("integer")
    return Kind("number")


def _compact_dates(connection: duckdb.DuckDBPyConnection, tried: str, name: str, stored: str) -> list[Kind]:
    """See whether whole numbers are dates such as 20240131: all of them, all since 1900."""
    day = Kind("date", "yyyyMMdd")
    value = day.sql(name, stored)
    (fits,) = connection.execute(
        f"SELECT bool_and(length(trim({Kind('string').sql(name, stored)})) = 8 AND coalesce(year({value}) "
        f"BETWEEN 1900 AND 2100, false)) AND count(DISTINCT {value}) > 1 FROM {tried} WHERE {quote(name)} IS NOT NULL"
    ).fetchone() or (False,)
    return [day] if fits else []


def _patterns() -> list[Kind]:
    days = [Kind("date", day) for day in _DATES]
    moments = [
        Kind("timestamp", f"{day}{gap}{time}")
        for day, gap, time in itertools.product(_DATES, (" ", "'T'"), _TIMES)
        if gap == " " or time.startswith("HH")
    ]
    return days + moments + [Kind("time", time) for time in _TIMES if time.endswith("a")]


def _looks_dated(connection: duckdb.DuckDBPyConnection, tried: str, text: str) -> bool:
    """See whether texts are short and hold numbers apart from each other: only such can be dates in any pattern."""
    (fits,) = connection.execute(
        f"SELECT avg(CAST(length({text}) <= 30 AND regexp_matches({text}, '[0-9][^0-9].*[0-9]') AS INT)) FROM {tried}"
    ).fetchone() or (0,)
    return bool(fits and fits >= _NEARLY)


def _in_order(fitting: list[Kind]) -> Kind:
    """Take the first fitting reading, and say so where day and month could be swapped."""
    first = fitting[0]
    if not first.pattern:
        return first
    swapped = _swap(first.pattern)
    if swapped != first.pattern and any(kind.pattern == swapped for kind in fitting):
        return replace(first, doubt=f"day and month could be swapped: read as {first.pattern}")
    note = "" if swapped == first.pattern else f"a day above 12 shows {first.pattern}"
    return replace(first, note=note or first.pattern)


def _swap(pattern: str) -> str:
    return _DAY_MONTH.sub(lambda m: f"MM{m[2]}dd" if m[1] else f"dd{m[5]}MM", pattern)


def _agree_on_order(kinds: dict[str, Kind]) -> dict[str, Kind]:
    """Let a column with days above 12 settle the order for those that have none."""
    clear = {kind.pattern[:2] for kind in kinds.values() if kind.pattern and "above 12" in kind.note}
    if clear != {"MM"}:
        return kinds
    settled = {}
    for name, kind in kinds.items():
        if kind.pattern and "swapped" in kind.doubt:
            pattern = _swap(kind.pattern)
            settled[name] = replace(kind, pattern=pattern, doubt=f"day and month could be swapped: read as {pattern}")
        else:
            settled[name] = kind
    return settled


def _shares(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, stored: str, kinds: list[Kind]
) -> list[float]:
    if not kinds:
        return []
    counts = ", ".join(f"count({kind.sql(name, stored)})" for kind in kinds)
    total, *fitting = connection.execute(f"SELECT count({quote(name)}), {counts} FROM {table}").fetchone() or (0,)
    return [count / total if total else 0.0 for count in fitting]


def _all_whole(connection: duckdb.DuckDBPyConnection, table: str, name: str, stored: str, most: int) -> bool:
    if not most or misfits(connection, table, name, stored, Kind("integer"))[0]:
        return False
    value = Kind("integer").sql(name, stored)
    (distinct,) = connection.execute(f"SELECT approx_count_distinct({value}) FROM {table}").fetchone() or (0,)
    return bool(distinct <= most)


def _count(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone() or (0,)
    return int(count)
