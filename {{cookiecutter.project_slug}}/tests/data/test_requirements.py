"""Does the model see only what the contract's rules allow, and nothing that gives the target away?"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.leakage import leaks
from flight_delays.model import Model
from flight_delays.requirements import CLASSIFICATIONS

from tests.conftest import Project

Copy = Callable[[Project], Project]
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "deprecated": ({"deprecated": True}, "it is `deprecated`"),
    "forbidden": ({"forbidden": "by law"}, r"it is `forbidden` \(by law\)"),
    "not known yet": ({"available": "after"}, "it is `available: after` the prediction"),
    "another source": ({"source": "a stranger"}, "its `source` 'a stranger' is not allowed"),
    "classified": ({"classification": "confidential"}, r"is personal \(`classification`\)"),
}


def break_rule(project: Project, rule: str) -> str:
    """Break a rule of the contract in a copy, and give the words with which it must be refused."""
    name = project.contract.features[-1].name
    values, words = RULES[rule]
    project.edit("contract.yaml", lambda document: say(entry_of(document, name), values))
    return rf"contract\.yaml: column {re.escape(repr(name))} .*{words}.*: drop"


def entry_of(document: Any, name: str) -> Any:
    (entry,) = (entry for entry in document["schema"][0]["properties"] if entry["name"] == name)
    return entry


def say(entry: Any, values: dict[str, Any]) -> None:
    """Write words into an entry: the standard's own, and others as its custom properties."""
    for word, value in values.items():
        if word in {"deprecated", "classification"}:
            entry[word] = value
        else:
            entry.setdefault("customProperties", []).append({"property": word, "value": value})


def read_training(project: Project) -> pa.Table:
    return pq.read_table(project.path / "data/train.parquet")


@pytest.mark.ml_test("data-4")
def test_every_feature_is_one_that_the_contract_allows(project: Project) -> None:
    for path in (project.path / "contract.yaml", project.path / "models/candidate/contract.yaml"):
        try:
            Contract.read(path)
        except InputError as error:
            pytest.fail(str(error), pytrace=False)


@pytest.mark.ml_test("data-4")
def test_no_feature_gives_the_target_away(project: Project) -> None:
    if found := leaks(read_training(project), project.contract):
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.sabotage(of=test_every_feature_is_one_that_the_contract_allows, fault="a feature against a rule")
def test_a_feature_against_a_rule_is_named(finished_project: Project, copy: Copy, rule: str) -> None:
    project = copy(finished_project)
    words = break_rule(project, rule)
    with pytest.raises(pytest.fail.Exception, match=words):
        test_every_feature_is_one_that_the_contract_allows(project)


@pytest.mark.sabotage(of=test_no_feature_gives_the_target_away, fault="a copy of the target among the features")
def test_a_copy_of_the_target_is_named(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    target, path = project.contract.target, project.path / "data/train.parquet"
    table = read_training(project)
    pq.write_table(table.append_column("an_echo", table.column(target.name)), path)
    entry = {"name": "an_echo", "logicalType": target.type, "tags": ["feature"]}
    project.edit("contract.yaml", lambda document: document["schema"][0]["properties"].append(entry))
    with pytest.raises(pytest.fail.Exception, match=r"'an_echo': gives the target away .*: drop its tag"):
        test_no_feature_gives_the_target_away(project)


@pytest.mark.ml_test("data-4", twin="breaks each rule itself, and sees training and serving refuse")
@pytest.mark.parametrize("rule", RULES)
def test_neither_training_nor_serving_takes_a_feature_against_a_rule(
    finished_project: Project, copy: Copy, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flight_delays.pipeline import train

    project = copy(finished_project)
    words = break_rule(project, rule)
    monkeypatch.chdir(project.path)
    with pytest.raises(SystemExit, match=words):
        train.main()
    (project.path / "models/candidate/contract.yaml").write_bytes((project.path / "contract.yaml").read_bytes())
    with pytest.raises(InputError, match=words):
        Model.load(project.path / "models/candidate")


@pytest.mark.ml_test("data-4", twin="plants leaks of each kind itself")
def test_a_feature_that_almost_tells_the_target_is_named_unless_the_contract_says_why(contract: Contract) -> None:
    random = np.random.default_rng(0)
    score = random.normal(size=4_000)
    described = replace(contract.features[0], type="number", values=(), roles=frozenset({"feature"}), custom={})
    honest, echo = (replace(described, name=name) for name in ("honest", "echo"))
    target = replace(contract.target, name="answer", type="boolean", values=(), custom={})
    shop = replace(contract, columns=(honest, echo, target), task="binary")
    truth = score > 1
    rows = pa.table({"honest": score + random.normal(size=4_000), "echo": score, "answer": truth})
    (found,) = leaks(rows, shop)
    assert "feature 'echo': gives the target away (AUC 1.000 alone)" in found
    excused = replace(echo, custom={"predictsAlone": "measured the day before"})
    assert leaks(rows, replace(shop, columns=(honest, excused, target))) == []
    amounts = pa.table({"honest": rows["honest"], "echo": score * 3 + 1, "answer": score})
    numbers = replace(shop, columns=(honest, echo, replace(target, type="number")), task="regression")
    (found,) = leaks(amounts, numbers)
    assert "feature 'echo': gives the target away (R²" in found


@pytest.mark.parametrize(
    ("project_says", "column_says", "words"),
    [
        ({"clearance": "public"}, {"classification": "internal"}, "'internal' is above the project's `clearance`"),
        ({"clearance": "restricted"}, {}, "clearance 'restricted' is not one of public, internal"),
        ({}, {"classification": "secret"}, "has the classification 'secret': use one of public, internal"),
        ({}, {"available": "later"}, "is available 'later': say `before` or `after`"),
        ({"allowedSources": ["crm"]}, {"source": "erp"}, r"'erp' is not allowed \(allowed: crm, development\)"),
    ],
)
def test_a_rule_that_is_broken_or_not_understood_is_refused(
    fresh_project: Project, copy: Copy, project_says: dict[str, Any], column_says: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        read_with(copy(fresh_project), project_says, column_says)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("project_says", "column_says"),
    [
        ({}, {"classification": CLASSIFICATIONS[1], "available": "before", "deprecated": False}),
        ({"clearance": "public"}, {"classification": "public"}),
        ({"allowedSources": ["crm"]}, {"source": "crm"}),
        ({}, {"source": "development"}),
    ],
)
def test_a_feature_within_the_rules_is_taken(
    fresh_project: Project, copy: Copy, project_says: dict[str, Any], column_says: dict[str, Any]
) -> None:
    assert read_with(copy(fresh_project), project_says, column_says).features


def read_with(project: Project, project_says: dict[str, Any], column_says: dict[str, Any]) -> Contract:
    name = project.contract.features[0].name

    def change(document: Any) -> None:
        say(document, project_says)
        say(entry_of(document, name), column_says)

    project.edit("contract.yaml", change)
    return project.contract


def test_what_is_known_only_after_the_prediction_may_be_kept_as_no_feature(fresh_project: Project, copy: Copy) -> None:
    project = copy(fresh_project)
    name = project.contract.target.name
    project.edit("contract.yaml", lambda document: say(entry_of(document, name), {"available": "after"}))
    assert project.contract.target.custom["available"] == "after"
