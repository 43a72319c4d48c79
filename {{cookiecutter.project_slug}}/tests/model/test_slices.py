"""Is the model good enough on every slice of the rows, also where nobody thought of looking?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import features
from flight_delays.assess import slices
from flight_delays.assess.evidence import Evidence

from tests.conftest import Assessment, Project
from tests.planting import add_column, asked, file, learn, plant

Copy = Callable[[Project], Project]
LEFT, RIGHT = "planted_number", "planted_word"


@pytest.mark.ml_test("model-6")
def test_no_slice_is_surely_below_its_floor(assessment: Assessment) -> None:
    found = assessment.require("slices")
    weak = [entry for entry in (*found["slices"], *found["regions"]) if entry.get("weak")]
    assert weak == []


@pytest.fixture
def planted(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """A model that has learned well, on rows with two more columns that say nothing: a number and a slice of words."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    plant(project)
    random = np.random.default_rng(0)
    number = {"name": LEFT, "logicalType": "number", "tags": ["feature"]}
    words = [{"value": word} for word in ("red", "green", "blue")]
    word = {"name": RIGHT, "logicalType": "string", "tags": ["feature", "slice"], "enum": words}
    add_column(project, number, lambda count: list(random.random(count)))
    add_column(project, word, lambda count: list(random.choice(["red", "green", "blue"], count)))
    evidence = whole(project, learn())
    columns = tuple(
        column if column.name == RIGHT else replace(column, roles=column.roles - {"slice"})
        for column in evidence.contract.columns
    )
    contract = replace(evidence.contract, columns=columns)
    return replace(evidence, model=replace(evidence.model, contract=contract))


def whole(project: Project, evidence: Evidence) -> Evidence:
    """Look at the rows of all parts, so that what is planted is in many, however few the project has."""
    rows = pa.concat_tables([pq.read_table(file(project, part)) for part in ("train", "valid", "test")])
    X, y = features.encode(rows, evidence.contract), features.encode_target(rows, evidence.contract)
    return replace(evidence, rows=rows, X=X, y=y, output=evidence.model.predict(X))


def turned_round(evidence: Evidence, mask: Any) -> Evidence:
    """Give some rows the opposite of their target."""
    y = evidence.y
    return replace(evidence, y=np.where(mask, y.max() + y.min() - y, y))


def column(evidence: Evidence, name: str) -> Any:
    return np.array(evidence.rows[name].to_pylist())


def test_a_sound_model_has_no_weak_slice(planted: Evidence) -> None:
    found = slices.measure(planted, asked("slices"))
    assert found["problems"] == []
    assert {entry["slice"] for entry in found["slices"]} == {f"{RIGHT} = {word}" for word in ("red", "green", "blue")}
    for entry in found["slices"]:
        assert entry["low"] < entry["value"] < entry["high"]


@pytest.mark.sabotage(of=test_no_slice_is_surely_below_its_floor, fault="the targets of one slice are turned round")
def test_a_slice_with_wrong_targets_is_named(planted: Evidence) -> None:
    found = slices.measure(turned_round(planted, column(planted, RIGHT) == "blue"), asked("slices"))
    with pytest.raises(pytest.fail.Exception, match=f"slice '{RIGHT} = blue': .* is surely worse than its floor"):
        test_no_slice_is_surely_below_its_floor(Assessment({"slices": found}))
    assert [entry["slice"] for entry in found["slices"] if entry["weak"]] == [f"{RIGHT} = blue"]


@pytest.mark.sabotage(
    of=test_no_slice_is_surely_below_its_floor, fault="targets are turned round where two columns meet, in no slice"
)
def test_a_hidden_region_is_found_and_named(planted: Evidence) -> None:
    hidden = (column(planted, RIGHT) == "red") & (column(planted, LEFT) > 0.3)
    found = slices.measure(turned_round(planted, hidden), asked("slices"))
    named = rf"region '.*{LEFT} > 0\.[23]\d* and {RIGHT} is red.*': the model's loss .* is surely above"
    with pytest.raises(pytest.fail.Exception, match=named):
        test_no_slice_is_surely_below_its_floor(Assessment({"slices": found}))


def test_a_small_slice_is_listed_and_blamed_for_nothing(planted: Evidence) -> None:
    blue = np.flatnonzero(column(planted, RIGHT) == "blue")
    kept = np.setdiff1d(np.arange(len(planted.y)), blue[49:])
    few = planted.take(kept)
    found = slices.measure(turned_round(few, column(few, RIGHT) == "blue"), asked("slices"))
    (entry,) = (entry for entry in found["slices"] if entry["slice"] == f"{RIGHT} = blue")
    assert (entry["rows"], entry["told"]) == (49, False)
    assert "too small to tell" in slices.say(found)
    assert not any("blue" in problem for problem in found["problems"] if problem.startswith("slice"))


def test_a_model_that_is_wrong_everywhere_is_said_to_be_no_better_than_a_constant(planted: Evidence) -> None:
    found = slices.measure(turned_round(planted, np.ones(len(planted.y), bool)), asked("slices"))
    assert "the model is not surely better than a constant" in found["problems"][0]
