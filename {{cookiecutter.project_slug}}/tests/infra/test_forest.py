"""Does the quick way to predict many rows give LightGBM's answers to the bit, and leave alone what it does not know?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flight_delays.booster import Booster
from flight_delays.contract import Contract
from flight_delays.forest import Forest, UnsuitableError, quick
from flight_delays.model import Model

Trained = Callable[..., Booster]
KNOWN: list[dict[str, Any]] = [
    {"objective": "binary"},
    {"objective": "binary", "sigmoid": 0.7, "num_leaves": 60},
    {"objective": "binary", "zero_as_missing": True},
    {"objective": "binary", "use_missing": False},
    {"objective": "binary", "max_depth": 1},
    {"objective": "binary", "min_child_samples": 10_000},  # trees without a fork
    {"objective": "multiclass", "num_class": 3},
    {"objective": "multiclass", "num_class": 3, "num_leaves": 64},
    {"objective": "multiclass", "num_class": 35, "num_leaves": 4},  # of which no word holds a round's trees
    {"objective": "regression"},
    {"objective": "regression_l1", "num_leaves": 33},
]
UNKNOWN: list[dict[str, Any]] = [
    {"objective": "binary", "num_leaves": 200, "min_child_samples": 2},
    {"objective": "regression", "linear_tree": True},
    {"objective": "regression", "reg_sqrt": True},
    {"objective": "poisson"},
    {"objective": "multiclassova", "num_class": 3},
    {"objective": "binary", "boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Train a small model on numbers, whole numbers, categories and gaps, and read it back."""
    import lightgbm

    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(3_000, 4))
    numbers[draw.random(numbers.shape) < 0.2] = np.nan
    numbers[draw.random(numbers.shape) < 0.1] = 0
    codes = np.column_stack([draw.integers(0, 6, 3_000), draw.integers(0, 250, 3_000), draw.integers(0, 9, 3_000)])
    X = np.column_stack([numbers, codes, np.zeros(3_000)])
    sums = np.nan_to_num(X[:, :4]).sum(axis=1) + codes[:, 0] % 3 + np.sin(codes[:, 1]) + draw.normal(size=3_000)

    def make(**settings: Any) -> Booster:
        classes = settings.get("num_class", 2 if settings["objective"] == "binary" else 0)
        y = np.argsort(np.argsort(sums)) * classes // len(sums) if classes else np.abs(sums)
        data = lightgbm.Dataset(X, y, categorical_feature=[4, 5], free_raw_data=False)
        fixed = {"verbose": -1, "seed": 0, "deterministic": True, "force_row_wise": True, "num_threads": 1}
        lightgbm.train(fixed | settings, data, num_boost_round=21).save_model(tmp_path / "model.txt")
        return Booster(tmp_path / "model.txt")

    return make


@pytest.mark.parametrize("settings", KNOWN, ids=str)
def test_each_kind_of_model_is_predicted_to_the_bit(trained: Trained, settings: dict[str, Any], tmp_path: Path) -> None:
    booster = trained(**settings)
    forest = Forest((tmp_path / "model.txt").read_text(encoding="utf-8"))
    rows = forest.difficult_rows(20_000)
    np.testing.assert_array_equal(forest.predict(rows), booster.predict(rows), strict=True)
    for few in (rows[:0], rows[:1], rows[:8_193]):
        np.testing.assert_array_equal(
            forest.predict(few), booster.predict(few) if len(few) else few[:, 0].reshape(forest.predict(few).shape)
        )


@pytest.mark.parametrize("settings", UNKNOWN, ids=str)
def test_what_is_not_known_is_left_to_lightgbm(
    trained: Trained, settings: dict[str, Any], tmp_path: Path, contract: Contract
) -> None:
    model = Model(contract, trained(**settings))
    with pytest.raises(UnsuitableError):
        Forest((tmp_path / "model.txt").read_text(encoding="utf-8"))
    assert quick(model) == model.predict


def test_few_rows_are_left_to_lightgbm_and_many_are_not(trained: Trained, tmp_path: Path, contract: Contract) -> None:
    trained(objective="binary")
    asked: list[int] = []

    class Noting(Booster):
        """Writes down of how many rows it is asked."""

        def predict(self, X: Any, raw_score: bool = False, pred_contrib: bool = False) -> Any:
            asked.append(len(X))
            return super().predict(X, raw_score, pred_contrib)

    predict = quick(Model(contract, Noting(tmp_path / "model.txt")))
    asked.clear()
    many = np.zeros((20_000, 8))
    predict(many)
    assert asked == []
    predict(many[:2])
    assert asked == [2]


def test_a_forest_that_differs_in_one_bit_is_not_used(trained: Trained, tmp_path: Path, contract: Contract) -> None:
    booster = trained(objective="binary")
    assert quick(Model(contract, booster)) != Model(contract, booster).predict

    class Off(Booster):
        """Its text is another model's than the one that answers."""

        def predict(self, X: Any, raw_score: bool = False, pred_contrib: bool = False) -> Any:
            answers = super().predict(X, raw_score, pred_contrib)
            answers[-1] = np.nextafter(answers[-1], 1)
            return answers

    model = Model(contract, Off(tmp_path / "model.txt"))
    assert quick(model) == model.predict
