"""Does the gate let the better model pass, and only that?"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays import features, gate, leakage
from flight_delays.errors import InputError
from flight_delays.gate import Verdict
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline import evaluate, register
from flight_delays.pipeline import train as training
from flight_delays.tracking import Registry

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


def test_a_champion_that_needs_a_vanished_column_does_not_stop_its_successor(train: Train, test_rows: Path) -> None:
    model = train()
    gone = replace(model.contract.features[0], name="vanished")
    old = replace(model.contract, columns=(*model.contract.columns, gone))
    verdict = gate.holds_against(model, replace(model, contract=old), test_rows, CHOSEN, 0.01)
    assert verdict.passed
    assert "vanished" in verdict.reason


def test_a_worse_candidate_is_kept_but_the_champion_stays(
    finished_project: Project,
    copy: Callable[[Project], Project],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole way: a model that knows nothing is trained, evaluated and registered, and does not take over."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    project.edit(
        "params.yaml", lambda document: document["train"]["hyperparameters"].update(n_estimators=1, learning_rate=1e-9)
    )
    for stage in (training, evaluate, register):
        stage.main()
    printed = capsys.readouterr().out
    assert "REFUSED" in printed
    assert "version 2" in printed


LEAK = "planted_answer"  # a column


class Disturbed:
    """A predictor whose outputs are changed on their way out."""

    def __init__(self, model: Model, change: Callable[[features.Floats], features.Floats]) -> None:
        self.model, self.change = model, change

    def predict(self, X: features.Floats) -> features.Floats:
        return self.change(self.model.predict(X))


def shuffled(output: features.Floats) -> features.Floats:
    return np.random.default_rng(0).permutation(output)


def refusals(project: Project, candidate: Model, folder: Path) -> dict[str, Verdict]:
    """Show the gate the candidate with each fault, and give what it says."""
    contract, test = project.contract, project.path / "data/test.parquet"
    chosen = yaml.safe_load((project.path / "params.yaml").read_text(encoding="utf-8"))["evaluate"] | {"resamples": 50}

    def disturb(change: Callable[[features.Floats], features.Floats]) -> Model:
        return replace(candidate, predictor=Disturbed(candidate, change))

    def leak() -> Verdict:
        rows = pq.read_table(project.path / "data/train.parquet")
        answer = pa.array(features.encode_target(rows, contract))
        pq.write_table(rows.append_column(LEAK, answer), folder / "train.parquet")
        plain = replace(contract.features[0], roles=frozenset({"feature"}), values=(), custom={}, options={})
        column = replace(plain, name=LEAK, type="number")
        return gate.has_no_leak(replace(contract, columns=(*contract.columns, column)), folder / "train.parquet")

    return {
        "worse": gate.holds_against(disturb(shuffled), candidate, test, chosen, 0.01),
        "not finite": gate.is_sound(disturb(lambda output: output * np.nan), contract, test),
        "the same for all": gate.is_sound(disturb(lambda output: output * 0 + output[:1]), contract, test),
        "crashing": gate.is_sound(
            disturb(lambda output: output[len(output) :].reshape(-1, 3, 5, 7)[0]), contract, test
        ),
        "of another shape": gate.is_sound(disturb(lambda output: output[:1]), contract, test),
        "mis-signed": gate.is_sound(replace(candidate, contract=replace(contract, digest="other")), contract, test),
        "leaky": leak(),
        "no better than a constant": gate.beats_baselines(metrics(-0.1, 0.1)),
        "no better than a linear model": gate.beats_baselines(metrics(0.2, -0.1)),
        "not committed, in production": gate.is_traceable({"git.dirty": "true"}, "production"),
    }


@pytest.mark.ml_test("infra-4")
def test_the_gate_refuses_each_bad_candidate(project: Project, tmp_path: Path) -> None:
    candidate = Model.load(project.path / "models/candidate")
    assert gate.is_sound(candidate, project.contract, project.path / "data/test.parquet").passed
    found = refusals(project, candidate, tmp_path)
    passed = [name for name, verdict in found.items() if verdict.passed]
    count = pq.ParquetFile(project.path / "data/train.parquet").metadata.num_rows
    if passed == ["leaky"] and count < leakage.FEWEST_ROWS:
        few = f"among {count} training rows the gate cannot see a leak: bring {leakage.FEWEST_ROWS} at least"
        pytest.fail(few, pytrace=False)
    if passed:
        pytest.fail(f"the gate lets through a candidate that is {', '.join(passed)}: look into gate.py", pytrace=False)
    assert all(verdict.reason for verdict in found.values())


@pytest.mark.sabotage(of=test_the_gate_refuses_each_bad_candidate, fault="one check of the gate says yes to all")
@pytest.mark.parametrize(
    ("check", "through"),
    [("is_sound", "mis-signed"), ("has_no_leak", "leaky"), ("holds_against", "worse"), ("is_traceable", "committed")],
)
def test_a_gate_with_a_hole_is_noticed(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, through: str
) -> None:
    monkeypatch.setattr(gate, check, lambda *_: Verdict(True, "yes"))
    with pytest.raises(pytest.fail.Exception, match=f"lets through a candidate that is .*{through}"):
        test_the_gate_refuses_each_bad_candidate(finished_project, tmp_path)


@pytest.mark.ml_test("infra-4")
def test_what_is_served_has_passed_the_gate(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    registry = Registry(project.contract.id)
    champion = registry.champion()
    if champion is None:
        newest = registry.find_version({})
        reason = newest.tags["gate.reason"] if newest else "no model was registered: run `make pipeline`"
        pytest.fail(f"nothing can be served, as there is no champion: {reason}", pytrace=False)
    if champion.tags.get("gate") != "passed":
        words = f"version {champion.number} is champion and has not passed the gate: move the alias back in `make runs`"
        pytest.fail(words, pytrace=False)


@pytest.mark.sabotage(of=test_what_is_served_has_passed_the_gate, fault="the alias is moved by hand to a refused model")
def test_a_champion_that_the_gate_refused_is_noticed(
    finished_project: Project, copy: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    registry = Registry(project.contract.id)
    version = registry.find_version({})
    assert version is not None
    refused = registry.tag(version, {"gate": "refused", "gate.reason": "planted"})
    with pytest.raises(InputError, match="cannot become champion: planted"):
        registry.promote(refused)
    registry.client.set_registered_model_alias(registry.name, "champion", version.number)
    with pytest.raises(pytest.fail.Exception, match="has not passed the gate"):
        test_what_is_served_has_passed_the_gate(project, monkeypatch)


def test_a_candidate_stands_before_every_check(finished_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check alone can stop a candidate on its way into the registry."""
    monkeypatch.chdir(finished_project.path)
    model = Model.load(Path("models/candidate"))
    registry = Registry(model.contract.id)
    version = registry.find_version({})
    assert version is not None
    checks = ("is_traceable", "is_sound", "has_no_leak", "beats_baselines", "holds_against")
    for check in checks:
        monkeypatch.setattr(gate, check, lambda *_: Verdict(True, "yes"))
    for check in checks:
        with monkeypatch.context() as closed:
            closed.setattr(gate, check, lambda *_: Verdict(False, "no"))
            assert not register.judge(model, {}, registry, version, {}).passed, check
    assert register.judge(model, {}, registry, version, {}).passed
