"""Does the model keep exactly what it learned, whatever the estimator, and never run code from a file?"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flight_delays import features
from flight_delays.errors import InputError
from flight_delays.model import Model, fit, make_estimator

from tests.conftest import Project

Fitted = Callable[..., tuple[Model, features.Floats]]
OTHERS = {
    "binary": ["sklearn.ensemble.HistGradientBoostingClassifier", "sklearn.naive_bayes.GaussianNB"],
    "multiclass": ["sklearn.ensemble.HistGradientBoostingClassifier", "sklearn.tree.DecisionTreeClassifier"],
    "regression": ["sklearn.ensemble.HistGradientBoostingRegressor", "sklearn.linear_model.Ridge"],
}


@pytest.fixture
def fitted(finished_project: Project) -> Fitted:
    """Fit an estimator on the sample project's training rows; give it with the test rows' matrix."""

    def make(path: str = "auto", seed: int = 0, **hyperparameters: Any) -> tuple[Model, features.Floats]:
        contract = finished_project.contract
        train, valid, test = (
            features.load(finished_project.path / f"data/{part}.parquet", contract)
            for part in ("train", "valid", "test")
        )
        estimator = make_estimator(path, contract.task, hyperparameters, seed)
        return Model(contract, fit(estimator, contract, train, valid), 0.3), test[0]

    return make


@pytest.mark.parametrize("choice", [None, 0, 1])
def test_a_saved_model_predicts_the_very_same(
    fitted: Fitted, finished_project: Project, tmp_path: Path, choice: int | None
) -> None:
    path = "auto" if choice is None else OTHERS[finished_project.contract.task][choice]
    model, X = fitted(path)
    model.save(tmp_path / "model", finished_project.path / "contract.yaml")
    again = Model.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.decide(again.predict(X)) == model.decide(model.predict(X))
    assert again.threshold == model.threshold


def test_the_same_seed_fits_the_same_model(fitted: Fitted) -> None:
    model, X = fitted(n_estimators=20)
    again, _ = fitted(n_estimators=20)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_a_file_that_could_run_code_is_not_loaded(finished_project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Model.load(finished_project.path / "models/candidate").save(folder, finished_project.path / "contract.yaml")
    for file in folder.glob("model.txt"):
        file.unlink()
    (folder / "model.skops").write_bytes(pickle.dumps(print))
    with pytest.raises(Exception, match="zip"):
        Model.load(folder)


def test_an_estimator_that_carries_a_function_is_not_loaded(finished_project: Project, tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer

    contract = finished_project.contract
    Model(contract, FunctionTransformer(eval)).save(tmp_path / "model", finished_project.path / "contract.yaml")
    with pytest.raises(InputError, match=r"not known to be safe: \['builtins.eval'\]"):
        Model.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("path", "hyperparameters", "words"),
    [
        ("sklearn.ensemble.NoSuchForest", {}, "cannot be imported"),
        ("no_such_package.Model", {}, "cannot be imported"),
        ("sklearn.linear_model.Ridge", {"leaves": 3}, r"train\.hyperparameters do not fit"),
    ],
)
def test_an_estimator_that_cannot_be_made_is_refused(path: str, hyperparameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_estimator(path, "regression", hyperparameters, 0)


def test_a_folder_whose_parts_do_not_belong_together_is_refused(finished_project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        Model.load(tmp_path)
    model = Model.load(finished_project.path / "models/candidate")
    model.save(tmp_path / "model", finished_project.path / "contract.yaml")
    text = (tmp_path / "model/model.json").read_text(encoding="utf-8")
    (tmp_path / "model/model.json").write_text(text.replace('"features": [', '"features": ["x",', 1), encoding="utf-8")
    with pytest.raises(InputError, match="different features"):
        Model.load(tmp_path / "model")


def test_decisions_come_in_the_targets_own_values(finished_project: Project) -> None:
    model = Model.load(finished_project.path / "models/candidate")
    decided = model.decide(model.score(pq.read_table(finished_project.path / "data/test.parquet")))
    allowed = set(model.contract.classes)
    assert set(decided) <= allowed if allowed else all(isinstance(value, float) for value in decided)
