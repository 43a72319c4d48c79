"""Does every feature cost no more than it is worth, and is a dear one named?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flight_delays import features
from flight_delays.assess import costs
from flight_delays.assess.evidence import Evidence

from tests.conftest import Assessment, Project
from tests.planting import add_column, asked, file, learn

Copy = Callable[[Project], Project]
DEAR = {"name": "planted_text", "logicalType": "string", "tags": ["feature"]}


@pytest.mark.ml_test("data-3")
def test_no_feature_costs_too_much_for_what_it_gives(assessment: Assessment) -> None:
    found = assessment.require("costs")
    assert not any(entry["wrong"] for entry in found["features"])


@pytest.fixture
def changed(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, as the current folder."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    return project


def unlearned(project: Project) -> Evidence:
    """Look at the model that the project had before its contract got another feature, and so does not use that."""
    before = Evidence.load(asked("costs")["rows"])
    rows = pq.read_table(file(project, "test"))

    class Blind:
        def predict(self, X: features.Floats) -> features.Floats:
            return before.model.predict(X[:, : before.X.shape[1]])

    model = replace(before.model, contract=project.contract, predictor=Blind())
    return replace(before, model=model, rows=rows, X=features.encode(rows, project.contract))


def few(project: Project, count: int) -> None:
    """Keep few rows of each file: long texts fill the memory."""
    for name in ("rows", "train", "valid", "test"):
        pq.write_table(pq.read_table(file(project, name)).slice(0, count), file(project, name))


@pytest.mark.sabotage(
    of=test_no_feature_costs_too_much_for_what_it_gives, fault="a feature that takes milliseconds to encode: long text"
)
def test_a_slow_feature_is_named(changed: Project) -> None:
    few(changed, 20)
    add_column(changed, DEAR, lambda count: ["word " * 800_000] * count)
    found = costs.measure(unlearned(changed), asked("costs"))
    with pytest.raises(
        pytest.fail.Exception, match=r"column 'planted_text': takes more than .* µs to encode the row of"
    ):
        test_no_feature_costs_too_much_for_what_it_gives(Assessment({"costs": found}))


@pytest.mark.sabotage(
    of=test_no_feature_costs_too_much_for_what_it_gives, fault="a feature of kilobytes a row that teaches nothing"
)
def test_a_feature_that_fills_the_disk_is_named(changed: Project) -> None:
    random = np.random.default_rng(0)
    add_column(changed, DEAR, lambda count: [random.bytes(2_000).hex() for _ in range(count)])
    found = costs.measure(learn(), asked("costs"))
    with pytest.raises(pytest.fail.Exception, match=r"column 'planted_text': takes [\d,]+ bytes to store a row"):
        test_no_feature_costs_too_much_for_what_it_gives(Assessment({"costs": found}))


@pytest.mark.parametrize(
    ("entry", "values", "problem"),
    [
        ({"customProperties": [{"property": "source", "value": "elsewhere"}]}, 1.0, "needs the source 'elsewhere'"),
        ({}, None, r"has no value in 100\.0% of the rows"),
    ],
)
def test_other_costs_of_a_feature_that_gives_nothing_are_named(
    changed: Project, entry: dict[str, Any], values: Any, problem: str
) -> None:
    server = {"server": "elsewhere", "type": "local", "path": "elsewhere.csv", "format": "csv"}
    changed.edit("contract.yaml", lambda document: document["servers"].append(server))
    name = {"name": "planted", "logicalType": "number", "tags": ["feature"]}
    add_column(changed, name | entry, lambda count: [values] * count)
    found = costs.measure(unlearned(changed), asked("costs"))
    with pytest.raises(pytest.fail.Exception, match=f"column 'planted': {problem}"):
        test_no_feature_costs_too_much_for_what_it_gives(Assessment({"costs": found}))


def test_what_is_found_is_the_same_however_fast_the_machine(changed: Project) -> None:
    """No measured time stands in it, but the bound that it is under."""
    evidence = unlearned(changed)
    first, again = (costs.measure(evidence, asked("costs")) for _ in range(2))
    assert first == again
