"""The exercise of README.md that adds a feature, at work in a copy of the sample project."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import features

from tests.conftest import ROOT, Project

NEW = "new_signal"
LOG, DONE = "steps.log", "steps.done"
PROMISED = 300  # seconds: "in five minutes"


@dataclass(frozen=True)
class Steps:
    """The steps of README.md at work in a project's folder.

    Attributes
    ----------
    project
        Where.
    shell
        What runs them.
    port
        Of the service that they start.
    began
        When, in seconds since 1970.
    """

    project: Project
    shell: "subprocess.Popen[bytes]"
    port: int
    began: float


def grow(project: Project) -> None:
    """Give a project's data a column more, which tells something of the target."""
    rows, contract = pq.read_table(project.sample), project.contract
    truth = features.encode_target(rows.select([contract.target.name]), contract)
    if contract.task == "regression":
        truth = (truth - truth.mean()) / (truth.std() or 1)
    values = truth + np.random.default_rng(0).normal(size=len(truth))
    pq.write_table(rows.append_column(NEW, pa.array(values.round(4))), project.sample)


def begin(project: Project) -> Steps:
    """Begin with the commands under "Add a feature in five minutes" in README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    steps = re.search(r"## Add a feature in five minutes\n.*?```bash\n(.*?)```", text, re.DOTALL)
    assert steps, "README.md has lost its section on adding a feature"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = dict(os.environ) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(port),
        "UV_NO_SYNC": "1",  # this environment serves the copy as well
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    script, log = project.path / "steps.sh", project.path / LOG
    commands = f"set -eo pipefail\n{steps[1]}".replace(":8000", f":{port}")
    script.write_text(f"{commands}\ntouch {DONE}\n", encoding="utf-8")
    with log.open("w", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", script], cwd=project.path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    return Steps(project, shell, port, time.time())


def stop(steps: Steps) -> None:
    """End the steps, and the service: it is a child of the shell, in the shell's own group."""
    with suppress(ProcessLookupError):  # nothing runs any more
        os.killpg(steps.shell.pid, signal.SIGTERM)


def wait(steps: Steps) -> float:
    """Wait for the last step, and say how many seconds all took."""
    log = steps.project.path / LOG
    if steps.shell.wait(2 * PROMISED):
        said = log.read_text(encoding="utf-8").splitlines()
        lines = [
            line.strip("│ ") for line in said if line.startswith(("error:", "ERROR:")) or "REFUSED" in line
        ] or said[-15:]
        pytest.fail("a step of README.md ends with an error: " + "\n".join(lines), pytrace=False)
    return (steps.project.path / DONE).stat().st_mtime - steps.began
