"""Is it known how the model ages, and is it trained again in time?"""

from collections.abc import Callable

import pytest

from flight_delays.assess import staleness
from flight_delays.assess.evidence import Evidence
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.settings import params

from tests.conftest import Assessment, Project
from tests.planting import plant

Copy = Callable[[Project], Project]


def look(project: Project, monkeypatch: pytest.MonkeyPatch, **changed: float) -> dict[str, object]:
    monkeypatch.chdir(project.path)
    chosen = params("assess")
    return staleness.measure(Evidence.load(chosen["rows"]), chosen | chosen["staleness"] | changed)


@pytest.mark.ml_test("model-4")
def test_the_model_is_trained_again_before_age_takes_too_much(assessment: Assessment) -> None:
    found = assessment.require("staleness")
    assert 0 < found["limit_days"] <= found["curve"][-1]["days"]


@pytest.mark.sabotage(
    of=test_the_model_is_trained_again_before_age_takes_too_much, fault="what leads to the target turns round over time"
)
def test_a_target_that_turned_round_makes_old_models_bad(
    finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if finished_project.contract.time is None:
        does_not_apply("the contract has no time column")
    project = copy(finished_project)
    plant(project)
    assert look(project, monkeypatch)["limit_reached"] is False
    plant(project, turned=0.55)  # all but what the freshest model learns from
    found = look(project, monkeypatch, retrain_days=10**6)  # longer than the rows span, whatever they are
    with pytest.raises(pytest.fail.Exception, match=r"a model loses more than 20% .* within [\d.]+ days"):
        test_the_model_is_trained_again_before_age_takes_too_much(Assessment({"staleness": found}))
