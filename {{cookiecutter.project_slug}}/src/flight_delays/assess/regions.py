"""Where is the model weak that nobody thought of? A search on one half of the rows, checked on the other.

A prediction that goes too far from the average is punished: had it stayed nearer, the loss would be smaller. On average
a sound model loses nothing so, in any region, whatever its noise. A small tree finds where a model does lose, and the
rows it has not seen tell whether the model is surely worse there than always saying the average of the region's
training rows.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays import baselines, features, scores
from flight_delays.assess.chance import Estimate, Places, mean, tidy
from flight_delays.assess.evidence import Evidence
from flight_delays.features import Floats

_LEAVES = 8
_MOST = 4  # regions that are checked: each more raises what all must show
_CATEGORIES = 20  # values of one column that the tree tells apart, the most frequent
_CELLS = 2_000_000  # numbers that the tree looks at
_FEWEST = 20  # rows of a region in the half that finds it
_PRIOR_ROWS = 10  # the average of a region leans on the whole with the weight of so many rows
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Region:
    """A region, and how the model fares there on rows that did not choose it.

    Attributes
    ----------
    name
        Its conditions, in the contract's columns and values.
    rows
        On which it was checked.
    model, constant
        Mean loss of the model, and of the average of the region's training rows.
    worse
        How much larger the model's loss is.
    """

    name: str
    rows: int
    model: float
    constant: float
    worse: Estimate

    def entry(self, level: float, weak: bool) -> dict[str, Any]:
        """Give it as plain data.

        Parameters
        ----------
        level
            Of each side of the interval.
        weak
            Whether the model is surely worse.
        """
        margin, value = self.worse.margin(level), self.worse.value
        numbers = {"model": self.model, "constant": self.constant}
        numbers |= {"value": value, "low": value - margin, "high": value + margin}
        return {"region": self.name, "rows": self.rows, "weak": weak} | {k: tidy(v) for k, v in numbers.items()}


@dataclass(frozen=True)
class _Sight:
    """One number that the tree looks at: an amount, or whether a column has one value."""

    feature: features.Feature
    place: int  # in the matrix
    code: float | None = None
    value: str = ""

    def of(self, X: Floats) -> Floats:
        column = X[:, self.place]
        return column if self.code is None else (column == self.code).astype(float)


def search(evidence: Evidence, training: tuple[Floats, Floats], block: Places, few: int) -> list[Region]:
    """Find regions where the model seems weak, and measure them on other rows.

    Parameters
    ----------
    evidence
        The model and its rows.
    training
        Matrix and target of the training rows.
    block
        Each row's block of time.
    few
        Rows below which a region tells nothing, in the half that checks.
    """
    from sklearn.tree import DecisionTreeRegressor

    sights = _sights(evidence)
    finding = _finding(evidence, block)
    learn = np.flatnonzero(finding)
    learn = learn[:: max(1, len(learn) * len(sights) // _CELLS)]
    least = max(_FEWEST, len(learn) // 30)
    if len(learn) < 2 * least:
        return []
    excess = _overshoot(evidence, training[1])
    low, high = np.quantile(excess[learn], [0.01, 0.99])
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, max_depth=3, min_samples_leaf=least, random_state=0)
    tree.fit(_seen(sights, evidence.X[learn]), np.clip(excess[learn], low, high))
    if tree.tree_.node_count == 1:
        return []
    inside, of_training = (tree.decision_path(_seen(sights, X)).toarray() > 0 for X in (evidence.X, training[0]))
    missing = np.isnan(evidence.X).any(axis=0)
    found: list[Region] = []
    large = np.flatnonzero(inside[~finding].sum(axis=0) >= few)
    for node in _strongest(excess[learn], inside[learn], large):
        name, mask = _conditions(tree.tree_, node, sights, missing), ~finding & inside[:, node]
        found.append(_check(name, evidence, mask, block, training[1], of_training[:, node]))
    return found


def _strongest(excess: Floats, inside: NDArray[np.bool_], nodes: Places) -> list[int]:
    """Choose, but for the tree's root, the nodes whose mean excess is surely the highest, none within another."""
    rated = []
    for node in nodes[nodes > 0].tolist():
        here = excess[inside[:, node]]
        rated.append((here.mean() - 2 * here.std() / np.sqrt(len(here)), node))
    chosen: list[int] = []
    for surely, node in sorted(rated, reverse=True):
        apart = not any((inside[:, node] & inside[:, other]).any() for other in chosen)
        if apart and surely > 0 and len(chosen) < _MOST:
            chosen.append(node)
    return chosen


def _check(name: str, evidence: Evidence, mask: Any, block: Places, y_train: Floats, inside: Any) -> Region:
    contract, y = evidence.contract, evidence.y[mask]
    weight = _PRIOR_ROWS / (inside.sum() + _PRIOR_ROWS)
    whole = baselines.constant(contract, y_train, len(y))
    own = baselines.constant(contract, y_train[inside], len(y)) if inside.any() else whole
    constant = scores.losses(contract.task, y, weight * whole + (1 - weight) * own)
    model = scores.losses(contract.task, y, evidence.output[mask])
    worse = mean(model - constant, block[mask])
    return Region(name, int(mask.sum()), float(model.mean()), float(constant.mean()), worse)


def _finding(evidence: Evidence, block: Places) -> NDArray[np.bool_]:
    """Choose the half that finds: every other block of time, else by the row itself, so that copies stay together."""
    if evidence.contract.time:
        return block % 2 == 0
    return np.array([zlib.crc32(row.tobytes()) % 2 == 0 for row in evidence.X], bool)


def _overshoot(evidence: Evidence, y_train: Floats) -> Floats:
    """Give how much each row's loss would fall, to first order, if its prediction moved towards the constant."""
    contract, y, output = evidence.contract, evidence.y, evidence.output
    constant = baselines.constant(contract, y_train, len(y))
    if contract.task == "regression":
        return (output - y) * (output - constant)
    if contract.task == "binary":
        output, constant = (np.column_stack([1 - p, p]) for p in (output, constant))
    happened = y[:, None] == np.arange(output.shape[1])
    farther = np.log(np.clip(output, _SMALLEST, 1)) - np.log(np.clip(constant, _SMALLEST, 1))
    return ((output - happened) * farther).sum(axis=1)


def _sights(evidence: Evidence) -> list[_Sight]:
    found = []
    for place, feature in enumerate(features.features(evidence.contract)):
        if not feature.categorical:
            found.append(_Sight(feature, place))
            continue
        codes, first, counts = np.unique(evidence.X[:, place], return_index=True, return_counts=True)
        for rank in np.argsort(-counts, kind="stable")[:_CATEGORIES]:
            value = evidence.rows[feature.column.name][int(first[rank])].as_py()
            if np.isfinite(codes[rank]):
                found.append(_Sight(feature, place, float(codes[rank]), str(value)))
    return found


def _seen(sights: list[_Sight], X: Floats) -> Floats:
    return np.column_stack([sight.of(X) for sight in sights])


def _conditions(tree: Any, node: int, sights: list[_Sight], missing: Any) -> str:
    """Write the way to a node as conditions, one a column."""
    ends: dict[int, list[float]] = {}
    holes: dict[int, bool] = {}
    while node:
        (parent,) = np.flatnonzero((tree.children_left == node) | (tree.children_right == node))
        seen, left = int(tree.feature[parent]), tree.children_left[parent] == node
        low_high = ends.setdefault(seen, [-np.inf, np.inf])
        if left:
            low_high[1] = min(low_high[1], tree.threshold[parent])
        else:
            low_high[0] = max(low_high[0], tree.threshold[parent])
        holes[seen] = holes.get(seen, True) and bool(tree.missing_go_to_left[parent]) == bool(left)
        node = int(parent)
    words = [_condition(sights[seen], *ends[seen]) for seen in sorted(ends)]
    maybe = [holes[seen] and sights[seen].code is None and missing[sights[seen].place] for seen in sorted(ends)]
    return " and ".join(word + (" or missing" if hole else "") for word, hole in zip(words, maybe, strict=True))


def _condition(sight: _Sight, low: float, high: float) -> str:
    name = sight.feature.name
    if sight.code is not None:
        return f"{name} {'is' if low > 0 else 'is not'} {sight.value}"
    if sight.feature.column.type == "boolean":
        return f"{name} is {'true' if low > 0 else 'false'}"
    if np.isinf(low):
        return f"{name} ≤ {high:.6g}"
    return f"{name} > {low:.6g}" if np.isinf(high) else f"{low:.6g} < {name} ≤ {high:.6g}"


def problem(entry: dict[str, Any]) -> str:
    """Say what is wrong in a region.

    Parameters
    ----------
    entry
        From `Region.entry`.
    """
    return (
        f"region {entry['region']!r}: the model's loss {entry['model']:.4g} on {entry['rows']:,} rows is surely above "
        f"the {entry['constant']:.4g} of always saying what is usual there, by {entry['low']:.2g} at least: "
        "look at its rows: wrong targets, a feature that broke, or a change since training"
    )
