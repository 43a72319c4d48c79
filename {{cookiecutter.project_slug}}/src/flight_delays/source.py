"""Where do the rows come from? Opens the contract's server as a DuckDB view, read as a stream.

Text arrives as text: what it means is decided by the types of the contract, in `cast`.
"""

import importlib.util
import re
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from open_data_contract_standard.model import Server

from flight_delays.contract import Column
from flight_delays.errors import InputError

NULLS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None")
SQL_TYPES = {
    "boolean": "BOOLEAN",
    "date": "DATE",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "string": "VARCHAR",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
}
# The date patterns of the standard (Java's) in the words of strptime; reading takes 5 as well as 05.
_STRPTIME = {
    "yyyy": "%Y", "yy": "%y", "MMMM": "%B", "MMM": "%b", "MM": "%m", "M": "%m", "dd": "%d", "d": "%d",
    "HH": "%H", "H": "%H", "hh": "%I", "h": "%I", "mm": "%M", "ss": "%S", "SSSSSS": "%f", "SSS": "%g",
    "a": "%p", "%": "%%",
}  # fmt: skip


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory that spills to disk and keeps the order of rows."""
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quote(name: str) -> str:
    """Quote a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: object) -> str:
    """Quote a value as SQL text."""
    return "'" + str(value).replace("'", "''") + "'"


def open_source(connection: duckdb.DuckDBPyConnection, server: Server) -> dict[str, str]:
    """Make a server's rows readable as the view `source`, and give its columns with their SQL types.

    Parameters
    ----------
    connection
        An open database.
    server
        Of type `local`: a file of CSV, TSV or JSON Lines (each also gzipped) or Parquet. Or of type `custom`:
        `path` names a Python file whose function `load(connection)` returns a DuckDB relation.

    Raises
    ------
    InputError
        The source is missing, empty, of an unknown kind, not readable, or has two columns of one name.
    """
    path = Path(server.path or "")
    if not path.is_file():
        raise InputError(f"{path} is missing: `make pull` brings tracked data, or correct `servers` in contract.yaml")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    try:
        if server.type == "custom":
            _load(connection, path)
        elif server.type == "local":
            connection.execute(f"CREATE OR REPLACE TEMP VIEW source_as_stored AS {_query(connection, path)}")
        else:
            raise InputError(f"contract.yaml: server {server.server!r} is of type {server.type!r}: use local or custom")
        columns = {name: kind for name, kind, *_ in connection.execute("DESCRIBE source_as_stored").fetchall()}
        connection.execute(f"CREATE OR REPLACE TEMP VIEW source AS {_nan_as_null(columns)} FROM source_as_stored")
        if connection.execute("SELECT 1 FROM source LIMIT 1").fetchone() is None:
            raise InputError(f"{path} has no rows")
    except duckdb.Error as error:
        raise unreadable(path, error) from None
    return columns


def cast(name: str, stored: str, kind: str, pattern: str | None = None, decimal: str = ".") -> str:
    """Write the SQL that turns a stored column into a logical type, and into null where its text is of no such type.

    Parameters
    ----------
    name
        The column.
    stored
        Its SQL type in the source.
    kind
        The logical type wanted, a key of `SQL_TYPES`.
    pattern
        For dates and times that are not in ISO format, the contract's `format`, such as `dd/MM/yyyy`.
    decimal
        What stands between whole and fraction in a number written as text, from the contract's `decimal`.
    """
    if stored == "JSON":
        column = f"({quote(name)} ->> '$')"
    else:
        column = f"trim({quote(name)})" if stored == "VARCHAR" and kind != "string" else quote(name)
    if stored in {"VARCHAR", "JSON"}:
        return _read_text(column, kind, pattern, decimal)
    wanted = SQL_TYPES[kind]
    if stored == wanted:
        return column
    if kind == "integer" and stored in {"DOUBLE", "FLOAT"}:
        return f"CASE WHEN {column} = floor({column}) THEN TRY_CAST({column} AS BIGINT) END"
    if kind == "timestamp" and stored == "TIMESTAMP WITH TIME ZONE":
        return f"timezone('UTC', {column})"
    return f"TRY_CAST({column} AS {wanted})"


def _read_text(column: str, kind: str, pattern: str | None, decimal: str) -> str:
    """Write the SQL that reads text as a type; a bare TRY_CAST is too kind: it takes `epoch`, `1_000` and `nan`."""
    if pattern and kind in {"date", "timestamp", "time"}:
        shape = (
            "[0-9]{4}" if "yyyy" in pattern else "[0-9]"
        )  # strptime alone takes 21 for a year, and `epoch` for a day
        value = f"CAST(try_strptime({column}, {text(_strptime(pattern))}) AS {SQL_TYPES[kind]})"
        return f"CASE WHEN regexp_matches({column}, '{shape}') THEN {value} END"
    if kind == "number" and decimal != ".":
        column = f"CASE WHEN NOT contains({column}, '.') THEN replace({column}, {text(decimal)}, '.') END"
    shape, value = {
        "boolean": (
            "(?i)true|false",
            f"TRY_CAST({column} AS BOOLEAN)",
        ),  # 0 and 1 are numbers, yes and no categories
        "integer": (
            r"[+-]?[0-9]+(\.0*)?",
            f"TRY_CAST({column} AS BIGINT)",
        ),  # a cast alone would round 2.5 to 3
        "number": (r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", f"TRY_CAST({column} AS DOUBLE)"),
        "date": (r"[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}", f"TRY_CAST({column} AS DATE)"),
        "time": (r"[0-9]{1,2}:[0-9]{2}(:[0-9.]+)?", f"TRY_CAST({column} AS TIME)"),
        # by way of a zoned type, so that an offset counts; without one it is UTC
        "timestamp": (r"[0-9]{4}[-/][0-9].*", f"timezone('UTC', TRY_CAST({column} AS TIMESTAMPTZ))"),
        "string": ("", column),
    }[kind]
    return f"CASE WHEN regexp_full_match({column}, '{shape}') THEN {value} END" if shape else value


def cast_column(column: Column, stored: str) -> str:
    """Write the SQL that turns a stored column into what the contract says it is.

    Parameters
    ----------
    column
        Of the contract.
    stored
        Its SQL type in the source.
    """
    return cast(column.name, stored, column.type, column.options.get("format"), column.custom.get("decimal", "."))


def unreadable(path: Path, error: duckdb.Error) -> InputError:
    """Say in one line why a source cannot be read."""
    words = str(error)
    if "unicode" in words.lower() or "utf-8" in words.lower():
        place = re.search(r"[Ll]ine:? (\d+)", words)
        where = f", line {place[1]}" if place else ""
        return InputError(f"{path}{where}: not UTF-8 text: convert it, for example with `iconv -t UTF-8`")
    first = re.sub(r"^\w[\w ]* Error: ", "", " ".join(words.split("\n\n")[0].split()))
    return InputError(f"{path} cannot be read: {first[:300]}")


def _query(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    if re.search(r"\.(csv|tsv)(\.gz)?$", path.name):
        # with the quote left open, an apostrophe can pass for one; with the header not read apart, a name for a null
        options = f"{text(path)}, all_varchar = true, quote = '\"', escape = '\"'"
        first = connection.execute(f"SELECT * FROM read_csv({options}, header = false) LIMIT 1").fetchone() or ()
        _refuse_repeated([str(name or "") for name in first], path)
        if set(first) & set(NULLS[1:]):
            options += f", names = [{', '.join(text(name or f'column{place}') for place, name in enumerate(first))}]"
        return f"SELECT * FROM read_csv({options}, nullstr = [{', '.join(map(text, NULLS))}], header = true)"
    if re.search(r"\.(jsonl|ndjson)(\.gz)?$", path.name):
        return (
            f"SELECT * FROM read_json({text(path)}, format = 'newline_delimited', maximum_depth = 1, sample_size = -1)"
        )
    if re.search(r"\.(parquet|pq)$", path.name):
        try:
            _refuse_repeated(pq.read_schema(path).names, path)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None
        return f"SELECT * FROM read_parquet({text(path)})"
    raise InputError(f"{path}: unknown kind of file: use .csv, .tsv, .jsonl (each also .gz) or .parquet")


def _refuse_repeated(names: list[str], path: Path) -> None:
    repeated = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if repeated:
        same = [name for name in names if name.lower() == repeated[0]]
        raise InputError(f"{path}: columns {same} have the same name (capitals do not count): rename all but one")


def _nan_as_null(columns: dict[str, str]) -> str:
    """Select all columns; what other tools write for a missing or impossible number is null here."""
    floats = [quote(name) for name, kind in columns.items() if kind in {"DOUBLE", "FLOAT"}]
    replaced = ", ".join(f"CASE WHEN isfinite({name}) THEN {name} END AS {name}" for name in floats)
    return f"SELECT * REPLACE ({replaced})" if floats else "SELECT *"


def _load(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "load"):
        raise InputError(f"{path} has no function `load(connection)`")
    module.load(connection).create_view("source_as_stored", replace=True)


def _strptime(pattern: str) -> str:
    """Translate a pattern; text between apostrophes is meant as it stands."""
    tokens = "|".join(sorted(_STRPTIME, key=len, reverse=True))
    return "".join(
        literal.replace("%", "%%") if number % 2 else re.sub(tokens, lambda token: _STRPTIME[token[0]], literal)
        for number, literal in enumerate(pattern.split("'"))
    )
