"""Does the model treat groups of people alike?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flight_delays.assess import groups
from flight_delays.assess.evidence import Evidence

from tests.conftest import Assessment, Project
from tests.planting import add_column, asked, learn, plant

Copy = Callable[[Project], Project]
TEAM = "planted_team"


@pytest.mark.ml_test("model-7")
def test_no_group_is_surely_treated_unlike_another(assessment: Assessment) -> None:
    found = assessment.require("groups")
    assert not any(gap["wrong"] for gap in found["gaps"])


@pytest.fixture
def planted(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """A model that has learned well, on rows of two teams of which it knows nothing, and no other groups."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    plant(project)
    random = np.random.default_rng(0)
    teams = [{"value": "blues"}, {"value": "reds"}]
    team = {"name": TEAM, "logicalType": "string", "tags": ["group"], "enum": teams, "classification": "restricted"}
    add_column(project, team, lambda count: list(random.choice(["blues", "reds"], count)))
    evidence = learn()
    return with_columns(evidence, lambda c: c if c.name == TEAM else replace(c, roles=c.roles - {"group"}))


def with_columns(evidence: Evidence, change: Callable[[Any], Any]) -> Evidence:
    contract = replace(evidence.contract, columns=tuple(change(column) for column in evidence.contract.columns))
    return replace(evidence, model=replace(evidence.model, contract=contract))


def wronged(evidence: Evidence, team: str) -> Evidence:
    """Let the model say the opposite of what it means to one team."""
    mask, output = np.array(evidence.rows[TEAM].to_pylist()) == team, evidence.output
    if output.ndim == 2:
        return replace(evidence, output=np.where(mask[:, None], output[:, ::-1], output))
    return replace(evidence, output=np.where(mask, output.max() + output.min() - output, output))


def test_groups_that_fare_alike_are_not_called_unlike(planted: Evidence) -> None:
    found = groups.measure(planted, asked("groups"))
    assert found["problems"] == []
    assert {entry["group"] for entry in found["groups"]} == {"blues", "reds"}


@pytest.mark.sabotage(
    of=test_no_group_is_surely_treated_unlike_another, fault="the model says the opposite of what it means to one group"
)
def test_a_group_that_is_wronged_is_named(planted: Evidence) -> None:
    found = groups.measure(wronged(planted, "blues"), asked("groups"))
    with pytest.raises(pytest.fail.Exception, match=f"column '{TEAM}': the .* 'blues'"):
        test_no_group_is_surely_treated_unlike_another(Assessment({"groups": found}))


def test_values_of_a_personal_column_that_the_contract_does_not_list_are_not_shown(planted: Evidence) -> None:
    unlisted = with_columns(planted, lambda c: replace(c, values=()) if c.name == TEAM else c)
    found = groups.measure(unlisted, asked("groups"))
    assert {entry["group"] for entry in found["groups"]} == {"group 1", "group 2"}
    assert "blues" not in groups.say(found)


def test_groups_that_are_too_small_are_noted_and_compared_with_nobody(planted: Evidence) -> None:
    team = np.array(planted.rows[TEAM].to_pylist())
    few = planted.take(np.sort(np.concatenate([np.flatnonzero(team == "blues"), np.flatnonzero(team == "reds")[:5]])))
    found = groups.measure(few, asked("groups"))
    assert found["does_not_apply"] == f"no two groups of `{TEAM}` have 30 test rows"


def test_without_a_group_the_question_is_not_raised(planted: Evidence) -> None:
    nobody = with_columns(planted, lambda c: replace(c, roles=c.roles - {"group"}))
    assert groups.measure(nobody, asked("groups")) == {"does_not_apply": "no column is tagged `group`"}
