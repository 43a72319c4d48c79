"""Does a new feature reach a served prediction by way of the contract alone, in the minutes that README.md promises?"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import features

from tests.conftest import ROOT, Project

Copy = Callable[[Project], Project]
NEW = "new_signal"
LOG = "steps.log"
PROMISED = 300  # seconds: "in five minutes"


@pytest.fixture
def grown(finished_project: Project, copy: Copy) -> Project:
    """A copy of the sample project whose data has got a column more, which tells something of the target."""
    project = copy(finished_project)
    rows, contract = pq.read_table(project.sample), project.contract
    truth = features.encode_target(rows.select([contract.target.name]), contract)
    if contract.task == "regression":
        truth = (truth - truth.mean()) / (truth.std() or 1)
    values = truth + np.random.default_rng(0).normal(size=len(truth))
    pq.write_table(rows.append_column(NEW, pa.array(values.round(4))), project.sample)
    return project


@pytest.fixture(scope="session")
def steps() -> str:
    """The commands under "Add a feature in five minutes" in README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## Add a feature in five minutes\n.*?```bash\n(.*?)```", text, re.DOTALL)
    assert found, "README.md has lost its section on adding a feature"
    return found[1]


@contextmanager
def done(steps: str, project: Project) -> Iterator[tuple[httpx.Client, float]]:
    """Do the steps in a project's folder; give a client of the service that they start, and the seconds they took."""
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
    script.write_text(f"set -eo pipefail\n{steps}".replace(":8000", f":{port}"), encoding="utf-8")
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", script], cwd=project.path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        code = shell.wait(2 * PROMISED)
        seconds = time.monotonic() - began
        if code:
            said = log.read_text(encoding="utf-8").splitlines()
            lines = [
                line.strip("│ ") for line in said if line.startswith(("error:", "ERROR:")) or "REFUSED" in line
            ] or said[-15:]
            pytest.fail("a step of README.md ends with an error: " + "\n".join(lines), pytrace=False)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client, seconds
    finally:
        with suppress(ProcessLookupError):  # nothing runs any more
            os.killpg(shell.pid, signal.SIGTERM)  # the service is a child of the shell, in the shell's own group


@pytest.mark.slow
@pytest.mark.ml_test("data-6")
def test_a_new_feature_reaches_a_prediction_by_the_contract_alone(
    grown: Project, steps: str, record_property: Callable[[str, object], None]
) -> None:
    with done(steps, grown) as (service, seconds):
        served = service.get("/model").json()
        if NEW not in served["features"]:
            said = [line for line in (grown.path / LOG).read_text(encoding="utf-8").splitlines() if "gate" in line]
            pytest.fail(
                f"{NEW!r} is not a feature of the served model, version {served['version']}: "
                f"the steps of README.md do not bring it there\n{''.join(said)}",
                pytrace=False,
            )
        row: dict[str, Any] = service.get("/example").json()["rows"][0]
        answers = [ask(service, row | {NEW: value}) for value in (-3.0, 3.0)]
        without = {name: value for name, value in row.items() if name != NEW}
        refusal = service.post("/predict", json={"rows": [without]})
    changed = grown.run("git", "diff", "--numstat").stdout.split()
    lines = sum(int(number) for number in changed[:2])
    record_property("seconds", round(seconds, 1))
    record_property("lines", lines)
    print(f"a new feature: {seconds:.0f} seconds, {lines} lines of {' '.join(changed[2::3])}")
    assert changed[2:] == ["contract.yaml"], f"more than the contract had to change: {changed}"
    assert answers[0] != answers[1], f"the prediction does not change with {NEW!r}: {answers}"
    assert (refusal.status_code, refusal.json()["violations"][0]["column"]) == (422, NEW)
    assert (grown.path / "reports/explain/0.png").stat().st_size > 0
    assert seconds < PROMISED, f"README.md promises five minutes, it took {seconds:.0f} seconds"


def ask(service: httpx.Client, row: dict[str, Any]) -> dict[str, Any]:
    """Predict a row."""
    answer: dict[str, Any] = service.post("/predict", json={"rows": [row]}).json()
    return answer


@pytest.mark.sabotage(
    of=test_a_new_feature_reaches_a_prediction_by_the_contract_alone,
    fault="the contract knows the new column, but not as a feature",
)
def test_a_feature_that_does_not_reach_the_service_is_named(
    grown: Project, steps: str, record_property: Callable[[str, object], None]
) -> None:
    entry = {"name": NEW, "logicalType": "number", "required": True}
    grown.edit("contract.yaml", lambda document: document["schema"][0]["properties"].append(entry))
    with pytest.raises(pytest.fail.Exception, match=f"'{NEW}' is not a feature of the served model, version "):
        test_a_new_feature_reaches_a_prediction_by_the_contract_alone(grown, steps, record_property)
