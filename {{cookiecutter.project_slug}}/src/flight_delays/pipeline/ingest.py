"""Stage 1: read the source, in the contract's types, into one Parquet file.

The rows stream through; a value that is not of its column's type ends the run with its place.
"""

from pathlib import Path

import duckdb

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.privacy import close
from flight_delays.source import (
    SQL_TYPES,
    cast_column,
    connect,
    open_source,
    quote,
    text,
    unreadable,
)

ROWS = Path("data/rows.parquet")


def ingest(contract: Contract, rows: Path = ROWS) -> int:
    """Write the source's rows as Parquet and give their number.

    Parameters
    ----------
    contract
        Names the source, the columns and their types.
    rows
        The file to write; it appears whole or not at all.

    Raises
    ------
    InputError
        The source is not readable, its columns are not the contract's, or a value has the wrong type.
    """
    connection = connect()
    path = Path(contract.server.path or "")
    stored = open_source(connection, contract.server)
    _refuse_other_columns(contract, set(stored), path)
    chosen = ", ".join(f"{_strict(column, stored[column.name])} AS {quote(column.name)}" for column in contract.columns)
    rows.parent.mkdir(parents=True, exist_ok=True)
    unfinished = rows.with_suffix(".unfinished")
    try:
        kind = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{server: {text(contract.server.server)}}}"
        connection.execute(f"COPY (SELECT {chosen} FROM source) TO '{unfinished}' ({kind})")
    except duckdb.InvalidInputException as error:
        raise _wrong_type(connection, contract, stored, path) or unreadable(path, error) from None
    except duckdb.IOException as error:
        raise OSError(str(error)) from None
    except duckdb.Error as error:
        raise unreadable(path, error) from None
    else:
        unfinished.replace(rows)
    finally:
        unfinished.unlink(missing_ok=True)
    (count,) = connection.execute(f"SELECT count(*) FROM '{rows}'").fetchone() or (0,)
    return int(count)


def _refuse_other_columns(contract: Contract, found: set[str], path: Path) -> None:
    expected = {column.name for column in contract.columns}
    changes = [f"column {name!r} is missing" for name in sorted(expected - found)]
    changes += [f"column {name!r} is not in contract.yaml" for name in sorted(found - expected)]
    if changes:
        advice = "run `make contract` to see and take over the difference"
        raise InputError(f"{path}: {'; '.join(changes)}: mend the data, or {advice}")


def _strict(column: Column, stored: str) -> str:
    value = cast_column(column, stored)
    if stored == SQL_TYPES[column.type]:
        return value
    return f"coalesce({value}, CASE WHEN {_filled(column, stored)} THEN error('type') END)"


def _filled(column: Column, stored: str) -> str:
    """Write the SQL that is true where there is a value; NaN is none."""
    name = quote(column.name)
    return f"({name} IS NOT NULL AND NOT isnan({name}))" if stored in {"FLOAT", "DOUBLE"} else f"{name} IS NOT NULL"


def _wrong_type(
    connection: duckdb.DuckDBPyConnection, contract: Contract, stored: dict[str, str], path: Path
) -> InputError | None:
    """Find the first value of a wrong type, column by column; only called once there is one."""
    faults = []
    for column in contract.columns:
        name, value = quote(column.name), cast_column(column, stored[column.name])
        query = f"""SELECT row, {name} FROM (SELECT row_number() OVER () AS row, {name}, {value} AS value FROM source)
                    WHERE value IS NULL AND {_filled(column, stored[column.name])} ORDER BY row LIMIT 1"""
        if found := connection.execute(query).fetchone():
            shown = "the value" if column.personal else repr(found[1])
            faults.append(f"column {column.name!r}, row {found[0]}: {shown[:80]} is no {column.type}")
    return InputError(f"{path}: {'; '.join(faults)}: mend the data or the column's logicalType") if faults else None


@report_errors
def main() -> None:
    """Run the stage."""
    contract = Contract.read()
    close()
    count = ingest(contract)
    print(f"ingest: {count:,} rows, {len(contract.columns)} columns → {ROWS}")


if __name__ == "__main__":
    main()
