"""Does a column give the target away? One that predicts it almost perfectly alone was likely written after the event.

Each column is cut into bins (its values, or quantiles, with null as a bin of its own) on every second row of a
sample; what the bins say of the target is judged on the other rows.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flight_delays.contract import Contract

_ALMOST = 0.99  # area under the curve, or accuracy
_ALMOST_ALL = 0.995  # share of a number's variance
FEWEST_ROWS = 100
_SUPPORT = 5  # a bin with fewer rows says nothing: copies of a row would answer for each other
_BINS = 200
MOST_ROWS = 20_000  # more say the same, later
_PER_VALUE = 10  # with fewer rows a value, or a quantile, there are too many of them

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def leaks(rows: pa.Table, contract: Contract) -> list[str]:
    """Name the features that give the target away, with how, one line each.

    A feature that may do so has the custom property `predictsAlone` in the contract, with the reason. The time of an
    event is left out: a model sees its hour or weekday, and never how far time has gone.

    Parameters
    ----------
    rows
        Rows with the features and the target; as many as `MOST_ROWS`, evenly taken, are looked at.
    contract
        The contract.
    """
    if rows.num_rows > MOST_ROWS:
        rows = rows.take(pa.array(np.linspace(0, rows.num_rows - 1, MOST_ROWS).astype(np.int64)))
    task = "regression" if contract.task == "regression" else "classification"
    target, found = rows.column(contract.target.name), []
    for column in contract.features:
        if "time" in column.roles or "predictsAlone" in column.custom:
            continue
        if how := leakage(rows.column(column.name), target, task):
            found.append(
                f"feature {column.name!r}: {how}: drop its tag `feature` in contract.yaml; if it is known before the "
                f"prediction, say how in its custom property `predictsAlone`"
            )
    return found


def leakage(values: pa.ChunkedArray, target: pa.ChunkedArray, task: str) -> str | None:
    """Say how a column gives the target away, `None` where it does not.

    Parameters
    ----------
    values
        The column, on a sample of rows.
    target
        The target on the same rows.
    task
        `classification` or `regression`.
    """
    known = pc.is_valid(target)
    values, target = values.filter(known), target.filter(known)
    if len(values) < FEWEST_ROWS:
        return None
    judge = _regression if task == "regression" else _classification
    answer = _numbers(target) if task == "regression" else _codes(target)[0].astype(np.float64)
    gone = pc.is_null(values).to_numpy().astype(np.int64)
    if gone.any() and (found := judge(gone, answer)):
        return f"whether it is empty gives the target away ({found})"
    codes, ordered = _bins(values)
    if found := judge(codes, answer):
        return f"gives the target away ({found} alone)"
    if ordered is not None and (found := (_correlation if task == "regression" else _order)(ordered, answer)):
        return f"gives the target away ({found} alone)"
    return None


def _bins(values: pa.ChunkedArray) -> tuple[Codes, Floats | None]:
    """Give each row its bin, 0 for null, and the values as numbers where they have an order."""
    codes, distinct = _codes(values)
    if pa.types.is_string(values.type) or pa.types.is_boolean(values.type):
        return codes, None
    numbers = _numbers(values)
    if distinct > _BINS or len(values) < _PER_VALUE * distinct:
        present = numbers[::2][np.isfinite(numbers[::2])]
        edges = np.quantile(present, np.linspace(0, 1, min(_BINS, max(2, len(present) // _PER_VALUE)) + 1)[1:-1])
        codes = np.where(np.isfinite(numbers), np.searchsorted(np.unique(edges), numbers, side="right") + 1, 0)
    return codes, numbers


def _codes(values: pa.ChunkedArray) -> tuple[Codes, int]:
    coded = values.combine_chunks().dictionary_encode()
    codes = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy() + 1
    return codes, len(coded.dictionary)


def _numbers(values: pa.ChunkedArray) -> Floats:
    if pa.types.is_temporal(values.type):
        values = values.cast(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
    return values.cast(pa.float64(), safe=False).to_numpy()


def _means(codes: Codes, answer: Floats) -> Floats:
    """Give each second row the mean answer of the other rows in its bin."""
    size = int(codes.max()) + 1
    count = np.bincount(codes[::2], minlength=size)
    mean = np.bincount(codes[::2], answer[::2], minlength=size) / np.maximum(count, 1)
    return np.where(count >= _SUPPORT, mean, answer[::2].mean())[codes[1::2]]


def _classification(codes: Codes, answer: Floats) -> str | None:
    classes = np.unique(answer)
    if len(classes) == 2:
        positive = (answer == classes[1]).astype(np.float64)
        area = _area(_means(codes, positive), positive[1::2])
        area = max(area, 1 - area)
        return f"AUC {area:.3f}" if area >= _ALMOST else None
    scores = np.stack([_means(codes, (answer == one).astype(np.float64)) for one in classes])
    right = float((classes[scores.argmax(axis=0)] == answer[1::2]).mean())
    base = max(float((answer[1::2] == one).mean()) for one in classes)
    return f"accuracy {right:.3f}" if right >= _ALMOST and 1 - right <= (1 - base) / 10 else None


def _regression(codes: Codes, answer: Floats) -> str | None:
    for how, wanted in (("R²", answer), ("R² of ranks", _ranks(answer))):
        rest = wanted[1::2]
        spread = float(((rest - rest.mean()) ** 2).sum())
        share = 1 - float(((rest - _means(codes, wanted)) ** 2).sum()) / spread if spread else 0.0
        if share >= _ALMOST_ALL:
            return f"{how} {share:.3f}"
    return None


def _order(numbers: Floats, answer: Floats) -> str | None:
    """See whether one class has the small numbers and the other the large ones; bins are too coarse for few rows."""
    known = np.isfinite(numbers)
    numbers, answer = numbers[known], answer[known]
    if len(np.unique(answer)) != 2 or len(numbers) < FEWEST_ROWS / 2:
        return None
    area = _area(numbers, (answer == answer.max()).astype(np.float64))
    area = max(area, 1 - area)
    return f"AUC {area:.3f}" if area >= _ALMOST else None


def _correlation(numbers: Floats, answer: Floats) -> str | None:
    both = np.isfinite(numbers) & np.isfinite(answer)
    if both.sum() < max(FEWEST_ROWS, len(both) / 2):
        return None
    numbers, answer = numbers[both], answer[both]
    for how, x, y in (("R²", numbers, answer), ("R² of ranks", _ranks(numbers), _ranks(answer))):
        if x.std() and y.std() and (share := float(np.corrcoef(x, y)[0, 1] ** 2)) >= _ALMOST_ALL:
            return f"{how} {share:.3f}"
    return None


def _area(score: Floats, positive: Floats) -> float:
    """Compute the area under the ROC curve, ties counting half; 0.5 where either class has too few rows to judge."""
    ones = float(positive.sum())
    zeros = len(positive) - ones
    if min(ones, zeros) < _SUPPORT:
        return 0.5
    return float((_ranks(score)[positive == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _ranks(values: Floats) -> Floats:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]
