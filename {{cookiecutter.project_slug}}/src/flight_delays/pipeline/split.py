"""Stage 3: part the rows into training, validation and test.

By event time where the contract has one, so that the model is tested on what came later. Else by a hash of the row's
key, or of the first columns that tell rows apart, class by class: the order of the rows does not matter, a repeated row
stands on one side only, and a new column moves no row from one side to the other.
"""

from pathlib import Path

from duckdb import DuckDBPyConnection

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.pipeline.ingest import ROWS
from flight_delays.settings import params
from flight_delays.source import connect, quote, text

_APART = 0.95  # of the different rows, that some columns tell apart
PARTS = {part: Path(f"data/{part}.parquet") for part in ("train", "valid", "test")}


def split(contract: Contract, valid: float, test: float, seed: int, rows: Path = ROWS) -> dict[str, int]:
    """Write the three parts, in the order of the rows, and give their numbers of rows.

    Parameters
    ----------
    contract
        Names the event time and the target.
    valid, test
        Shares of the rows, 0 to 1.
    seed
        Another seed gives another split, where there is no event time.
    rows
        The file to part.

    Raises
    ------
    InputError
        The shares are not possible, or a part would be left without rows.
    """
    if not (0 < valid < 1 and 0 < test < 1 and valid + test < 1):
        raise InputError(f"params.yaml: split.valid {valid} and split.test {test} must leave rows for training")
    connection = connect()
    connection.execute(f"CREATE VIEW data AS SELECT * FROM read_parquet('{rows}', file_row_number = true)")
    place = _place(connection, contract, (1 - valid - test, 1 - test), seed)
    counts = {}
    for part, path in PARTS.items():
        query = f"SELECT * EXCLUDE (file_row_number) FROM data WHERE {place} = '{part}'"
        unfinished = path.with_suffix(".unfinished")
        connection.execute(f"COPY ({query}) TO '{unfinished}' (FORMAT parquet, COMPRESSION zstd)")
        unfinished.replace(path)
        (counts[part],) = connection.execute(f"SELECT count(*) FROM '{path}'").fetchone() or (0,)
        if not counts[part]:
            reason = (
                f"{contract.time.name!r} has too few different times" if contract.time else "there are too few rows"
            )
            raise InputError(f"no rows are left for {part}: {reason}: change `split` in params.yaml or bring more data")
    return counts


def _place(connection: DuckDBPyConnection, contract: Contract, shares: tuple[float, float], seed: int) -> str:
    """Write the SQL that names a row's part, with the bounds that give the parts their shares."""
    if contract.time:
        order, group = quote(contract.time.name), "'all'"
    else:
        order = _hash(connection, contract, seed)
        group = "'all'" if contract.task == "regression" else f"CAST({quote(contract.target.name)} AS VARCHAR)"
    low, high = (f"quantile_disc({order}, {share:.9f})" for share in shares)
    bounds = connection.execute(f"SELECT {group}, {low}, {high} FROM data GROUP BY 1").fetchall()
    cases = " ".join(
        f"WHEN {text(name)} THEN CASE WHEN {order} <= {text(end)} THEN 'train' "
        f"WHEN {order} <= {text(later)} THEN 'valid' ELSE 'test' END"
        for name, end, later in bounds
    )
    return f"CASE {group} {cases} END"


def _hash(connection: DuckDBPyConnection, contract: Contract, seed: int) -> str:
    """Write the SQL of a number that belongs to a row, and stays with it when a column is added after the others.

    Else a champion would have learned from rows on which a candidate with one feature more is tested.
    """
    rows, different = _count(connection, whole := _number(contract.keys or contract.columns, seed))
    if different * 2 < rows:  # few columns of few values: equal rows are not copies of each other
        return whole.replace(f"'{seed}'", f"'{seed}', file_row_number")
    for width in () if contract.keys else (1, 2, 4, 8, 16, 32):  # the first columns that tell the rows apart
        first = _number(contract.columns[:width], seed)
        if _count(connection, first)[1] >= _APART * different:
            return first
    return whole


def _number(columns: tuple[Column, ...], seed: int) -> str:
    values = ", ".join(f"CAST({quote(column.name)} AS VARCHAR)" for column in columns)
    return f"md5_number_lower(concat_ws(chr(31), '{seed}', {values}))"


def _count(connection: DuckDBPyConnection, number: str) -> tuple[int, int]:
    rows, different = connection.execute(f"SELECT count(*), count(DISTINCT {number}) FROM data").fetchone() or (0, 0)
    return rows, different


@report_errors
def main() -> None:
    """Run the stage."""
    contract = Contract.read()
    counts = split(contract, **params("split"))
    how = f"by {contract.time.name}" if contract.time else "by a hash of the row"
    print("split: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()) + f" rows, {how}")


if __name__ == "__main__":
    main()
