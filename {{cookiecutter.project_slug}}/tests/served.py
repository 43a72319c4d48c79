"""What has been served? A store with predictions of a sample project's test rows, and the truth about them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flight_delays.contract import Contract
from flight_delays.serving import door, moves
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.release import Store
from flight_delays.serving.roles import Follower
from flight_delays.serving.service import Service

from tests.conftest import Project

VERSION = "1"


@dataclass(frozen=True)
class Served:
    """A store in which each test row was predicted once, by a request of its own.

    Attributes
    ----------
    store
        With the model of `models/candidate` as version 1.
    contract
        The project's.
    truth
        By request's id, the target's value as JSON has it.
    """

    store: Store
    contract: Contract
    truth: dict[str, Any]


def served(project: Project, folder: Path, most: int = 2_000) -> Served:
    """Predict test rows, by what answers requests, and write them down.

    Parameters
    ----------
    project
        With a trained model, in the current folder.
    folder
        Of the store.
    most
        So many rows.
    """
    store = Store(folder)
    store.add(VERSION, project.path / "models/candidate")
    moves.serve(store, VERSION, {}, "the first")
    now = Follower(store).served
    log = PredictionLog(store.predictions, max_bytes=10**8, max_seconds=1e6)
    service, contract = Service(now, store, log), now.now.champion.model.contract
    rows = pq.read_table(project.path / "data/test.parquet").slice(0, most)
    truth = {}
    for number, (row, value) in enumerate(
        zip(door.to_json(rows, contract), rows[contract.target.name].to_pylist(), strict=True)
    ):
        name = f"order-{number}"
        service.predict(now.now, service.read(now.now, json.dumps({"rows": [row]}).encode()), name, name)
        truth[name] = door.plain(value)
    log.close()
    return Served(store, contract, truth)
