"""Do labels that come late have a say in whether a challenger takes over?"""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flight_delays.serving import door, moves
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.release import SHADOW, Store
from flight_delays.serving.roles import Follower
from flight_delays.serving.service import Service
from flight_delays.serving.trial import Trial
from flight_delays.settings import params

from tests.conftest import Project

REQUESTS = 300


@pytest.fixture
def trial(finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A challenger that is the champion once more, in the shadow of some hundred requests whose labels are wanted."""
    monkeypatch.chdir(finished_project.path)
    store = Store(tmp_path / "store")
    for version in ("1", "2"):
        store.add(version, finished_project.path / "models/candidate")
    moves.serve(store, "1", {}, "the first")
    release = moves.challenge(store, "2", SHADOW, 1.0, "a trial")
    served = Follower(store).served
    service = Service(served, store, PredictionLog(store.predictions, max_bytes=10**8, max_seconds=1e6))
    rows = pq.read_table(finished_project.path / "data/test.parquet")
    sent = door.to_json(rows, served.now.champion.model.contract)
    for number in range(REQUESTS):
        request = service.read(served.now, json.dumps({"rows": [sent[number % len(sent)]]}).encode())
        name = f"request-{number}"
        other = service.predict(served.now, request, name, name).other
        assert other is not None
        service.ask_as_well(served.now, request, name, other)
    quick: dict[str, Any] = {"least": 200, "failures": 0.1, "warnings": 0.1, "labels": 100, "latency": 50.0}
    return Trial(store, release, params("serve")["canary"] | quick)


def label(trial: Trial, project: Project) -> None:
    """Let the truth about all requests be known."""
    contract = project.contract
    rows = pq.read_table(project.path / "data/test.parquet", columns=[contract.target.name])
    truths = [door.plain(value) for value in rows[contract.target.name].to_pylist()]
    lines = [
        json.dumps({"id": f"request-{number}", "row": 0, "truth": truths[number % len(truths)]})
        for number in range(REQUESTS)
    ]
    (trial.store.labels / "late.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_without_labels_that_are_wanted_nothing_is_decided(trial: Trial) -> None:
    assert trial.look() is None
    assert trial.store.past("decision") == []


def test_labels_decide_once_they_come(trial: Trial, finished_project: Project) -> None:
    trial.look()
    label(trial, finished_project)
    decision = trial.look()
    assert decision is not None
    assert decision["action"] == "promote", decision["reason"]
    (loss,) = (check for check in decision["checks"] if check["name"] == "loss")
    assert loss["count"] >= 100
    assert loss["value"] == 1
    (recorded,) = trial.store.past("decision")
    assert recorded["evidence"]["checks"] == json.loads(json.dumps(decision["checks"]))
    release = trial.store.read()
    assert release is not None
    assert release.champion == "2"
