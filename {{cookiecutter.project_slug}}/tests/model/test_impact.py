"""Does a better score mean better decisions, on rows replayed through the real service?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flight_delays.assess import impact
from flight_delays.assess.evidence import Evidence
from flight_delays.settings import params

from tests.conftest import Assessment, Project
from tests.planting import plant, shuffle

Copy = Callable[[Project], Project]


@pytest.fixture
def planted(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in whose rows there is something to learn, as the current folder."""
    project = copy(finished_project)
    plant(project)
    monkeypatch.chdir(project.path)
    return project


def look() -> dict[str, Any]:
    chosen = params("assess")
    return impact.measure(Evidence.load(chosen["rows"]), chosen | chosen["impact"] | {"resamples": 100})


@pytest.mark.ml_test("model-2")
def test_a_better_score_means_better_decisions(assessment: Assessment) -> None:
    found = assessment.require("impact")
    assert found["correlation"]["low"] > found["bound"]


@pytest.mark.sabotage(
    of=test_a_better_score_means_better_decisions,
    fault="the validation rows are labelled at random, the later ones are not",
)
def test_a_score_that_says_nothing_of_decisions_is_seen(planted: Project) -> None:
    shuffle(planted, "valid")
    found = look()
    with pytest.raises(
        pytest.fail.Exception, match=f"a better {found['score']} (does not mean|means) better decisions"
    ):
        test_a_better_score_means_better_decisions(Assessment({"impact": found}))


def test_the_service_decides_as_the_model_does(finished_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished_project.path)
    evidence = Evidence.load(700)
    assert impact.replay(evidence.model, evidence.rows) == evidence.model.decide(evidence.output)


@pytest.mark.parametrize("turned", [False, True])
def test_scores_in_the_order_of_costs_pass_and_scores_in_the_opposite_order_do_not(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    monkeypatch.chdir(finished_project.path)
    evidence, random = Evidence.load(700), np.random.default_rng(0)
    truth, classes = random.permutation(evidence.y), np.eye(len(evidence.contract.classes))
    guessed = random.permutation(truth)
    right, guess = (classes[y.astype(int)] if len(classes) > 2 else y for y in (truth, guessed))
    wrongness = np.linspace(0.1, 0.9, 12)
    outputs = [(1 - share) * right + share * (guess + random.normal(size=guess.shape) ** 2) for share in wrongness]
    costs = (random.random((12, 500)) < wrongness[:, None]).astype(float)
    ladder = impact.Ladder([f"{share:.2f}" for share in wrongness], truth, outputs, costs[::-1] if turned else costs)
    found = impact.judge(evidence, ladder, params("assess") | params("assess")["impact"] | {"resamples": 100})
    assert bool(found["problems"]) is turned
