"""Into which parts does a column split the rows? By its values; amounts and moments by quarters; nulls apart."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flight_delays.contract import Column

MISSING, OTHERS = "missing", "other values"
_MOST = 40  # parts that are told apart; rarer values stand together
_FEW_NUMBERS = 12  # up to so many different numbers are taken one by one
_QUARTERS = (0.25, 0.5, 0.75)
_AMOUNTS = {"date", "integer", "number", "time", "timestamp"}


def split(values: pa.ChunkedArray, column: Column) -> tuple[NDArray[np.intp], list[str]]:
    """Split rows by a column.

    Parameters
    ----------
    values
        The column's values.
    column
        The column. Of a personal one, only values that the contract lists are named.

    Returns
    -------
    tuple
        Each row's part, of shape (rows,), and the parts' names.
    """
    whole = values.combine_chunks()
    coded = whole.dictionary_encode()
    if column.type in _AMOUNTS and not column.values and len(coded.dictionary) > _FEW_NUMBERS:
        codes, names = _quarters(whole, column)
    else:
        codes, names = _by_value(coded, column)
    if pc.any(pc.is_null(whole)).as_py():
        codes = np.where(whole.is_null().to_numpy(zero_copy_only=False), len(names), codes)
        names = [*names, MISSING]
    return codes.astype(np.intp), names


def _by_value(coded: pa.DictionaryArray, column: Column) -> tuple[NDArray[Any], list[str]]:
    values = coded.dictionary.to_pylist()
    counts = np.bincount(coded.indices.drop_null().to_numpy(), minlength=len(values))
    rank = {int(place): order for order, place in enumerate(np.argsort(-counts, kind="stable")[:_MOST])}
    names = [
        str(values[place]) if not column.personal or values[place] in column.values else f"group {order + 1}"
        for place, order in rank.items()
    ]
    lookup = np.array([rank.get(place, _MOST) for place in range(len(values))] or [0])
    codes = lookup[coded.indices.fill_null(0).to_numpy()]
    return codes, names + ([OTHERS] if len(values) > _MOST else [])


def _quarters(values: pa.Array, column: Column) -> tuple[NDArray[Any], list[str]]:
    present = values.drop_null().sort()
    edges = list(dict.fromkeys(present[int(share * (len(present) - 1))] for share in _QUARTERS))
    codes = np.zeros(len(values), np.intp)
    for edge in edges:
        codes += pc.greater(values, edge).fill_null(False).to_numpy(zero_copy_only=False)
    if column.personal:
        return codes, [f"group {place + 1}" for place in range(len(edges) + 1)]
    texts = [_text(edge.as_py()) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return codes, [f"up to {texts[0]}", *between, f"above {texts[-1]}"]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)
