"""Is the model worth more than a constant, and no worse than a linear model?"""

import json
from collections.abc import Callable

import pytest

from flight_delays import features, gate
from flight_delays.model import Model
from flight_delays.scores import scores
from flight_delays.settings import params

from tests.conftest import Project
from tests.planting import PARTS, plant, shuffle

Copy = Callable[[Project], Project]
ADVICE = {
    "constant": "bring features that tell more of the target, or more rows",
    "linear": "run `make tune`, or set train.estimator in params.yaml to a linear model of scikit-learn",
}


@pytest.mark.ml_test("model-5")
def test_a_simpler_model_is_not_better(project: Project) -> None:
    verdict = gate.beats_baselines(json.loads((project.path / "reports/metrics.json").read_text(encoding="utf-8")))
    if not verdict.passed:
        advice = next(words for name, words in ADVICE.items() if f"the {name} baseline" in verdict.reason)
        pytest.fail(f"the model is {verdict.reason}: {advice}", pytrace=False)


@pytest.mark.ml_test("model-5")
def test_the_written_scores_are_those_of_the_stored_model(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    written = json.loads((project.path / "reports/metrics.json").read_text(encoding="utf-8"))
    model = Model.load(project.path / "models/candidate")
    contract, chosen = model.contract, params("evaluate")
    X, y = features.load(project.path / "data/test.parquet", contract)
    first, *others = scores(contract.task, contract.classes, chosen["costs"])
    output = model.predict(X)
    found = {score.name: score.function(y, output) for score in (first, *others)}
    if wrong := [name for name, value in found.items() if written["test"][name]["value"] != pytest.approx(value)]:
        values = f"{wrong[0]} is {found[wrong[0]]:.6g}, not {written['test'][wrong[0]]['value']:.6g}"
        pytest.fail(f"reports/metrics.json is not of models/candidate ({values}): run `make score`", pytrace=False)


@pytest.fixture
def planted(finished_project: Project, copy: Copy) -> Project:
    """A project in whose rows there is something to learn."""
    project = copy(finished_project)
    plant(project)
    return project


def train(project: Project, **hyperparameters: float) -> None:
    """Train and evaluate LightGBM in the project."""
    changed = {"estimator": "auto", "hyperparameters": hyperparameters}
    project.edit("params.yaml", lambda document: document["train"].update(changed))
    for stage in ("train", "evaluate"):
        ran = project.stage(stage)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.sabotage(of=test_a_simpler_model_is_not_better, fault="the target is dealt out at random")
def test_a_model_that_learned_from_noise_is_no_better_than_a_constant(planted: Project) -> None:
    shuffle(planted, *PARTS)
    train(planted, n_estimators=30)
    with pytest.raises(pytest.fail.Exception, match=r"not surely better than the constant .* bring features"):
        test_a_simpler_model_is_not_better(planted)


@pytest.mark.sabotage(of=test_a_simpler_model_is_not_better, fault="one tree of two leaves is all that is trained")
def test_a_model_that_is_too_simple_is_worse_than_a_linear_one(planted: Project) -> None:
    train(planted, n_estimators=1, num_leaves=2)
    with pytest.raises(pytest.fail.Exception, match=r"surely worse than the linear .* run `make tune`"):
        test_a_simpler_model_is_not_better(planted)


@pytest.mark.sabotage(
    of=test_the_written_scores_are_those_of_the_stored_model, fault="the model is exchanged after its evaluation"
)
def test_an_exchanged_model_is_seen(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy(finished_project)
    test_the_written_scores_are_those_of_the_stored_model(project, monkeypatch)
    changed = {"estimator": "auto", "hyperparameters": {"n_estimators": 3}}
    project.edit("params.yaml", lambda document: document["train"].update(changed))
    assert project.stage("train").returncode == 0
    with pytest.raises(pytest.fail.Exception, match=r"metrics\.json is not of models/candidate"):
        test_the_written_scores_are_those_of_the_stored_model(project, monkeypatch)
