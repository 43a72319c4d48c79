"""Can one request be followed from its log line to the metrics, the prediction log, the release and the MLflow run?"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from flight_delays import monitoring, serving
from flight_delays.serving.log import read
from flight_delays.serving.release import STORE

from tests.conftest import Project
from tests.service import environment
from tests.traffic import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"  # pragma: allowlist secret
Copy = Callable[[Project], Project]


def ran(project: Project, name: str) -> subprocess.CompletedProcess[str]:
    """Follow a request, as people do."""
    return project.run("python", "-m", f"{monitoring.__name__}.follow", name)


def test_one_request_is_followed_from_line_to_run(finished_project: Project, copy: Copy, tmp_path: Path) -> None:
    project = copy(finished_project)
    lines = tmp_path / "lines.jsonl"
    sent = {"x-request-id": "follow-me", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    with lines.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", serving.__name__, "--port", "0", "--alone"],
            cwd=project.path,
            env=environment(),
            stdout=file,
        )
    try:
        place = until(lambda: re.search(r" at (http://[\d.]+:\d+)", lines.read_text(encoding="utf-8")), 60)
        with httpx.Client(base_url=place[1], trust_env=False, timeout=60) as client:
            row = client.get("/example").json()
            answer = client.post("/predict", json=row, headers=sent)
            page = client.get("/metrics").text
    finally:
        process.terminate()
        process.wait(30)

    (line,) = (
        found
        for found in map(json.loads, lines.read_text(encoding="utf-8").splitlines())
        if found.get("http.request.id") == "follow-me"
    )
    assert (line["trace.id"], line["http.response.status_code"]) == (TRACE, answer.status_code) == (TRACE, 200)
    version, role, release = (line[f"labels.{name}"] for name in ("model_version", "role", "release"))
    assert answer.json()["model"]["version"] == version
    assert f'model_rows_total{{role="{role}",version="{version}"}} 1.0' in page
    (record,) = (found for found in read(project.path / STORE / "predictions") if found["id"] == "follow-me")
    assert (record["version"], record["role"], record["release"]) == (version, role, release)

    told = ran(project, "follow-me")
    assert told.returncode == 0, told.stderr
    words = dict(re.findall(r"^  (\S+) +(.*)$", told.stdout, re.MULTILINE))
    commit = project.run("git", "rev-parse", "HEAD").stdout.strip()
    assert (words["number"], words["git.commit"]) == (version, commit)
    asked = project.run(
        "python",
        "-c",
        f"import mlflow; print(mlflow.MlflowClient('sqlite:///mlflow.db').get_run('{words['run']}').data.tags)",
    )
    assert commit in asked.stdout, asked.stderr


def test_a_request_that_was_not_answered_is_said_in_one_line(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    (project.path / STORE / "predictions").mkdir(parents=True, exist_ok=True)
    told = ran(project, "nobody")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        f"error: {STORE}/predictions has no request 'nobody': it was refused, or another service answered it\n"
    )
