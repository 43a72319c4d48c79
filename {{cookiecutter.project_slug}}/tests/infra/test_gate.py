"""Does the gate let the better model pass, and only that?"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flight_delays import features, gate
from flight_delays.model import Model, fit, make_estimator

from tests.conftest import Project

CHOSEN = {"confidence": 0.95, "resamples": 50, "seed": 0, "costs": {"false_negative": 3, "false_positive": 1}}
Train = Callable[..., Model]


def metrics(constant: float, linear: float) -> dict[str, Any]:
    gain = {"constant": constant, "linear": linear}
    return {"score": "roc_auc", "gain": {k: {"value": v, "low": v - 0.01, "high": v + 0.01} for k, v in gain.items()}}


@pytest.mark.parametrize(
    ("constant", "linear", "passed"),
    [(0.2, 0.1, True), (0.2, -0.005, True), (0.005, 0.1, False), (-0.1, 0.1, False), (0.2, -0.1, False)],
)
def test_the_first_model_must_surely_beat_a_constant_and_not_surely_fall_behind_a_linear_model(
    constant: float, linear: float, passed: bool
) -> None:
    verdict = gate.beats_baselines(metrics(constant, linear))
    assert verdict.passed is passed
    assert "baseline" in verdict.reason


@pytest.fixture(scope="module")
def train(finished_project: Project) -> Train:
    """Fit a model on the sample project's rows; `noise` is the share of rows whose target is drawn at random."""

    @functools.cache
    def make(noise: float = 0.0) -> Model:
        contract = finished_project.contract
        X, y = features.load(finished_project.path / "data/train.parquet", contract)
        random = np.random.default_rng(0)
        wrong = random.random(len(y)) < noise
        y = np.where(wrong, random.permutation(y), y)
        estimator = make_estimator("auto", contract.task, {"n_estimators": 60}, 0)
        return Model(contract, fit(estimator, contract, (X, y), (X, y)))

    return make


@pytest.fixture
def test_rows(finished_project: Project) -> Path:
    return finished_project.path / "data/train.parquet"  # the rows whose answers the good model knows


def test_an_equal_model_passes_and_a_worse_one_does_not(train: Train, test_rows: Path) -> None:
    good, worse = train(), train(noise=0.9)
    assert gate.holds_against(good, good, test_rows, CHOSEN, 0.01).passed
    assert gate.holds_against(good, worse, test_rows, CHOSEN, 0.01).passed
    refused = gate.holds_against(worse, good, test_rows, CHOSEN, 0.01)
    assert not refused.passed
    assert "gain over the champion -" in refused.reason


def test_a_model_without_finite_outputs_is_refused(train: Train, test_rows: Path) -> None:
    class Broken:
        def predict(self, X: features.Floats) -> features.Floats:
            shape = (len(X), len(good.contract.classes)) if good.contract.task == "multiclass" else len(X)
            return np.full(shape, np.nan)

    good = train()
    assert not gate.holds_against(replace(good, predictor=Broken()), good, test_rows, CHOSEN, 0.01).passed


def test_a_champion_that_needs_a_vanished_column_does_not_stop_its_successor(train: Train, test_rows: Path) -> None:
    model = train()
    gone = replace(model.contract.features[0], name="vanished")
    old = replace(model.contract, columns=(*model.contract.columns, gone))
    verdict = gate.holds_against(model, replace(model, contract=old), test_rows, CHOSEN, 0.01)
    assert verdict.passed
    assert "vanished" in verdict.reason


def test_a_worse_candidate_is_kept_but_the_champion_stays(
    finished_project: Project, copy: Callable[[Project], Project]
) -> None:
    """The whole way: a model that knows nothing is trained, evaluated and registered, and does not take over."""
    project = copy(finished_project)
    project.edit(
        "params.yaml", lambda document: document["train"]["hyperparameters"].update(n_estimators=1, learning_rate=1e-9)
    )
    ran = project.run("dvc", "repro")
    assert ran.returncode == 0, ran.stderr
    assert "REFUSED" in ran.stdout
    assert "version 2" in ran.stdout
