"""How do the tests ask the service? Started as people start it, on a free port, and stopped by its own process."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from flight_delays import serving
from flight_delays.serving.release import Store

from tests.conftest import Project


@contextmanager
def serve(
    project: Project, *arguments: str, source: Path | None = None, variables: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """Run the service in a project's folder, and give a client of it.

    Parameters
    ----------
    project
        Whose registry and files it uses.
    *arguments
        More of the command line, such as `--model models/candidate`.
    source
        A folder of source code to run in place of what is installed.
    variables
        More of the environment.
    """
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe that nobody reads fills up, and then the service stops
        process = subprocess.Popen(
            [sys.executable, "-m", serving.__name__, "--port", "0", *arguments],
            cwd=project.path,
            env=environment(source) | (variables or {}),
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        try:
            yield from _client(process, complaints)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def wait_for_workers(project: Project, count: int) -> None:
    """Wait until all workers of a project's service are there: requests are taken in before.

    Parameters
    ----------
    project
        Whose service has been started.
    count
        Of workers.
    """
    store, end = Store(project.path / "models/serving"), time.monotonic() + 60
    while len(store.reports()) < count:
        if time.monotonic() > end:
            pytest.fail(f"{len(store.reports())} of {count} workers have started", pytrace=False)
        time.sleep(0.05)


def environment(source: Path | None = None) -> dict[str, str]:
    """Give the environment of a service that stands by itself.

    Parameters
    ----------
    source
        As for `serve`.
    """
    found = {**os.environ} | ({"PYTHONPATH": str(source)} if source else {})
    for name in ("MLFLOW_TRACKING_URI", "SERVING_DIR", "API_KEYS", "TIER"):
        found.pop(name, None)
    return found


def _client(process: subprocess.Popen[str], complaints: IO[str]) -> Iterator[httpx.Client]:
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r" at (http://[\d.]+:\d+)", line):
            with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as client:
                yield client
            return
    complaints.seek(0)
    pytest.fail(f"the service does not start: {complaints.read().strip()}", pytrace=False)


def ask(client: httpx.Client, path: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Send rows, and give the answer; a refusal fails the test with its words."""
    answer = client.post(path, json={"rows": rows})
    if answer.status_code != httpx.codes.OK:
        pytest.fail(f"{path} answers {answer.status_code}: {answer.text[:500]}", pytrace=False)
    found: dict[str, Any] = answer.json()
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Compare two explanations of one row value by value; name what differs, the first cause first."""
    ours = json.loads(json.dumps(ours))
    found = []
    for kind, name in (("columns", "column"), ("features", "feature")):
        left, right = ({entry[name]: entry for entry in side[kind]} for side in (ours, theirs))
        found += [f"{name} {key!r} is on one side only" for key in sorted(left.keys() ^ right.keys())]
        for key in [key for key in left if key in right]:
            found += _unequal(f"{name} {key!r}", left[key], right[key])
    rest = ours.keys() - {"columns", "features"}
    return found + _unequal("the answer", {key: ours[key] for key in sorted(rest)}, theirs)


def _unequal(where: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [
        f"{where}: {key} is {value!r} in the pipeline, {theirs.get(key)!r} in the service"
        for key, value in ours.items()
        if value != theirs.get(key)
    ]
