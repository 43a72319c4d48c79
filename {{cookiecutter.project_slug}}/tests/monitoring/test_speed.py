"""Are training and serving as fast and as small as they were?"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.monitoring import speed
from flight_delays.monitoring.speed import Ratios

from tests.conftest import Project

Copy = Callable[[Project], Project]
ROUNDS = 3


@pytest.mark.ml_test("mon-6")
def test_neither_training_nor_serving_became_slower_or_larger(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    if not speed.history():  # the first run on this kind of machine is what later ones are compared with
        speed.record(speed.measure(ROUNDS))
    now, changes = speed.watch(ROUNDS)
    try:
        speed.require(changes)
    except InputError as worse:
        pytest.fail(str(worse), pytrace=False)
    speed.record(now)


@pytest.fixture(scope="module")
def first(finished_project: Project) -> Ratios:
    """Measure the sample project once, for all who compare something with it."""
    with contextlib.chdir(finished_project.path):
        return speed.measure(ROUNDS)


@pytest.fixture
def measured(finished_project: Project, first: Ratios, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project that has been measured once, in the current folder."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    speed.record(first)
    return project


def burn(seconds: float) -> None:
    """Take CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(100))


@pytest.mark.sabotage(
    of=test_neither_training_nor_serving_became_slower_or_larger, fault="a feature that takes a millisecond a row"
)
def test_a_slow_feature_is_caught(measured: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    make = features.encoder

    def slow(contract: Contract) -> Callable[[Sequence[Sequence[Any]]], features.Floats]:
        encode_rows = make(contract)

        def encode_slowly(rows: Sequence[Sequence[Any]]) -> features.Floats:
            burn(1e-3 * len(rows))
            return encode_rows(rows)

        return encode_slowly

    monkeypatch.setattr(features, "encoder", slow)
    with pytest.raises(
        pytest.fail.Exception, match=r"answering a request of one row takes \d+\.\d+ times what it took"
    ):
        test_neither_training_nor_serving_became_slower_or_larger(measured, monkeypatch)


@pytest.mark.sabotage(
    of=test_neither_training_nor_serving_became_slower_or_larger, fault="a fit that takes twice as many rounds"
)
def test_a_slow_fit_is_caught(measured: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    measured.edit("params.yaml", lambda document: document["train"]["hyperparameters"].update(n_estimators=240))
    with pytest.raises(pytest.fail.Exception, match=r"fitting the model takes \d+\.\d+ times what it took"):
        test_neither_training_nor_serving_became_slower_or_larger(measured, monkeypatch)


@pytest.mark.sabotage(
    of=test_neither_training_nor_serving_became_slower_or_larger,
    fault="a service, or a training, that keeps 400 MB more",
)
@pytest.mark.parametrize(("what", "does"), [("service", "START"), ("training", "TRAIN")])
def test_what_is_hungry_is_caught(measured: Project, monkeypatch: pytest.MonkeyPatch, what: str, does: str) -> None:
    code = str(getattr(speed, does)[1]).replace("; ", "; kept = bytearray(b'1') * 400_000_000; ")
    monkeypatch.setattr(speed, does, ("-c", code))
    with pytest.raises(pytest.fail.Exception, match=rf"{what}'s memory takes \d+\.\d+ times what it took"):
        test_neither_training_nor_serving_became_slower_or_larger(measured, monkeypatch)


def drawn(random: np.random.Generator, times: float = 1.0) -> Ratios:
    return {"request": (times * np.exp(random.normal(0, 0.1, speed.ROUNDS))).tolist()}


def worse(now: Ratios, before: list[Ratios]) -> bool:
    return any(change.worse for change in speed.compare(now, before, 0.3))


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_noise_is_not_taken_for_a_slow_down_and_a_slow_down_not_for_noise(runs: int) -> None:
    random = np.random.default_rng(0)
    before = [[drawn(random) for _ in range(runs)] for _ in range(200)]
    assert sum(worse(drawn(random), one) for one in before) <= 1
    assert sum(worse(drawn(random, 2.0), one) for one in before) >= 190


def test_only_runs_on_the_same_kind_of_machine_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert speed.history() == []
    run = drawn(np.random.default_rng(0))
    speed.record(run)
    other = json.loads(speed.HISTORY.read_text(encoding="utf-8")) | {"machine": "another"}
    with speed.HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(other) + "\n")
    assert len(speed.history()) == 1


def test_without_a_model_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run `make pipeline`"):
        speed.measure()


def test_a_model_is_measured_whatever_its_kind(first: Ratios) -> None:
    assert first.keys() == {"train", "train_memory", "request", "batch", "start", "memory"}
    assert all(value > 0 for values in first.values() for value in values)
