"""How do rows become numbers? The one encoding that training, batch scoring and the service share.

A pure function of the contract, from an Arrow batch of any length to a matrix: one row, one file's chunk or one
partition of a cluster are encoded alike.
"""

import math
import operator
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flight_delays.contract import Column, Contract

HASH_BUCKETS = 255  # for text without listed values: as many as LightGBM's bins can tell apart
Floats = NDArray[np.float64]
_BATCH_ROWS = 65_536
_FEW = 16  # rows; from here on a column at a time is faster than a row at a time
_PARTS = {
    "timestamp": ("hour", "weekday", "month"),
    "date": ("year", "month", "weekday"),
    "time": ("hour", "minute"),
}
_PART_OF_TIME = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "weekday": pc.day_of_week,
    "hour": pc.hour,
    "minute": pc.minute,
}


@dataclass(frozen=True)
class Feature:
    """One column of the matrix.

    Attributes
    ----------
    name
        The contract's column, with the part for dates and times: `scheduled_at.hour`.
    column
        The contract's column it is computed from.
    part
        The part of a date or time that it holds, else `None`.
    categorical
        Whether its numbers are codes without an order.
    """

    name: str
    column: Column
    part: str | None = None
    categorical: bool = False


def features(contract: Contract) -> tuple[Feature, ...]:
    """List the matrix's columns, in order.

    Parameters
    ----------
    contract
        A contract; its columns tagged `feature` are used.
    """
    found: list[Feature] = []
    for column in contract.features:
        if column.type in _PARTS:
            parts: Sequence[str] = column.custom.get("parts", _PARTS[column.type])
            found += [Feature(f"{column.name}.{part}", column, part) for part in parts]
        else:
            found.append(Feature(column.name, column, categorical=column.type == "string"))
    return tuple(found)


def encode(batch: pa.RecordBatch | pa.Table, contract: Contract) -> Floats:
    """Turn rows into numbers.

    Numbers and truth values stay as they are; listed values become their place in the contract's list; other text
    becomes a hash bucket; dates and times become their parts. Null, an unlisted value, NaN and infinity become NaN.

    Parameters
    ----------
    batch
        Rows with at least the contract's feature columns, in the contract's Arrow types.
    contract
        The contract.

    Returns
    -------
    ndarray of float64, shape (rows, len(features(contract)))
    """
    matrix = np.empty((batch.num_rows, len(features(contract))))
    for index, feature in enumerate(features(contract)):
        matrix[:, index] = _numbers(batch.column(feature.column.name), feature)
    matrix[~np.isfinite(matrix)] = np.nan
    return matrix


def encoder(contract: Contract) -> Callable[[Sequence[Sequence[Any]]], Floats]:
    """Make the encoding of rows as Python has them: the numbers of `encode`, to the bit, without an Arrow table.

    Parameters
    ----------
    contract
        The contract.

    Returns
    -------
    callable
        From rows, each with the values of `contract.features` in that order, to the matrix of `encode`.
    """
    places = {column.name: place for place, column in enumerate(contract.features)}
    steps = [(places[feature.column.name], _number(feature), _how(feature)) for feature in features(contract)]

    def encode_row(row: Sequence[Any]) -> list[float]:
        return [math.nan if (value := row[at]) is None else number(value) for at, number, _ in steps]

    def encode_rows(rows: Sequence[Sequence[Any]]) -> Floats:
        if len(rows) < _FEW:
            return np.array([encode_row(row) for row in rows])
        columns = list(zip(*rows, strict=True))
        matrix = np.empty((len(rows), len(steps)))
        for index, (at, number, turn) in enumerate(steps):
            matrix[:, index] = turn(number, columns[at])
        matrix[~np.isfinite(matrix)] = np.nan
        return matrix

    return encode_rows


def encode_target(batch: pa.RecordBatch | pa.Table, contract: Contract) -> Floats:
    """Turn the target into numbers: its value in regression, else its place in `contract.classes`.

    Parameters
    ----------
    batch
        Rows with the target column.
    contract
        The contract.

    Returns
    -------
    ndarray of float64, shape (rows,)
    """
    values = batch.column(contract.target.name)
    if contract.task == "regression":
        return _floats(values)
    return _floats(pc.index_in(values, pa.array(contract.classes, values.type)))


def load(path: Path, contract: Contract, rows: NDArray[np.intp] | None = None) -> tuple[Floats, Floats]:
    """Read a Parquet file chunk by chunk into a matrix and a target.

    Parameters
    ----------
    path
        The file, in the contract's types.
    contract
        The contract.
    rows
        Which rows to keep, as ascending positions; all where `None`.

    Returns
    -------
    tuple of ndarray
        The matrix of shape (rows, features) and the target of shape (rows,).
    """
    file = pq.ParquetFile(path)
    total = file.metadata.num_rows if rows is None else len(rows)
    X = np.empty((total, len(features(contract))))
    y = np.empty(total)
    columns = list(dict.fromkeys([column.name for column in contract.features] + [contract.target.name]))
    filled = seen = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
        if rows is not None:
            first, last = np.searchsorted(rows, [seen, seen + batch.num_rows])
            seen += batch.num_rows
            batch = batch.take(pa.array(rows[first:last] - (seen - batch.num_rows)))
        X[filled : filled + batch.num_rows] = encode(batch, contract)
        y[filled : filled + batch.num_rows] = encode_target(batch, contract)
        filled += batch.num_rows
    return X, y


def _numbers(values: pa.Array | pa.ChunkedArray, feature: Feature) -> Floats:
    if feature.part:
        return _floats(_PART_OF_TIME[feature.part](values))
    if feature.column.type != "string":
        return _floats(values)
    if feature.column.values:
        return _floats(pc.index_in(values, pa.array(feature.column.values, pa.string()), skip_nulls=True))
    return _floats(_hash(values))


def _number(feature: Feature) -> Callable[[Any], float]:
    """Give what `_numbers` does to a column, for one value that is not null."""
    if feature.part:
        if feature.part == "weekday":
            return lambda value: float(value.weekday())
        part = operator.attrgetter(feature.part)
        return lambda value: float(part(value))
    if feature.column.type == "number":
        return lambda value: value if math.isfinite(value) else math.nan
    if feature.column.type != "string":
        return float
    if feature.column.values:
        codes = {value: float(code) for code, value in reversed(list(enumerate(feature.column.values)))}
        return lambda value: codes.get(value, math.nan)
    return lambda value: float(_bucket(value))


def _how(feature: Feature) -> Callable[[Callable[[Any], float], Sequence[Any]], Any]:
    """Give the quickest way to turn a whole column into numbers."""
    if feature.part:
        return _each
    return _each_once if feature.column.type == "string" else lambda _, values: np.array(values, np.float64)


def _each(number: Callable[[Any], float], values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else number(value) for value in values]


def _each_once(number: Callable[[Any], float], values: Sequence[Any]) -> list[float]:
    """Turn each distinct value into its number once: texts come again and again."""
    numbers = {value: math.nan if value is None else number(value) for value in set(values)}
    return [numbers[value] for value in values]


def _floats(values: pa.Array | pa.ChunkedArray) -> Floats:
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _hash(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Hash each distinct text once; CRC-32 is the same on every machine and in every process."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    coded = values.dictionary_encode()
    buckets = [_bucket(text) for text in coded.dictionary.to_pylist()]
    return pa.array(buckets, pa.int32()).take(coded.indices)


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode()) % HASH_BUCKETS
