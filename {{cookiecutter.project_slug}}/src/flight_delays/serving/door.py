"""What may come in? Holds JSON rows against the contract: an Arrow table in its types, or every violation by name.

The rules are those by which the pipeline validates the data, so what could be learned from can also be asked.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flight_delays.contract import Column, Contract

Row = dict[str, Any]

MESSAGES = {
    "rows": 'send {limit} as {{"rows": [{{column: value, ...}}, ...]}}',
    "row": "{value} is no row: send an object of columns and values",
    "unknown": "is not asked for: leave it out",
    "missing": "is missing: send its value{limit}",
    "required": "is null, where a value is required",
    "type": "{value} is no {limit}",
    "finite": "{value} is no finite number",
    "values": "{value} is none of {limit}",
    "minimum": "{value} is below {limit}",
    "maximum": "{value} is above {limit}",
    "exclusiveMinimum": "{value} is not above {limit}",
    "exclusiveMaximum": "{value} is not below {limit}",
    "minLength": "{value} is shorter than {limit} characters",
    "maxLength": "{value} is longer than {limit} characters",
    "pattern": "{value} does not match {limit}",
}
_KINDS = {
    "boolean": "boolean: send true or false",
    "date": "date: send it as 2024-12-31",
    "integer": "integer of 64 bits",
    "number": "number",
    "string": "text in Unicode",
    "time": "time: send it as 23:59:00",
    "timestamp": "timestamp: send it as 2024-12-31T23:59:00",
}
_SHOWN = 80  # characters of a value


@dataclass(frozen=True)
class Violation:
    """One fault of a request.

    Attributes
    ----------
    row
        Its place among the rows, from 0; `None` where the request as a whole is meant.
    column
        Its name; `None` where the row as a whole is meant.
    rule
        A key of `MESSAGES`.
    message
        What is wrong, and what would be right.
    """

    row: int | None
    column: str | None
    rule: str
    message: str

    def __str__(self) -> str:
        """Write it in one line: `row 0, column 'size': -1 is below 0`."""
        places = [f"row {self.row}"] if self.row is not None else []
        places += [f"column {self.column!r}"] if self.column is not None else []
        return f"{', '.join(places) or 'the request'}: {self.message}"


def read(rows: list[Any], contract: Contract) -> tuple[pa.Table, list[Violation]]:
    """Turn JSON rows into an Arrow table of the contract's features.

    Parameters
    ----------
    rows
        Parsed JSON: an object a row, with each feature column and no other. Dates and times are text in ISO 8601; a
        timestamp with an offset becomes UTC, as in the data.
    contract
        The contract.

    Returns
    -------
    tuple
        The table, to be used only if there are no violations; and the violations, row by row.
    """
    names = {column.name: place for place, column in enumerate(contract.features)}
    found = [violation("row", place, value=row) for place, row in enumerate(rows) if not isinstance(row, dict)]
    objects: dict[int, Row] = {place: row for place, row in enumerate(rows) if isinstance(row, dict)}
    for place, row in objects.items():  # of a column that is not asked for, personal or not, no value is repeated
        found += [violation("unknown", place, name) for name in row if name not in names]
    arrays = [_read_column(column, objects, len(rows), found) for column in contract.features]
    found.sort(key=lambda entry: (entry.row, names.get(entry.column or "", -1)))
    return pa.Table.from_arrays(arrays, schema=contract.schema(contract.features)), found


def to_json(table: pa.Table, contract: Contract) -> list[Row]:
    """Write the feature columns of rows as the JSON that `read` takes.

    Parameters
    ----------
    table
        Rows in the contract's types.
    contract
        The contract.
    """
    rows = table.select([column.name for column in contract.features]).to_pylist()
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """Give a value as JSON has it: dates and times as text in ISO 8601, what is not finite as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date | time) else value


def rules(column: Column) -> Row:
    """List what is asked of a column's values, as the contract has it.

    Parameters
    ----------
    column
        Of the contract.
    """
    listed = {"values": list(column.values)} if column.values else {}
    asked = {rule: column.options[rule] for rule in MESSAGES if rule in column.options}
    return {"type": column.type, "required": column.required} | listed | asked


def violation(
    rule: str, row: int | None = None, column: str | None = None, value: Any = None, limit: Any = ""
) -> Violation:
    """Make a violation with its message.

    Parameters
    ----------
    rule
        A key of `MESSAGES`.
    row, column
        Where.
    value
        What was sent.
    limit
        What the rule asks for.
    """
    return Violation(row, column and _shown(column), rule, MESSAGES[rule].format(value=_json(value), limit=limit))


def _read_column(column: Column, rows: dict[int, Row], count: int, found: list[Violation]) -> pa.Array:
    """Read one column of all rows, and add its violations to those found."""
    parse, name, tests = _PARSERS[column.type], column.name, _tests(column)
    values: list[Any] = [None] * count
    for place, row in rows.items():
        value = row.get(name)
        if value is None:
            if name not in row:
                found.append(violation("missing", place, name, limit="" if column.required else ", or null"))
            elif column.required:
                found.append(violation("required", place, name))
            continue
        try:
            values[place] = parsed = parse(value)
        except (TypeError, ValueError, ArithmeticError) as error:
            rule = "finite" if isinstance(error, ArithmeticError) and column.type == "number" else "type"
            found.append(violation(rule, place, name, value, _KINDS[column.type]))
        else:
            found += [violation(rule, place, name, value, limit) for rule, limit, holds in tests if not holds(parsed)]
    array = pa.array(values, column.arrow_type)
    if pattern := column.options.get("pattern"):  # by RE2, as in the pipeline: no text makes it slow
        matches = pc.match_substring_regex(array, rf"\A(?:{pattern})\z")
        places = pc.indices_nonzero(pc.invert(matches)).to_pylist()
        found += [violation("pattern", place, name, values[place], pattern) for place in places]
    return array


def _tests(column: Column) -> list[tuple[str, Any, Callable[[Any], bool]]]:
    """Make a column's tests of a single value, with what their message names as limit."""
    parse = _PARSERS[column.type] if column.type in {"date", "time", "timestamp"} else lambda value: value
    found: list[tuple[str, Any, Callable[[Any], bool]]] = []
    if column.values:
        words = ", ".join(map(_json, column.values))
        found.append(("values", words, frozenset(map(parse, column.values)).__contains__))
    for rule, test in _TESTS.items():
        if (limit := column.options.get(rule)) is not None:
            found.append((rule, limit, test(limit if rule.endswith("Length") else parse(limit))))
    return found


_TESTS: dict[str, Callable[[Any], Callable[[Any], bool]]] = {
    "minimum": lambda limit: lambda value: value >= limit,
    "maximum": lambda limit: lambda value: value <= limit,
    "exclusiveMinimum": lambda limit: lambda value: value > limit,
    "exclusiveMaximum": lambda limit: lambda value: value < limit,
    "minLength": lambda limit: lambda value: len(value) >= limit,
    "maxLength": lambda limit: lambda value: len(value) <= limit,
}


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value  # JSON's 5.0 is an integer
    if type(whole) is not int or not -(2**63) <= whole < 2**63:
        raise TypeError
    return whole


def _number(value: Any) -> float:
    if type(value) not in {int, float}:
        raise TypeError
    if not math.isfinite(value):  # an integer too large for a float is an OverflowError, which is one as well
        raise ArithmeticError
    return float(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a surrogate pair is no text
    return value


def _timestamp(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def _time(value: Any) -> time:
    found = time.fromisoformat(value)
    if found.tzinfo:
        raise ValueError
    return found


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "date": date.fromisoformat,
    "integer": _integer,
    "number": _number,
    "string": _string,
    "time": _time,
    "timestamp": _timestamp,
}


def _json(value: Any) -> str:
    return _shown(json.dumps(value, ensure_ascii=False))


def _shown(text: str) -> str:
    """Shorten a text, and make it one that can be sent."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
