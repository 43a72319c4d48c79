"""Were the hyperparameters searched for, and does params.yaml hold what was found?"""

from collections.abc import Callable
from typing import Any

import pytest

from flight_delays.assess import search
from flight_delays.assess.evidence import Evidence
from flight_delays.pipeline.tune import tune
from flight_delays.settings import params
from flight_delays.tracking import Registry

from tests.conftest import Assessment, Project
from tests.planting import plant

Copy = Callable[[Project], Project]


@pytest.fixture
def planted(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in whose rows there is something to learn, as the current folder, with LightGBM."""
    project = copy(finished_project)
    plant(project)
    monkeypatch.chdir(project.path)
    train = {"estimator": "auto", "hyperparameters": {"n_estimators": 60, "learning_rate": 0.1, "num_leaves": 15}}
    space = {"learning_rate": {"low": 0.01, "high": 0.3, "log": True}, "num_leaves": {"low": 3, "high": 31}}
    excused = {"n_estimators": "early stopping chooses"}
    project.edit("params.yaml", lambda document: document["train"].update(train))
    project.edit("params.yaml", lambda document: document["tune"].update(trials=5, space=space, excused=excused))
    return project


def look() -> dict[str, Any]:
    chosen = params("assess")
    return search.measure(Evidence.load(chosen["rows"]), chosen | chosen["search"] | {"resamples": 100})


def set_hyperparameters(project: Project, **values: Any) -> None:
    project.edit("params.yaml", lambda document: document["train"]["hyperparameters"].update(values))


@pytest.mark.ml_test("model-3")
def test_the_hyperparameters_are_those_that_a_search_finds(assessment: Assessment) -> None:
    found = assessment.require("search")
    assert len(found["trials"]) >= params("tune")["trials"]


@pytest.mark.sabotage(
    of=test_the_hyperparameters_are_those_that_a_search_finds, fault="a far too small learning rate is set"
)
def test_badly_set_hyperparameters_are_named_with_better_ones(planted: Project) -> None:
    assert look()["problems"] == []
    set_hyperparameters(planted, learning_rate=0.0001, num_leaves=2)
    with pytest.raises(
        pytest.fail.Exception, match=r"learning_rate 0\.0001 → 0\.\d+, num_leaves 2 → \d+: run `make tune`"
    ):
        test_the_hyperparameters_are_those_that_a_search_finds(Assessment({"search": look()}))


@pytest.mark.sabotage(
    of=test_the_hyperparameters_are_those_that_a_search_finds,
    fault="a hyperparameter is set by hand and never searched",
)
def test_a_hyperparameter_that_was_never_searched_is_named(planted: Project) -> None:
    set_hyperparameters(planted, min_child_samples=7)
    with pytest.raises(pytest.fail.Exception, match="min_child_samples is set to 7 and was never searched"):
        test_the_hyperparameters_are_those_that_a_search_finds(Assessment({"search": look()}))


@pytest.mark.sabotage(
    of=test_the_hyperparameters_are_those_that_a_search_finds, fault="the estimator is changed, and the space is not"
)
def test_a_space_of_another_estimator_is_seen(planted: Project) -> None:
    path = "linear_model.Ridge" if planted.contract.task == "regression" else "naive_bayes.GaussianNB"
    changed = {"estimator": f"sklearn.{path}", "hyperparameters": {}}
    planted.edit("params.yaml", lambda document: document["train"].update(changed))
    with pytest.raises(
        pytest.fail.Exception, match=r"learning_rate, num_leaves\) is not that of train.estimator sklearn"
    ):
        test_the_hyperparameters_are_those_that_a_search_finds(Assessment({"search": look()}))


def test_a_search_is_repeated_exactly_goes_on_where_it_stopped_and_stands_in_mlflow(planted: Project) -> None:
    def trials(count: int) -> list[tuple[Any, Any]]:
        study = tune(planted.contract, params("tune") | {"trials": count}, params("train"))
        return [(trial.params, trial.value) for trial in study.trials]

    first = trials(2)
    whole = trials(4)
    assert whole[:2] == first
    registry = Registry(planted.contract.id)
    for number, (values, score) in enumerate(whole):
        run = registry.find_run("study.trial", str(number))
        assert run is not None
        data = registry.client.get_run(run).data
        assert {name: data.params[name] for name in values} == {name: str(value) for name, value in values.items()}
        assert list(data.metrics.values()) == [score]
    (planted.path / "models/tuning.db").unlink()
    assert trials(4) == whole
