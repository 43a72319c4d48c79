"""What did the data look like that the model was made from? Bins and their shares, for features and outputs.

Drift is told by comparing counts over these bins with the shares in them (population stability index). Numbers have
ten bins of about equal shares, categories one bin each; null has a bin of its own, the first.
"""

import itertools
import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import Floats

FILE = "reference.json"
_BINS = 10
_MOST_CATEGORIES = 50  # of a feature, each with a bin; with more, neighbours share bins as numbers do
NULL = "null"


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
    """

    edges: tuple[float, ...]
    names: tuple[str, ...]
    shares: tuple[float, ...]

    def place(self, value: float) -> int:
        """Give the bin of one encoded value.

        Parameters
        ----------
        value
            NaN where it is null.
        """
        return 0 if math.isnan(value) else 1 + bisect_right(self.edges, value)

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
        places = np.where(np.isnan(values), 0, 1 + np.searchsorted(self.edges, values, side="right"))
        return np.bincount(places, minlength=len(self.names)).astype(np.float64)


def write(contract: Contract, X: Floats, output: Floats, folder: Path) -> None:
    """Store the bins of each feature and of the output.

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
    """
    found = {
        feature.name: _bins(X[:, place], _categories(feature))
        for place, feature in enumerate(features.features(contract))
    }
    if contract.task == "multiclass":
        answered = _bins(output.argmax(axis=1).astype(np.float64), [str(name) for name in contract.classes])
    else:
        answered = _bins(output, [])
    text = json.dumps({"features": found, "output": answered}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


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
    bins = Bins(tuple(entry["edges"]), tuple(entry["names"]), tuple(entry["shares"]))
    if not len(bins.edges) + 2 == len(bins.names) == len(bins.shares):
        raise ValueError
    return bins


def _categories(feature: features.Feature) -> list[str]:
    if feature.column.type == "boolean":
        return ["false", "true"]
    return [str(value) for value in feature.column.values] if feature.categorical else []


def _bins(values: Floats, categories: list[str]) -> dict[str, Any]:
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
    shares = bins.count(values) / max(len(values), 1)
    return {
        "edges": list(bins.edges),
        "names": list(bins.names),
        "shares": [round(share, 9) for share in shares.tolist()],
    }
