"""How are very many rows predicted? As LightGBM would, to the bit, in a fraction of its time and in NumPy alone.

LightGBM walks each row down each tree, and the processor guesses wrong at every other fork. Here no row walks: which
leaves of a tree a value still allows is looked up in a table, for many trees at a time as a word of bits each; a row's
words over all its features are joined by `and`, and the one bit left names the leaf (after QuickScorer, Lucchese et
al. 2015). Leaves are added up in LightGBM's order, since the order decides the last bit.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flight_delays.model import Model

Floats = NDArray[np.float64]
FEW_ROWS = 64  # of a request, below which tables are not asked
_ZERO = float(np.float32(1e-35))  # LightGBM takes what is not farther from zero for zero
_AT_ONCE = 2_048  # rows whose words stay in the processor's cache
_WORDS = 128  # bytes looked up in one go: two lines of that cache, which processors fetch in pairs
_JOINT = 2_048  # values of several features looked up as one
_MOST = 64 * 2**20  # bytes of tables
_SAME = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")  # what they predict is the sum itself
_CATEGORY, _DEFAULT_LEFT = 1, 2  # bits of a decision type; the two above say what is missing
_ZERO_IS_MISSING, _NAN_IS_MISSING = 1, 2


class UnsuitableError(Exception):
    """The model is one that only LightGBM itself can predict."""


def quick(model: Model) -> Callable[[Floats], Floats]:
    """Give the quickest way to what `Model.predict` gives for many rows.

    Parameters
    ----------
    model
        Of any kind.

    Returns
    -------
    callable
        A forest's `predict` for as many rows as are predicted sooner by it, if the model is LightGBM's, and rows made
        to be difficult come out the same to the bit; else the model's own. Either can be called from several threads.
    """
    if not model.boosted:
        return model.predict
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.txt"
            model.predictor.save_model(path)
            forest = Forest(path.read_text(encoding="utf-8"))
    except (UnsuitableError, RuntimeError):  # LightGBM's error where there is no room for the file
        return model.predict
    rows = forest.difficult_rows()
    forest.predict(rows)  # the first call is no measure
    expected, its_time = _timed(model.predict, rows, FEW_ROWS - 1)
    found, own_time = _timed(forest.predict, rows, len(rows))
    if own_time >= its_time or not np.array_equal(expected, found, equal_nan=True):
        return model.predict
    _, time_in_parts = _timed(forest.predict, rows, FEW_ROWS)
    a_call = (time_in_parts - own_time) / (len(rows) / FEW_ROWS - 1)  # takes this, however few rows
    least = len(rows) * a_call / (its_time - own_time)
    return lambda X: forest.predict(X) if len(X) >= least else model.predict(X)


class Forest:
    """The trees of a LightGBM model as tables of the leaves that each value allows.

    Parameters
    ----------
    text
        What LightGBM's `save_model` writes.

    Raises
    ------
    UnsuitableError
        It has trees of more than 64 leaves, linear leaves, tables larger than the cache is worth, or an objective
        whose last step is not known here.
    """

    def __init__(self, text: str) -> None:
        header, trees = _read(text)
        name, *words = header.get("objective", "").split()
        settings = dict(word.split(":", 1) for word in words if ":" in word)
        if "average_output" in header or "sqrt" in words or name not in {*_SAME, "binary", "multiclass"}:
            raise UnsuitableError(f"objective {name!r}")
        if not trees or max(len(tree.values) for tree in trees) > 64 or any(tree.linear for tree in trees):
            raise UnsuitableError("trees")
        self._objective, self._sigmoid = name, float(settings.get("sigmoid", 1))
        self._outputs = int(header["num_tree_per_iteration"])
        scales = [_Scale(trees, feature) for feature in range(int(header["max_feature_idx"]) + 1)]
        self._scales = scales
        self._groups = _group([scale.size for scale in scales])
        word = np.dtype(np.uint32 if max(len(tree.values) for tree in trees) <= 32 else np.uint64)
        self._width = max(_WORDS // word.itemsize, self._outputs)
        trees_at_once = self._width // self._outputs * self._outputs
        sizes = [math.prod(scales[feature].size for feature in group) for group in self._groups]
        if sum(sizes) * self._width * word.itemsize * math.ceil(len(trees) / trees_at_once) > _MOST:
            raise UnsuitableError("tables")
        self._bits = _Bits(word)
        self._blocks = [
            self._block(trees[first : first + trees_at_once], self._width)
            for first in range(0, len(trees), trees_at_once)
        ]

    def predict(self, X: Floats) -> Floats:
        """Predict encoded rows, as LightGBM's own `predict` does.

        Parameters
        ----------
        X
            Of shape (rows, features), NaN where nothing is known.

        Returns
        -------
        ndarray of float64
            Of shape (rows,), or (rows, classes).
        """
        parts = [self._sums(X[first : first + _AT_ONCE]) for first in range(0, max(len(X), 1), _AT_ONCE)]
        sums = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self._objective == "binary":
            return 1.0 / (1.0 + _exp(-self._sigmoid * sums[0]))
        if self._objective == "multiclass":
            powers = [_exp(part - sums.max(axis=0)) for part in sums]
            total = np.zeros(len(X))
            for power in powers:  # one after the other, as the order decides the last bit
                total += power
            return np.column_stack(powers) / total[:, None]
        return sums[0]

    def difficult_rows(self, count: int = 4_096) -> Floats:
        """Draw rows from where answers change: each threshold, its neighbours, zero, nothing, far away."""
        draw = np.random.default_rng(0)
        return np.column_stack([draw.choice(scale.difficult(), count) for scale in self._scales])

    def _block(self, trees: Sequence["_Tree"], width: int) -> tuple[list[tuple[int, NDArray]], Floats, int]:
        """Make the tables of a few trees: for each group of features, the leaves that its values allow."""
        every = self._bits.below(np.array([len(tree.values) for tree in trees] + [1] * (width - len(trees))))
        allowed: dict[int, NDArray] = {}
        for place, tree in enumerate(trees):
            for node, (left, right) in enumerate(tree.leaves_below()):
                feature = tree.feature[node]
                table = allowed.setdefault(feature, np.tile(every, (self._scales[feature].size, 1)))
                goes_left = tree.goes_left(node, self._scales[feature].examples)
                table[:, place] &= np.where(goes_left, ~self._bits.of(right), ~self._bits.of(left))
        tables = []
        for number, group in enumerate(self._groups):
            if allowed.keys().isdisjoint(group):
                continue
            table = every[None]
            for feature in group:
                own = allowed.get(feature, np.tile(every, (self._scales[feature].size, 1)))
                table = (table[:, None] & own).reshape(-1, width)
            tables.append((number, np.ascontiguousarray(table)))
        if not tables:  # stumps without a fork
            tables = [(0, np.tile(every, (math.prod(self._scales[feature].size for feature in self._groups[0]), 1)))]
        values = np.zeros((width, self._bits.count))
        for place, tree in enumerate(trees):
            values[place, self._bits.places[: len(tree.values)]] = tree.values
        return tables, values.ravel(), len(trees)

    def _sums(self, X: Floats) -> Floats:
        """Add up the values of all trees for some rows, by output."""
        if len(X) == 1:  # NumPy adds a single column up in another order
            return self._sums(X[[0, 0]])[:, :1]
        codes = [self._codes(X, group) for group in self._groups]
        rows, width, outputs = len(X), self._width, self._outputs
        words, others = np.empty((rows, width), self._bits.word), np.empty((rows, width), self._bits.word)
        places, values = np.empty((width, rows), np.intp), np.empty((outputs + width, rows))
        sums = np.zeros((outputs, rows))
        first_of_tree = (np.arange(width) * self._bits.count).astype(words.dtype)
        for ((first, table), *more), leaves, trees in self._blocks:
            table.take(codes[first], axis=0, out=words, mode="clip")
            for group, table in more:
                table.take(codes[group], axis=0, out=others, mode="clip")
                np.bitwise_and(words, others, out=words)
            np.add(self._bits.place(words), first_of_tree, out=words)
            places[:] = words.T  # a tree's leaves side by side are added up in half the time
            leaves.take(places, out=values[outputs:], mode="clip")
            values[:outputs] = sums
            for output in range(outputs):  # its trees stand at this distance, and are added up in their order
                np.add.reduce(values[output : outputs + trees : outputs], axis=0, out=sums[output])
        return sums

    def _codes(self, X: Floats, group: Sequence[int]) -> NDArray[np.intp]:
        codes = self._scales[group[0]].codes(X[:, group[0]])
        for feature in group[1:]:
            codes = codes * self._scales[feature].size + self._scales[feature].codes(X[:, feature])
        return codes


class _Tree:
    """One tree, as LightGBM writes it: a negative child is a leaf."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.values = np.array(lines["leaf_value"].split(), float)
        self.linear = lines.get("is_linear", "0") != "0"
        self.feature = [int(word) for word in lines.get("split_feature", "").split()]
        self.threshold = [float(word) for word in lines.get("threshold", "").split()]
        self.decision = [int(word) for word in lines.get("decision_type", "").split()]
        self._children = [[int(word) for word in lines.get(f"{side}_child", "").split()] for side in ("left", "right")]
        self._bounds = [int(word) for word in lines.get("cat_boundaries", "").split()]
        self._categories = np.array(lines.get("cat_threshold", "").split(), np.uint32)

    def leaves_below(self) -> list[list[list[int]]]:
        """List the leaves to the left and to the right of each node; a child always stands after its parent."""
        found: list[list[list[int]]] = [[] for _ in self.feature]
        for node in reversed(range(len(found))):
            children = [side[node] for side in self._children]
            found[node] = [[~child] if child < 0 else found[child][0] + found[child][1] for child in children]
        return found

    def left_categories(self, node: int) -> NDArray[np.bool_]:
        """Say for each category, up to the last that is known, whether it goes left."""
        entry = int(self.threshold[node])
        words = self._categories[self._bounds[entry] : self._bounds[entry + 1]]
        return (words[:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(bool).ravel()

    def goes_left(self, node: int, values: Floats) -> NDArray[np.bool_]:
        """Say which values go left at a node."""
        kind = self.decision[node]
        if kind & _CATEGORY:
            left = self.left_categories(node)
            known = (values >= 0) & (values < len(left))
            return known & left[np.where(known, values, 0).astype(int)]
        missing, by_default = kind >> 2 & 3, bool(kind & _DEFAULT_LEFT)
        values = np.where(np.abs(values) <= _ZERO, 0.0, values)
        if missing != _NAN_IS_MISSING:
            values = np.where(np.isnan(values), 0.0, values)
        left = values <= self.threshold[node]
        if missing == _ZERO_IS_MISSING:
            return np.where(values == 0, by_default, left)
        return np.where(np.isnan(values), by_default, left) if missing == _NAN_IS_MISSING else left


class _Scale:
    """The values of a feature that the trees can tell apart, each by a number and an example."""

    def __init__(self, trees: Sequence[_Tree], feature: int) -> None:
        nodes = [(tree, node) for tree in trees for node, asked in enumerate(tree.feature) if asked == feature]
        kinds = {tree.decision[node] & _CATEGORY for tree, node in nodes}
        if len(kinds) > 1:
            raise UnsuitableError("a feature that is both number and category")
        self._categories = max(len(tree.left_categories(node)) for tree, node in nodes) if kinds == {_CATEGORY} else 0
        cuts = [tree.threshold[node] for tree, node in nodes] + [np.nextafter(-_ZERO, -1), _ZERO]
        self._cuts = np.unique(cuts) if nodes else np.empty(0)
        if self._categories:
            self.examples = np.append(np.arange(self._categories), -1.0)
        elif nodes:
            self.examples = np.append(self._cuts, [np.inf, np.nan])
        else:
            self.examples = np.zeros(1)
        self.size = len(self.examples)

    def codes(self, values: Floats) -> NDArray[np.intp]:
        """Give each value's place among the examples."""
        if self.size == 1:
            return np.zeros(len(values), np.intp)
        if self._categories:  # a fraction is cut off; what is above -1 is so category 0
            known = (values > -1) & (values < self._categories)
            return np.where(known, values, self._categories).astype(np.intp)
        codes = np.searchsorted(self._cuts, values)
        codes[np.isnan(values)] = self.size - 1
        return codes

    def difficult(self) -> Floats:
        """List values at, just below and just above what tells them apart."""
        cuts = np.arange(self._categories + 2.0) if self._categories else self._cuts
        around = [cuts, np.nextafter(cuts, -np.inf), np.nextafter(cuts, np.inf)]
        return np.concatenate([*around, [0.0, -0.0, -1.0, 0.5, 1e300, -1e300, np.nan, np.nan]])


class _Bits:
    """Words with one bit for each leaf of a tree, and the way from a word with a single bit to a small number.

    Times a de Bruijn number, each power of two has other bits at its top; these are its place.
    """

    def __init__(self, word: np.dtype) -> None:
        self.word, self.count = word, 8 * word.itemsize
        self._number = word.type(0x077CB531 if self.count == 32 else 0x03F79D71B4CB0A89)
        self._shift = word.type(self.count - int(math.log2(self.count)))
        self.places = self.place(word.type(1) << np.arange(self.count, dtype=word)).astype(np.intp)

    def of(self, leaves: Sequence[int]) -> np.unsignedinteger:
        """Give the word with the bits of some leaves."""
        return self.word.type(sum(1 << leaf for leaf in leaves))

    def below(self, counts: NDArray) -> NDArray:
        """Give for each count the word with the bits of that many leaves."""
        return np.array([(1 << int(count)) - 1 for count in counts], self.word)

    def place(self, words: NDArray) -> NDArray:
        """Give the place of each word's only bit, in the words' own memory."""
        np.multiply(words, self._number, out=words)
        return np.right_shift(words, self._shift, out=words)


def _timed(predict: Callable[[Floats], Floats], rows: Floats, at_once: int) -> tuple[Floats, float]:
    """Predict so many rows at once, and measure what this thread alone does: others may answer requests meanwhile."""
    start = time.thread_time()
    parts = [predict(rows[first : first + at_once]) for first in range(0, len(rows), at_once)]
    return np.concatenate(parts), time.thread_time() - start


def _read(text: str) -> tuple[dict[str, str], list[_Tree]]:
    head, *trees = text.split("\nTree=")
    header = {key: value for key, _, value in (line.partition("=") for line in head.splitlines())}
    pairs = [[line.partition("=") for line in part.split("\n\n")[0].splitlines()[1:]] for part in trees]
    return header, [_Tree({key: value for key, _, value in lines}) for lines in pairs]


def _group(sizes: Sequence[int]) -> list[list[int]]:
    """Put features with few values together, as long as their joint values are not too many; leave out the unused."""
    groups: list[list[int]] = []
    size = 0
    for feature in sorted(range(len(sizes)), key=lambda feature: sizes[feature]):
        if sizes[feature] == 1:
            continue
        if groups and size * sizes[feature] <= _JOINT:
            groups[-1].append(feature)
            size *= sizes[feature]
        else:
            groups.append([feature])
            size = sizes[feature]
    return groups or [[0]]


def _exp(values: Floats) -> Floats:
    """Raise e to some powers, by the C library's function as LightGBM does; NumPy's own differs in the last bit."""
    return pc.exp(pa.array(values)).to_numpy()
