"""Does a stored model still give the answers that it gave when it was made? A few rows and outputs stored beside it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays.errors import InputError
from flight_delays.model import Model

FILE = "golden.parquet"
ROWS = 64
_CLOSE = 1e-6  # another processor may round the last digits of an output otherwise


def write(model: Model, rows: pa.Table, folder: Path) -> None:
    """Store rows spread evenly over a table with the outputs of today.

    Parameters
    ----------
    model
        Just made.
    rows
        In the contract's types, with at least the feature columns.
    folder
        The model's.
    """
    places = np.unique(np.linspace(0, rows.num_rows - 1, min(ROWS, rows.num_rows)).astype(np.intp))
    chosen = rows.select([column.name for column in model.contract.features]).take(pa.array(places)).combine_chunks()
    row = pa.StructArray.from_arrays([column.combine_chunks() for column in chosen.columns], chosen.column_names)
    output = [np.atleast_1d(entry).tolist() for entry in model.score(chosen)]
    pq.write_table(pa.table({"row": row, "output": pa.array(output, pa.list_(pa.float64()))}), folder / FILE)


def check(model: Model, folder: Path) -> pa.Table:
    """Ask a loaded model the rows stored beside it, and give them.

    Parameters
    ----------
    model
        Loaded from the folder.
    folder
        The model's.

    Raises
    ------
    InputError
        The rows are missing, or an answer is another one than it was: the encoding or the model is not what it was.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: without it nobody can tell whether the model is sound, train again")
    try:
        stored = pq.ParquetFile(path).read()
        row = stored["row"].combine_chunks()
        rows = pa.Table.from_arrays(row.flatten(), [field.name for field in row.type])
        expected = np.array(stored["output"].to_pylist(), np.float64)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({_line(error)}): train again") from None
    if not len(row):
        raise InputError(f"{path} holds no rows: without them nobody can tell whether the model is sound, train again")
    expected = expected.reshape(len(row), -1)
    try:
        found = model.score(rows)
    except Exception as error:  # whatever a broken model raises
        raise InputError(f"{folder}: the model cannot answer its golden rows: {_line(error)}") from None
    found = found.reshape(len(found), -1)
    if found.shape != expected.shape:
        raise InputError(f"{folder}: outputs of shape {found.shape} for the golden rows, they were {expected.shape}")
    wrong = ~np.isclose(found, expected, rtol=_CLOSE, atol=_CLOSE).all(axis=1)
    if wrong.any():
        place = int(wrong.argmax())
        raise InputError(
            f"{folder}: {int(wrong.sum())} of {len(found)} golden rows are answered otherwise than when the model was "
            f"made, row {place} by {found[place].tolist()} in place of {expected[place].tolist()}: it is not served"
        )
    if len(found) > 1 and (found == found[0]).all() and len({tuple(entry.items()) for entry in row.to_pylist()}) > 1:
        raise InputError(f"{folder}: the model gives every golden row the same output: it is not served")
    return rows


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
