"""What may come in? Holds JSON rows against the contract: an Arrow table in its types, or every violation by name.

The rules are those by which the pipeline validates the data, so what could be learned from can also be asked.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal

import msgspec
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
KINDS = {
    "boolean": "boolean: send true or false",
    "date": "date: send it as 2024-12-31",
    "integer": "integer of 64 bits",
    "number": "number",
    "string": "text in Unicode",
    "time": "time: send it as 23:59:00",
    "timestamp": "timestamp: send it as 2024-12-31T23:59:00",
}
_SHOWN = 80  # characters of a value
ENOUGH = 1_000  # violations; to find all those of a small body may take seconds
_BLOCK = 256  # rows read before it is asked whether these are enough
_TINY = re.compile(rb"\.(?<=:\d\d\.)\d{7}")  # begins with what is rare, so that it is found at once
# A column's custom property: let a value pass that breaks a rule, and count it.
ON_VIOLATION, WARN = "onViolation", "warn"
_COUNTABLE = frozenset(MESSAGES) - {"rows", "row", "unknown", "missing", "type", "finite"}
_PYTHON: dict[str, Any] = {
    "boolean": bool,
    "date": date,
    "integer": int,
    "number": float,
    "string": str,
    "time": time,
    "timestamp": datetime,
}
_encode = msgspec.json.Encoder().encode
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
_WORDS = {"integer": _BOUNDS, "number": _BOUNDS, "string": {"minLength": "min_length", "maxLength": "max_length"}}


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
        unknown = (name for name in row if name not in names)
        found += [violation("unknown", place, name) for name in itertools.islice(unknown, ENOUGH)]
    arrays = [_read_column(column, objects, len(rows), found) for column in contract.features]
    found.sort(key=lambda entry: (entry.row, names.get(entry.column or "", -1)))
    return pa.Table.from_arrays(arrays, schema=contract.schema(contract.features)), found


@dataclass(frozen=True)
class Request:
    """Rows that keep the contract.

    Attributes
    ----------
    rows
        A tuple of the feature columns' values for each row, as Python has them.
    json
        The same as a JSON array of arrays, dates and times in ISO 8601.
    warnings
        What breaks a rule that the contract only wants counted.
    """

    rows: list[tuple[Any, ...]]
    json: bytes
    warnings: list[Violation]


class Door:
    """Reads the requests of one contract: at once where they keep it, else with every violation by name.

    What `read` says goes. Before it, msgspec tries the same rules in compiled code, made from the contract; what it
    lets pass is known to be right, and whatever it stops at goes to `read`.

    Parameters
    ----------
    contract
        The model's.
    most
        So many rows in a request.

    Attributes
    ----------
    columns
        The names of the columns as a JSON array, in the order of a request's values.
    """

    def __init__(self, contract: Contract, most: int) -> None:
        self.contract, self.most = contract, most
        self._lenient = frozenset(
            column.name for column in contract.features if column.custom.get(ON_VIOLATION) == WARN
        )
        kinds = [_typed(column) for column in contract.features]
        self._decode = _decoder(contract, [kind for kind, _ in kinds], most)
        self.columns = _encode([column.name for column in contract.features])
        self._timed = any(column.type in {"time", "timestamp"} for column in contract.features)
        self._left = [
            (place, test)
            for place, (column, (_, complete)) in enumerate(zip(contract.features, kinds, strict=True))
            if not complete
            for _, _, test in tests_of(column)
        ]
        self._patterns = [
            (place, column.options["pattern"])
            for place, column in enumerate(contract.features)
            if "pattern" in column.options
        ]

    def read(self, body: bytes) -> tuple[Request, list[Violation]]:
        """Read a request's body.

        Parameters
        ----------
        body
            JSON: `{"rows": [{column: value, ...}, ...]}`.

        Returns
        -------
        tuple
            The request, to be used only if there are no violations; and the violations, row by row: where there are
            many, those of the first rows.

        Raises
        ------
        ValueError
            The body is no JSON.
        """
        if self._timed and _TINY.search(body):  # what is below a microsecond msgspec rounds, and Python cuts off
            return self._explain(body)
        try:
            rows = self._decode(body).rows
            values = list(map(msgspec.structs.astuple, rows))
            encoded = _encode(values)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._explain(body)
        return (Request(values, encoded, []), []) if self._passes(values) else self._explain(body)

    def table(self, request: Request) -> pa.Table:
        """Put rows into an Arrow table in the contract's types.

        Parameters
        ----------
        request
            From `read`.
        """
        schema = self.contract.schema(self.contract.features)
        columns = zip(zip(*request.rows, strict=True), schema, strict=True)
        return pa.Table.from_arrays([pa.array(values, field.type) for values, field in columns], schema=schema)

    def _passes(self, rows: list[tuple[Any, ...]]) -> bool:
        for place, test in self._left:
            for row in rows:
                value = row[place]
                if value is not None and not test(value):
                    return False
        for place, pattern in self._patterns:
            for value in {row[place] for row in rows}:
                if value is not None and not _matches(pattern, value):
                    return False
        return True

    def _explain(self, body: bytes) -> tuple[Request, list[Violation]]:
        sent = json.loads(body)
        rows = sent.get("rows") if isinstance(sent, dict) and len(sent) == 1 else None
        if not isinstance(rows, list) or not 1 <= len(rows) <= self.most:
            limit = f"1 to {self.most:,} rows" if self.most > 1 else "one row"
            return Request([], b"[]", []), [violation("rows", limit=limit)]
        tables: list[pa.Table] = []
        refused: list[Violation] = []
        counted: list[Violation] = []
        for first in range(0, len(rows), _BLOCK):
            table, found = read(rows[first : first + _BLOCK], self.contract)
            tables.append(table)
            for entry in found:
                lenient = entry.column in self._lenient and entry.rule in _COUNTABLE
                (counted if lenient else refused).append(replace(entry, row=first + (entry.row or 0)))
            if len(refused) >= ENOUGH:
                break
        if refused:
            return Request([], b"[]", counted), refused
        table = pa.concat_tables(tables)
        values = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return Request(values, _encode(values), counted), []


def _decoder(contract: Contract, kinds: list[Any], most: int) -> Callable[[bytes], Any]:
    names = [f"c{place}" for place in range(len(kinds))]
    named = {name: column.name for name, column in zip(names, contract.features, strict=True)}
    try:
        row = msgspec.defstruct(
            "Row", list(zip(names, kinds, strict=True)), rename=named, forbid_unknown_fields=True, gc=False
        )
        rows: Any = Annotated[list[row], msgspec.Meta(min_length=1, max_length=most)]  # type: ignore[valid-type]
        request = msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True)
        return msgspec.json.Decoder(request).decode
    except (NotImplementedError, TypeError, ValueError):  # as for a column's name with quotes
        return _undecided


def _undecided(_: bytes) -> Any:
    raise ValueError


def _typed(column: Column) -> tuple[Any, bool]:
    """Give a column's type and rules as msgspec knows them, and whether these are all of its rules but the pattern."""
    kind, words = _PYTHON[column.type], _WORDS.get(column.type, {})
    asked = {rule: column.options[rule] for rule in _TESTS if column.options.get(rule) is not None}
    known = {words[rule]: limit for rule, limit in asked.items() if rule in words and _exact(limit, column.type)}
    for inclusive, exclusive in (("ge", "gt"), ("le", "lt")):  # of which it takes one
        if inclusive in known:
            known.pop(exclusive, None)
    complete = len(known) == len(asked)
    if column.type == "integer":  # of 64 bits
        known = ({} if "gt" in known else {"ge": -(2**63)}) | ({} if "lt" in known else {"le": 2**63 - 1}) | known
    if column.type in {"time", "timestamp"}:  # with an offset there is something to convert, or to refuse
        known = {"tz": False}
    if column.values:
        listed = column.type in {"integer", "string"} and not asked
        if listed and all(type(value) is kind and _exact(value, column.type) for value in column.values):
            kind, known = Literal[column.values], {}
        else:
            complete = False
    kind = Annotated[kind, msgspec.Meta(**known)] if known else kind
    return (kind if column.required else kind | None), complete


def _exact(limit: Any, kind: str) -> bool:
    """Whether compiled code, which counts in 64 bits, means the same by a limit as Python."""
    if kind == "string":
        return isinstance(limit, str) or (type(limit) is int and 0 <= limit < 2**63)
    if type(limit) is int:
        return -(2**63) <= limit < 2**63 and (kind == "integer" or int(float(limit)) == limit)
    return type(limit) is float and kind == "number" and math.isfinite(limit)


def _matches(pattern: str, text: str) -> bool:
    """Say whether a text matches, by RE2 as in the pipeline: no text makes it slow."""
    return _kept_match(pattern, text) if len(text) <= _SHOWN else _kept_match.__wrapped__(pattern, text)


@functools.lru_cache(maxsize=16_384)  # names and codes come again and again
def _kept_match(pattern: str, text: str) -> bool:
    return bool(pc.match_substring_regex(pa.array([text], pa.string()), rf"\A(?:{pattern})\z")[0].as_py())


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
    parse, name, tests = _PARSERS[column.type], column.name, tests_of(column)
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
            found.append(violation(rule, place, name, value, KINDS[column.type]))
        else:
            found += [violation(rule, place, name, value, limit) for rule, limit, holds in tests if not holds(parsed)]
    array = pa.array(values, column.arrow_type)
    if pattern := column.options.get("pattern"):  # by RE2, as in the pipeline: no text makes it slow
        matches = pc.match_substring_regex(array, rf"\A(?:{pattern})\z")
        places = pc.indices_nonzero(pc.invert(matches)).to_pylist()
        found += [violation("pattern", place, name, values[place], pattern) for place in places]
    return array


def tests_of(column: Column) -> list[tuple[str, Any, Callable[[Any], bool]]]:
    """Make a column's tests of a single value: rule, limit and test of each.

    Parameters
    ----------
    column
        Of the contract.
    """
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
