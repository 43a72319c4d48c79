"""A small model of any task on this project's own columns, and a server of it in this very process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn

from flight_delays import features
from flight_delays.model import Model, fit, make_estimator
from flight_delays.serving.__main__ import reserve
from flight_delays.serving.protocol import Protocol

from tests.conftest import Project

LABELS = {"binary": ("no", "yes"), "multiclass": ("red", "green", "blue")}


def tiny(project: Project, task: str, rounds: int = 5) -> tuple[Model, pa.Table]:
    """Fit a model to a made-up target, and give it with the rows it learned from.

    Parameters
    ----------
    project
        Whose columns it asks for.
    task
        `binary`, `multiclass` or `regression`.
    rounds
        Of LightGBM.
    """
    contract = project.contract
    rows = pq.read_table(project.sample)
    rows = rows.select([column.name for column in contract.columns]).cast(contract.schema()).slice(0, 500)
    labels = LABELS.get(task, ())
    target = replace(contract.target, type="string" if labels else "number", values=labels, custom={"task": "auto"})
    columns = tuple(target if column.name == target.name else column for column in contract.columns)
    aimed = replace(contract, columns=columns, task=task)
    X = features.encode(rows, aimed)
    y = np.argsort(np.nan_to_num(X).sum(axis=1)).argsort() % (len(labels) or len(X))
    both = X, y.astype(float)
    return Model(aimed, fit(make_estimator("auto", task, {"n_estimators": rounds}, 0), aimed, both, both), 0.4), rows


@contextlib.contextmanager
def running(app: Any, **settings: Any) -> Iterator[int]:
    """Serve an application in a thread, over real sockets and by the project's protocol; give its port."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        **settings,
    )
    server = uvicorn.Server(config)
    with reserve(0) as taken:
        taken.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int, *words: bytes, seconds: float = 20) -> socket.socket:
    """Open a connection, and say something on it."""
    found = socket.create_connection(("127.0.0.1", port), timeout=seconds)
    for part in words:
        found.sendall(part)
    return found


def heard(connection: socket.socket) -> bytes:
    """Read until the other side has closed the connection, one way or the other."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found
