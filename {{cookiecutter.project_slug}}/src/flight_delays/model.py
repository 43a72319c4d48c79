"""What is the model? Fits, predicts, explains, and keeps itself in files that cannot run code.

LightGBM is stored as its own text, any other scikit-learn estimator through skops; nothing is ever unpickled.
"""

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flight_delays import features
from flight_delays.booster import Booster
from flight_delays.contract import Contract
from flight_delays.errors import InputError

DEFAULTS = {
    "binary": "lightgbm.LGBMClassifier",
    "multiclass": "lightgbm.LGBMClassifier",
    "regression": "lightgbm.LGBMRegressor",
}
# One thread more or less must not change a bit of the model.
_DETERMINISTIC = {"deterministic": True, "force_row_wise": True, "verbose": -1}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A fitted model with the contract whose rows it understands.

    Attributes
    ----------
    contract
        The contract it was trained under.
    predictor
        A LightGBM booster, as fitted or as read from its file, or a fitted scikit-learn estimator.
    threshold
        In binary classification, the probability from which the positive class is decided.
    """

    contract: Contract
    predictor: Any
    threshold: float = 0.5

    @property
    def boosted(self) -> bool:
        """Whether LightGBM made the predictor."""
        return hasattr(self.predictor, "num_trees")

    def predict(self, X: Floats) -> Floats:
        """Predict encoded rows.

        Parameters
        ----------
        X
            What `features.encode` gave, of shape (rows, features).

        Returns
        -------
        ndarray of float64
            The positive class's probability (binary) or the value (regression), of shape (rows,); the classes'
            probabilities (multiclass), of shape (rows, classes).
        """
        if hasattr(self.predictor, "predict_proba"):
            probabilities = self.predictor.predict_proba(X)
            return probabilities[:, 1] if self.contract.task == "binary" else probabilities
        return np.asarray(self.predictor.predict(X), dtype=np.float64)

    def score(self, batch: pa.RecordBatch | pa.Table) -> Floats:
        """Predict rows as they come: `predict` after the contract's encoding.

        Parameters
        ----------
        batch
            Rows in the contract's Arrow types.
        """
        return self.predict(features.encode(batch, self.contract))

    def decide(self, output: Floats) -> list[Any]:
        """Turn the output of `predict` into answers in the target's own values.

        Parameters
        ----------
        output
            Probabilities or values, as `predict` gives them.
        """
        if self.contract.task == "regression":
            return output.tolist()
        chosen = output >= self.threshold if self.contract.task == "binary" else output.argmax(axis=1)
        return [self.contract.classes[index] for index in chosen.astype(int).tolist()]

    def importance(self) -> Floats:
        """Give each feature's share of the total gain in LightGBM, of shape (features,); NaN for other estimators."""
        names = features.features(self.contract)
        if not self.boosted:
            return np.full(len(names), np.nan)
        gain = self.predictor.feature_importance("gain")
        return gain / max(gain.sum(), 1e-300)

    def save(self, folder: Path, contract_path: Path) -> None:
        """Write the model, its description and its contract into a new folder.

        Parameters
        ----------
        folder
            Emptied first.
        contract_path
            The file that `contract` was read from.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copyfile(contract_path, folder / "contract.yaml")
        if self.boosted:
            self.predictor.save_model(folder / "model.txt")
        else:
            import skops.io

            skops.io.dump(self.predictor, folder / "model.skops")
        description = {
            "task": self.contract.task,
            "classes": list(self.contract.classes),
            "features": [feature.name for feature in features.features(self.contract)],
            "threshold": self.threshold,
            "contract": self.contract.digest,
        }
        (folder / "model.json").write_text(json.dumps(description, indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Model":
        """Read what `save` wrote, without running any code from it.

        Parameters
        ----------
        folder
            A model's folder.

        Raises
        ------
        InputError
            The folder holds no model, or one whose parts do not belong together.
        """
        if not (folder / "model.json").is_file():
            raise InputError(f"{folder} holds no model: run `make pipeline`")
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        contract = Contract.read(folder / "contract.yaml", sound=description.get("contract", ""))
        if description["features"] != [feature.name for feature in features.features(contract)]:
            raise InputError(f"{folder}: model.json and contract.yaml name different features: train again")
        if (folder / "model.txt").is_file():
            predictor: Any = Booster(folder / "model.txt")
        else:
            import skops.io

            types = skops.io.get_untrusted_types(file=folder / "model.skops")
            if unknown := [name for name in types if not name.startswith(("sklearn.", "numpy.dtype"))]:
                raise InputError(f"{folder}/model.skops holds types that are not known to be safe: {unknown}")
            predictor = skops.io.load(folder / "model.skops", trusted=types)
        return cls(contract, predictor, description["threshold"])


def make_estimator(path: str, task: str, hyperparameters: dict[str, Any], seed: int) -> Any:
    """Make an unfitted estimator.

    Parameters
    ----------
    path
        The import path of a class with scikit-learn's interface, or `auto` for LightGBM.
    task
        `binary`, `multiclass` or `regression`.
    hyperparameters
        Keyword arguments of the class.
    seed
        Goes to `random_state` where the class has one.

    Raises
    ------
    InputError
        There is no such class, or it does not take these arguments.
    """
    path = DEFAULTS[task] if path == "auto" else path
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        estimator = kind(**hyperparameters)
        known = estimator.get_params()
        fixed = _DETERMINISTIC if module.startswith("lightgbm") else {}
        fixed = {**fixed, **{key: seed for key in ("random_state",) if key in known}}
        return estimator.set_params(**fixed)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"params.yaml: train.estimator {path!r} cannot be imported: {error}") from None
    except TypeError as error:
        raise InputError(f"params.yaml: train.hyperparameters do not fit {path}: {error}") from None


def fit(
    estimator: Any,
    contract: Contract,
    train: tuple[Floats, Floats],
    valid: tuple[Floats, Floats],
    early_stopping: int = 0,
    on_round: Callable[[Any], None] | None = None,
) -> Any:
    """Fit an estimator on encoded rows and give what predicts.

    Parameters
    ----------
    estimator
        From `make_estimator`.
    contract
        Says which features are categories.
    train, valid
        Matrix and target, of shapes (rows, features) and (rows,).
    early_stopping
        LightGBM stops after so many rounds without a better score on `valid`; 0 never.
    on_round
        A LightGBM callback, called after each round.

    Returns
    -------
    object
        A `lightgbm.Booster`, or the fitted estimator.
    """
    X, y = train
    if not type(estimator).__module__.startswith("lightgbm"):
        return _accepting_missing(estimator).fit(X, y if contract.task == "regression" else y.astype(int))
    import lightgbm

    kinds = features.features(contract)
    callbacks = [lightgbm.early_stopping(early_stopping, verbose=False)] if early_stopping else []
    estimator.fit(
        X,
        y,
        eval_X=(X, valid[0]),
        eval_y=(y, valid[1]),
        eval_names=["train", "valid"],
        categorical_feature=[index for index, kind in enumerate(kinds) if kind.categorical],
        callbacks=callbacks + ([on_round] if on_round else []),
    )
    return estimator.booster_


def _accepting_missing(estimator: Any) -> Any:
    """Put an imputer before an estimator that refuses NaN."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.utils import get_tags

    if get_tags(estimator).input_tags.allow_nan:
        return estimator
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), estimator)


class _Pyfunc:
    """MLflow's view of a model: a data frame in, a data frame out."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Answer rows of features; `prediction`, and in classification the probability of each class."""
        import pandas as pd

        contract = self.model.contract
        arrays = [pa.array(model_input[column.name], from_pandas=True) for column in contract.features]
        schema = contract.schema(contract.features)
        output = self.model.score(pa.Table.from_arrays(arrays, schema.names).cast(schema))
        answer = {"prediction": self.model.decide(output)}
        if contract.task == "binary":
            answer["probability"] = output.tolist()
        elif contract.task == "multiclass":
            for index, name in enumerate(contract.classes):
                answer[f"probability_{name}"] = output[:, index].tolist()
        return pd.DataFrame(answer)


def _load_pyfunc(path: str) -> _Pyfunc:
    """Load a model's folder for MLflow, which finds this function by its name."""
    return _Pyfunc(Model.load(Path(path)))
