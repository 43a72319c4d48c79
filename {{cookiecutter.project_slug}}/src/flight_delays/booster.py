"""How is a stored LightGBM model asked without its Python package? Importing that takes seconds and 150 MB.

Through the C interface of the library in the package (https://lightgbm.readthedocs.io/en/stable/C-API.html): the same
code that the package calls, so the same bits.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays.errors import InputError

Floats = NDArray[np.float64]
_FLOAT64, _ROW_MAJOR = 1, 1
_NORMAL, _RAW, _CONTRIBUTIONS = 0, 1, 3
_GAIN = 1
_ALL_TREES = -1
# The library has one number of threads for all calls of a process, and sizes their buffers by it: of two at once that
# ask for different numbers, one writes beyond its own.
_ONE_THREAD = b"num_threads=1"


class Booster:
    """A trained LightGBM model, read from its text.

    Parameters
    ----------
    path
        What `lightgbm.Booster.save_model` wrote.

    Raises
    ------
    InputError
        The file is no such model.
    """

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_bytes()
            _check(text)  # the library itself reads beyond a damaged text, and takes the process with it
            self._load(text)
        except KeyError as error:
            raise InputError(f"{path} is no LightGBM model (it has no {error.args[0].decode()}): train again") from None
        except (ArithmeticError, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is no sound LightGBM model ({error}): train again") from None

    def _load(self, text: bytes) -> None:
        self._text = text
        self._handle, rounds = ctypes.c_void_p(), ctypes.c_int()
        _call("BoosterLoadModelFromString", text, ctypes.byref(rounds), ctypes.byref(self._handle))
        self.features = self._count("BoosterGetNumFeature")
        self.classes = self._count("BoosterGetNumClasses")
        self._row = _SingleRow(self._handle, self.features, self.classes)

    def __getstate__(self) -> bytes:
        return self._text

    def __setstate__(self, text: bytes) -> None:
        self._load(text)

    def predict(self, X: Floats, raw_score: bool = False, pred_contrib: bool = False) -> Floats:
        """Predict encoded rows.

        Parameters
        ----------
        X
            Of shape (rows, features), NaN where nothing is known.
        raw_score
            Before the last transformation, such as log-odds in place of probabilities.
        pred_contrib
            What each feature adds to the raw score, its start last; for several classes a block for each.

        Returns
        -------
        ndarray of float64
            Of shape (rows,), or (rows, k) where there are k numbers a row.

        Raises
        ------
        ValueError
            `X` does not have the model's features.
        """
        if X.ndim != 2 or X.shape[1] != self.features:
            raise ValueError(f"the model has {self.features} features, the rows are of shape {X.shape}")
        if self._row and len(X) == 1 and not raw_score and not pred_contrib:
            return self._row(X)
        X = np.ascontiguousarray(X, np.float64)
        kind = _CONTRIBUTIONS if pred_contrib else _RAW if raw_score else _NORMAL
        width = self.classes * (self.features + 1 if pred_contrib else 1)
        output = np.empty(len(X) * width)
        written = ctypes.c_int64()
        where = (_pointer(X), _FLOAT64, ctypes.c_int32(len(X)), ctypes.c_int32(self.features), _ROW_MAJOR)
        target = (ctypes.byref(written), _pointer(output))
        _call("BoosterPredictForMat", self._handle, *where, kind, 0, _ALL_TREES, _ONE_THREAD, *target)
        return output if width == 1 else output.reshape(len(X), width)

    def num_trees(self) -> int:
        """Count the trees."""
        return self._count("BoosterNumberOfTotalModel")

    def feature_importance(self, importance_type: str = "gain") -> Floats:
        """Give each feature's total gain, of shape (features,).

        Parameters
        ----------
        importance_type
            Only `gain` is known here.
        """
        if importance_type != "gain":
            raise ValueError(f"importance {importance_type!r} is not known here: ask for 'gain'")
        found = np.empty(self.features)
        _call("BoosterFeatureImportance", self._handle, _ALL_TREES, _GAIN, _pointer(found))
        return found

    def save_model(self, path: Path) -> None:
        """Write the model's text.

        Parameters
        ----------
        path
            The file.
        """
        path.write_bytes(self._text)

    def _count(self, name: str) -> int:
        found = ctypes.c_int()
        _call(name, self._handle, ctypes.byref(found))
        return found.value

    def __del__(self) -> None:
        if "_row" in vars(self):  # it was loaded to the end
            self._row.free()
            _library().LGBM_BoosterFree(self._handle)


class _SingleRow:
    """One row at a time, with all that does not depend on the row done before."""

    def __init__(self, booster: ctypes.c_void_p, features: int, classes: int) -> None:
        self._ready = ctypes.c_void_p()
        sizes = (_FLOAT64, ctypes.c_int32(features))
        _call(
            "BoosterPredictForMatSingleRowFastInit",
            booster, _NORMAL, 0, _ALL_TREES, *sizes, _ONE_THREAD, ctypes.byref(self._ready),
        )  # fmt: skip
        self._input, self._output = np.empty(features), np.empty(classes)
        self._written = ctypes.c_int64()
        pointers = _pointer(self._input), ctypes.byref(self._written), _pointer(self._output)
        # to let go of Python's lock and wait for it again would take longer than the call
        ask = ctypes.PyDLL(_library()._name).LGBM_BoosterPredictForMatSingleRowFast
        self._ask: Callable[[], int] = functools.partial(ask, self._ready, *pointers)
        self._one_at_a_time = threading.Lock()

    def __call__(self, X: Floats) -> Floats:
        with self._one_at_a_time:
            self._input[:] = X[0]
            if self._ask():
                raise RuntimeError(_fault())
            return self._output.copy() if len(self._output) == 1 else self._output.reshape(1, -1).copy()

    def free(self) -> None:
        _library().LGBM_FastConfigFree(self._ready)


def _check(text: bytes) -> None:
    """Require that a model's text is whole, and that its trees lead from the root to finite leaves."""
    head = dict(line.partition(b"=")[::2] for line in text.partition(b"\n\n")[0].split(b"\n"))
    sizes = [int(size) for size in head[b"tree_sizes"].split()]
    features = int(head[b"max_feature_idx"]) + 1
    start = text.index(b"\n\nTree=0\n" if sizes else b"\n\nend of trees") + 2
    for number, size in enumerate(sizes):
        if not text.startswith(b"Tree=%d\n" % number, start):
            raise ValueError(f"tree {number} is not where it should be")
        lines = text[start : start + size].rstrip(b"\n").split(b"\n")
        tree = dict(line.partition(b"=")[::2] for line in lines)
        if fault := _tree_fault(tree, features) or ("" if all(b"=" in line for line in lines) else "a line is broken"):
            raise ValueError(f"tree {number}: {fault}")
        start += size
    if not text.startswith(b"end of trees", start) or b"\0" in text:
        raise ValueError("its trees do not end where they should")


def _tree_fault(tree: dict[bytes, bytes], features: int) -> str:
    kinds = {name: np.int64 if name in _WHOLE else np.float64 for name in tree}
    found: dict[bytes, Any] = {name: np.array(text.split(), kinds[name]) for name, text in tree.items()}
    leaves, categorical = int(tree[b"num_leaves"]), int(tree[b"num_cat"])
    if len(values := found[b"leaf_value"]) != leaves or not np.isfinite(values).all():
        return "its leaves are not all finite numbers"
    if leaves == 1:
        return ""
    if any(len(found[name]) != leaves - (not name.startswith(b"leaf_")) for name in _ARRAYS):
        return "its splits and leaves are not complete"
    if found[b"split_feature"].min() < 0 or found[b"split_feature"].max() >= features:
        return "it asks for a feature that is not there"
    both = np.concatenate([found[b"left_child"], found[b"right_child"]])  # a split's number, or a leaf's below zero
    back = (both >= 0) & (both <= np.tile(np.arange(leaves - 1), 2))
    if back.any() or not np.array_equal(np.sort(both), np.delete(np.arange(-leaves, leaves - 1), leaves)):
        return "its branches do not lead to each leaf once"
    chosen = found[b"threshold"][found[b"decision_type"] & 1 == 1]  # of its categories
    ends, words = found.get(b"cat_boundaries", np.zeros(1)), len(found.get(b"cat_threshold", ()))
    sound = len(ends) == categorical + 1 and (ends[0], ends[-1]) == (0, words) and (np.diff(ends) >= 0).all()
    if not sound or not ((chosen >= 0) & (chosen < categorical)).all():
        return "its categories are not complete"
    return ""


_WHOLE = {
    b"split_feature", b"decision_type", b"left_child", b"right_child", b"leaf_count", b"internal_count",
    b"cat_boundaries", b"cat_threshold",
}  # fmt: skip
_ARRAYS = (
    b"split_feature", b"split_gain", b"threshold", b"decision_type", b"left_child", b"right_child",
    b"leaf_weight", b"leaf_count", b"internal_value", b"internal_weight", b"internal_count",
)  # fmt: skip
_LIBRARIES = {".so", ".dylib", ".dll"}


@functools.cache
def _library() -> ctypes.CDLL:
    package = find_spec("lightgbm")  # found, and not imported
    if package is None or package.origin is None:
        raise InputError("lightgbm is not installed: run `make setup`")
    found = (path for path in Path(package.origin).parent.rglob("lib_lightgbm.*") if path.suffix in _LIBRARIES)
    library = ctypes.CDLL(str(next(found)))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _call(name: str, *arguments: Any) -> None:
    if getattr(_library(), f"LGBM_{name}")(*arguments):
        raise RuntimeError(_fault())


def _fault() -> str:
    return " ".join(_library().LGBM_GetLastError().decode(errors="replace").split())


def _pointer(values: Floats) -> Any:
    return values.ctypes.data_as(ctypes.c_void_p)
