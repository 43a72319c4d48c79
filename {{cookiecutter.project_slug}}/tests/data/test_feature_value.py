"""Is every feature worth something, and does a column of noise stand out?"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flight_delays import baselines
from flight_delays.assess import values
from flight_delays.assess.evidence import Evidence, count
from flight_delays.features import Floats

from tests.conftest import Assessment, Project
from tests.planting import add_column, asked, learn

Copy = Callable[[Project], Project]
NOISE = "planted_noise"


@pytest.mark.ml_test("data-2")
def test_every_feature_is_shown_to_help_or_has_a_reason_to_stay(assessment: Assessment) -> None:
    found = assessment.require("values")
    assert all(entry["helps"] or entry["excused"] for entry in found["features"])


@pytest.fixture
def with_noise(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """The model of a sample project in whose rows a column of noise was planted, and that learned from it."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    random = np.random.default_rng(0)
    noise = {"name": NOISE, "logicalType": "number", "tags": ["feature"]}
    add_column(project, noise, lambda count: list(random.normal(size=count)))
    return learn()


def excuse(evidence: Evidence, name: str, reason: Any) -> Evidence:
    contract = evidence.contract
    columns = tuple(replace(c, custom={"excused": reason}) if c.name == name else c for c in contract.columns)
    return replace(evidence, model=replace(evidence.model, contract=replace(contract, columns=columns)))


@pytest.mark.sabotage(
    of=test_every_feature_is_shown_to_help_or_has_a_reason_to_stay, fault="a column of noise among the features"
)
def test_a_column_of_noise_is_named(with_noise: Evidence) -> None:
    found = values.measure(with_noise, asked("values"))
    with pytest.raises(pytest.fail.Exception, match=f"column '{NOISE}': not shown to help: .* drop its tag"):
        test_every_feature_is_shown_to_help_or_has_a_reason_to_stay(Assessment({"values": found}))


def test_only_a_reason_excuses_a_feature_that_is_not_shown_to_help(with_noise: Evidence) -> None:
    def problems(reason: Any) -> str:
        return "\n".join(values.measure(excuse(with_noise, NOISE, reason), asked("values"))["problems"])

    assert NOISE not in problems("kept for the next model")
    for nothing in ("", "  ", True):
        assert f"column '{NOISE}': `excused` in contract.yaml needs a reason" in problems(nothing)


def test_a_column_that_repeats_another_is_named_with_its_twin(with_noise: Evidence) -> None:
    """Noise beside a copy of itself: neither helps, and each is the other's twin."""
    evidence = with_noise.take(np.arange(600) % len(with_noise.y))  # that few test rows do not hide it
    contract = evidence.contract
    (noise,) = (column for column in contract.columns if column.name == NOISE)
    twice = replace(contract, columns=(*contract.columns, replace(noise, name="copy_of_it")))
    X = np.column_stack([evidence.X, evidence.X[:, -1]])

    class Blind:
        def predict(self, X: Floats) -> Floats:
            return evidence.model.predict(X[:, :-1])

    model = replace(evidence.model, contract=twice, predictor=Blind())
    rows = evidence.rows.append_column("copy_of_it", evidence.rows[NOISE])
    found = values.measure(replace(evidence, model=model, rows=rows, X=X), asked("values"))
    twins = {entry["column"]: entry["twin"] for entry in found["features"]}
    assert (twins["copy_of_it"], twins[NOISE]) == (NOISE, "copy_of_it")
    assert any("'copy_of_it': not shown to help: the model does not use it" in line for line in found["problems"])


def test_a_feature_beside_which_nothing_helps_is_suspected_if_the_model_knows_nearly_all(with_noise: Evidence) -> None:
    gain = np.random.default_rng(0).normal(size=(len(with_noise.y), len(with_noise.contract.features)))
    gain[:, 0] += 100
    gain[:, 1:] -= 1
    contract, y = with_noise.contract, with_noise.y
    average = baselines.constant(contract, y, len(y))
    right = np.eye(len(contract.classes))[y.astype(int)] if contract.task == "multiclass" else y
    knowing, guessing = (replace(with_noise, output=average + share * (right - average)) for share in (0.9, 0.1))
    found = values.judge(knowing, gain, 0.95)
    first, noise = found["features"][0]["column"], f"column '{NOISE}': not shown to help"
    assert found["problems"][0].startswith(f"column '{first}': gives 100.0% of all gain")
    assert any(noise in problem for problem in found["problems"])
    assert not any("of all gain" in problem for problem in values.judge(guessing, gain, 0.95)["problems"])


def test_many_features_that_are_not_shown_to_help_are_told_of_in_one_line_first(with_noise: Evidence) -> None:
    (noise,) = (column for column in with_noise.contract.columns if column.name == NOISE)
    others = (column for column in with_noise.contract.columns if "feature" not in column.roles)
    columns = (*others, *(replace(noise, name=f"{NOISE}_{number}") for number in range(5)))
    contract = replace(with_noise.contract, columns=columns)
    random, shape = np.random.default_rng(0), (len(with_noise.y), 5)
    evidence = replace(with_noise, model=replace(with_noise.model, contract=contract), X=random.normal(size=shape))
    gain = random.normal(-1, 1, size=shape) - np.arange(5)
    first, *each = values.judge(evidence, gain, 0.95)["problems"]
    assert first.startswith(f"5 of 5 features are not shown to help on {len(evidence.y):,}")
    assert " test rows: bring more rows, or drop the tag `feature`" in first
    assert first.endswith(f"the least first: '{NOISE}_4', '{NOISE}_3', '{NOISE}_2', …")
    assert len(each) == 5
    assert "features are not" not in " ".join(values.judge(evidence, np.add(gain, [0, 0, 9, 9, 9]), 0.95)["problems"])


def test_rows_are_counted_by_the_rarest_class_where_it_has_few() -> None:
    fraud: Any = SimpleNamespace(classes=("no", "yes"), target=SimpleNamespace(name="fraud"))
    amount: Any = SimpleNamespace(classes=())
    assert count(fraud, np.repeat([0.0, 1.0], [2985, 15])) == "3,000 (only 15 with fraud = yes)"
    assert count(fraud, np.repeat([0.0, 1.0], 1500)) == "3,000"
    assert count(amount, np.arange(20.0)) == "20"


def test_where_there_is_too_much_to_look_at_fewer_rows_are(with_noise: Evidence) -> None:
    trees, columns = with_noise.model.predictor.num_trees(), len(with_noise.contract.features)
    looked, gain = values.gains(with_noise, 30, 3 * trees * columns * 550, 0)
    assert gain.shape == (min(550, len(with_noise.y)), columns)
    assert len(looked.y) == len(gain)
