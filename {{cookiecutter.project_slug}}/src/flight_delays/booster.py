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
_SPLITS, _GAIN = 0, 1
_ALL_TREES = -1


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
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        try:
            _call("BoosterCreateFromModelfile", str(path).encode(), ctypes.byref(rounds), ctypes.byref(self._handle))
        except RuntimeError as error:
            raise InputError(f"{path} is no LightGBM model ({error}): train again") from None
        self.features = self._count("BoosterGetNumFeature")
        self.classes = self._count("BoosterGetNumClasses")
        self._row = _SingleRow(self._handle, self.features, self.classes)

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
        if len(X) == 1 and not raw_score and not pred_contrib:
            return self._row(X)
        X = np.ascontiguousarray(X, np.float64)
        kind = _CONTRIBUTIONS if pred_contrib else _RAW if raw_score else _NORMAL
        width = self.classes * (self.features + 1 if pred_contrib else 1)
        output = np.empty(len(X) * width)
        written = ctypes.c_int64()
        # waking a second thread takes longer than a few rows
        threads = b"num_threads=1" if len(X) < _FEW_ROWS else b""
        where = (_pointer(X), _FLOAT64, ctypes.c_int32(len(X)), ctypes.c_int32(self.features), _ROW_MAJOR)
        target = (ctypes.byref(written), _pointer(output))
        _call("BoosterPredictForMat", self._handle, *where, kind, 0, _ALL_TREES, threads, *target)
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
        _call("BoosterSaveModel", self._handle, 0, _ALL_TREES, _SPLITS, str(path).encode())

    def _count(self, name: str) -> int:
        found = ctypes.c_int()
        _call(name, self._handle, ctypes.byref(found))
        return found.value

    def __del__(self) -> None:
        if self._handle:
            self._row.free()
            _library().LGBM_BoosterFree(self._handle)


class _SingleRow:
    """One row at a time, with all that does not depend on the row done before."""

    def __init__(self, booster: ctypes.c_void_p, features: int, classes: int) -> None:
        self._ready = ctypes.c_void_p()
        sizes = (_FLOAT64, ctypes.c_int32(features))
        _call(
            "BoosterPredictForMatSingleRowFastInit",
            booster, _NORMAL, 0, _ALL_TREES, *sizes, b"", ctypes.byref(self._ready),
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


_FEW_ROWS = 64
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
