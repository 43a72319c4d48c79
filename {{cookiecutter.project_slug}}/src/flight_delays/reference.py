"""What did the data look like that the model was made from? Bins and their shares, for features and outputs.

Drift is told by comparing counts over these bins with the shares in them (population stability index). Numbers have
ten bins of about equal shares, categories one bin each; null has a bin of its own, the first.

No week is like the average of all: in some data the healthiest week is far from it. So each feature has a limit of its
own, from how far the weeks strayed that the model was made from.
"""

import itertools
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import Floats

FILE = "reference.json"
_BINS = 10
_MOST_CATEGORIES = 50  # of a feature, each with a bin; with more, neighbours share bins as numbers do
NULL = "null"
WINDOW = np.timedelta64(7, "D")  # a whole week, so that each weekday is in it
WINDOW_ROWS = 1_000  # with fewer, chance alone strays far
LIMIT = 0.25  # of the index: from here on a population is by custom called another one
_MARGIN = 1.5  # times what the weeks strayed that the bins were made from: weeks to come will stray more
_SMALLEST = 1e-4  # share, so that an empty bin weighs much and not infinitely

Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Bins:
    """The bins of one feature, or of the output.

    Attributes
    ----------
    edges
        Where one bin ends and the next begins, ascending: a value on an edge belongs to the higher bin.
    names
        Of the bins, for people; the first is that of null.
    shares
        Of the rows in each bin when the model was made, together 1.
    limit
        Of the index over a week, above which something has changed.
    """

    edges: tuple[float, ...]
    names: tuple[str, ...]
    shares: tuple[float, ...]
    limit: float = LIMIT

    @cached_property
    def _ends(self) -> Floats:
        return np.array(self.edges)

    def count(self, values: Floats) -> Floats:
        """Count values by bin.

        Parameters
        ----------
        values
            Encoded, of shape (rows,).

        Returns
        -------
        ndarray of float64, shape (bins,)
        """
        return np.bincount(self.places(values), minlength=len(self.names)).astype(np.float64)

    def places(self, values: Floats) -> NDArray[np.intp]:
        """Give the bin of each encoded value.

        Parameters
        ----------
        values
            Encoded, of shape (rows,).
        """
        return np.where(np.isnan(values), 0, 1 + np.searchsorted(self._ends, values, side="right"))


def psi(expected: Floats, observed: Floats) -> float:
    """Give the population stability index of counts or shares over the same bins.

    Source: Siddiqi, Credit Risk Scorecards, 2006, ch. 9; `ops/prometheus/recording.yml` computes the same.

    Parameters
    ----------
    expected, observed
        Of shape (bins,), each with a sum above 0.
    """
    p, q = (np.maximum(part / part.sum(), _SMALLEST) for part in (observed, expected))
    return float(((p - q) * np.log(p / q)).sum())


def write(
    contract: Contract,
    X: Floats,
    output: Floats,
    folder: Path,
    times: Times | None = None,
    fitted: tuple[Floats, Times] | None = None,
) -> None:
    """Store the bins of each feature and of the output, and until when the model learned.

    Parameters
    ----------
    contract
        The model's.
    X
        Encoded rows that the model learned from, of shape (rows, features).
    output
        Of `Model.predict`, for rows that it did not learn from.
    folder
        The model's.
    times
        When the rows of `X` happened, where the contract has a time.
    fitted
        There, outputs for rows over all that time, in which the model's weeks can be seen; and their times.
    """
    found = {}
    for place, feature in enumerate(features.features(contract)):
        bins = _bins(X[:, place], _categories(feature))
        found[feature.name] = _written(bins, _limit(bins, X[:, place], times))
    several = [str(name) for name in contract.classes] if contract.task == "multiclass" else []
    bins = _bins(_one_number(output), several)
    last = _written(bins, _limit(bins, _one_number(fitted[0]), fitted[1]) if fitted else LIMIT)
    until = None if times is None else str(times.max().astype("datetime64[s]"))
    text = json.dumps({"features": found, "output": last, "until": until}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def learned_until(folder: Path) -> datetime | None:
    """Give the time of the newest row that a model learned from, in UTC; `None` where its rows have no time.

    Parameters
    ----------
    folder
        The model's.
    """
    until = json.loads((folder / FILE).read_text(encoding="utf-8")).get("until")
    return datetime.fromisoformat(until).replace(tzinfo=UTC) if until else None


def read(folder: Path) -> tuple[dict[str, Bins], Bins]:
    """Read what `write` stored: the bins by feature, and those of the output.

    Parameters
    ----------
    folder
        The model's.

    Raises
    ------
    InputError
        There is no such file, or not one that `write` wrote.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: _read(entry) for name, entry in stored["features"].items()}, _read(stored["output"])
    except FileNotFoundError:
        raise InputError(f"{path} is missing: without it drift cannot be seen, train again") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): train again") from None


def _read(entry: dict[str, Any]) -> Bins:
    bins = Bins(tuple(entry["edges"]), tuple(entry["names"]), tuple(entry["shares"]), entry.get("limit", LIMIT))
    if not len(bins.edges) + 2 == len(bins.names) == len(bins.shares):
        raise ValueError
    return bins


def _categories(feature: features.Feature) -> list[str]:
    if feature.column.type == "boolean":
        return ["false", "true"]
    return [str(value) for value in feature.column.values] if feature.categorical else []


def _one_number(output: Floats) -> Floats:
    """Give the class that is likeliest, where there are several."""
    return output if output.ndim == 1 else output.argmax(axis=1).astype(np.float64)


def _bins(values: Floats, categories: list[str]) -> Bins:
    if 0 < len(categories) <= _MOST_CATEGORIES:
        edges = np.arange(1, len(categories)) - 0.5
        names = [repr(name) if name == NULL else name for name in categories]  # a word of the data's own
    else:
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS)) if len(known) else np.array([])
        ends = [f"{edge:.6g}" for edge in edges]
        if len(set(ends)) < len(ends):  # each bin is counted under its name
            ends = [repr(edge) for edge in edges.tolist()]
        between = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
        names = [f"below {ends[0]}", *between, f"from {ends[-1]}"] if ends else ["any"]
    bins = Bins(tuple(edges.tolist()), (NULL, *names), ())
    return replace(bins, shares=tuple((bins.count(values) / max(len(values), 1)).tolist()))


def _written(bins: Bins, limit: float) -> dict[str, Any]:
    return {
        "edges": list(bins.edges),
        "names": list(bins.names),
        "shares": [round(share, 9) for share in bins.shares],
        "limit": round(limit, 3),
    }


def _limit(bins: Bins, values: Floats, times: Times | None) -> float:
    """Find how far a week may stray: as the whole weeks did that are known, and half as far again."""
    if times is None:
        return LIMIT
    weeks, width = ((times - times.min()) // WINDOW).astype(np.intp), len(bins.names)
    whole = int((times.max() - times.min()) // WINDOW)
    counts = np.bincount(weeks * width + bins.places(values), minlength=(whole + 1) * width).reshape(-1, width)
    strayed = [psi(counts.sum(axis=0), week) for week in counts[:whole] if week.sum() >= WINDOW_ROWS]
    return max([LIMIT, *(_MARGIN * far for far in strayed)])
