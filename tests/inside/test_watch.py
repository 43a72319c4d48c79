"""Does the right alert, and only that one, reach a person? Copied into a generated project, and run there.

Everything is real: the service, the monitor, Prometheus, Alertmanager and who is told. Only the time that a fault has
to last is taken out of the rules.
"""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays import reference, serving
from flight_delays.monitoring import dependencies, labels
from flight_delays.serving import door
from flight_delays.serving.release import Store

from tests.alerts import RULES
from tests.conftest import ROOT, Project
from tests.monitoring.conftest import monitor
from tests.prometheus import Prometheus, free_port, prometheus
from tests.service import ask, serve

ARRIVES, SETTLES = 90, 6  # seconds
ROWS = 1_500
MOMENTARY = {"ServiceDown", "MonitorDown", "PredictionLogSilent"}  # can hold for a moment in good health
METRIC = re.compile(
    r"\b((?:service|model|release|prediction_log|store|labels|skew|job|speed|dependency|data)_[a-z_]+)\b(?=[{ \[)])"
)
OPTIONAL = {  # what is only there where somebody promised, measured or tried something
    "data_newest_timestamp_seconds",
    "data_freshness_limit_seconds",
    "speed_worse",
    "release_decisions",
    "dependency_changes",
    "dependency_unknown",
    "model_failures_total",
    "service_violations_total",
    "labels_missing_rows",
    "labels_rows",
    "model_quality_worse",
    "job_failed",
    "skew_values",
}


@dataclass
class Observed:
    """A service that is watched."""

    project: Project
    client: httpx.Client
    prometheus: Prometheus
    service: ExitStack
    told: list[dict[str, str]] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Which alerts have reached the person."""
        return {labels["alertname"] for labels in self.told}

    def require(self, *expected: str) -> None:
        """Require that these alerts arrive, and no other one."""
        end = time.monotonic() + ARRIVES
        while self.names < set(expected) and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(SETTLES)
        assert self.names == set(expected), self.told

    def send(self, change: Callable[[dict[str, Any]], None] | None = None, count: int = ROWS) -> dict[str, Any]:
        """Send test rows, a hundred at a time, and give their truth by request."""
        contract, table = self.project.contract, pq.read_table(self.project.path / "data/test.parquet")
        rows, target = door.to_json(table, contract), table[contract.target.name].to_pylist()
        truth = {}
        for first in range(0, count, 100):
            places = [place % len(rows) for place in range(first, first + 100)]
            sent = [dict(rows[place]) for place in places]
            for row in sent:
                if change:
                    change(row)
            answer = self.client.post("/predict", json={"rows": sent}, headers={"x-request-id": f"batch-{first}"})
            if answer.status_code == httpx.codes.OK:
                outputs = answer.json()["predictions"]
                truth[f"batch-{first}"] = [(target[place], out) for place, out in zip(places, outputs, strict=True)]
        return truth


@contextmanager
def observed(project: Project, folder: Path, source: Path | None = None) -> Iterator[Observed]:
    """Start a service and all that watches it."""
    with ExitStack() as stack, ExitStack() as service:
        client = service.enter_context(serve(project, source=source))
        port = client.base_url.port
        told: list[dict[str, str]] = []
        manager = stack.enter_context(alertmanager(folder / "alertmanager", told))
        watch = stack.enter_context(monitor(project))
        rules = [without_waiting(path, folder) for path in RULES]
        targets = {"service": [f"127.0.0.1:{port}"], "monitor": [watch]}
        asked = stack.enter_context(prometheus(targets, rules, folder / "prometheus", "1s", manager))
        yield Observed(project, client, asked, service, told)


@contextmanager
def alertmanager(folder: Path, told: list[dict[str, str]]) -> Iterator[str]:
    """Run Alertmanager on the project's own configuration, and be the one who is told."""

    class Person(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.extend(alert["labels"] for alert in sent["alerts"] if alert["status"] == "firing")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    folder.mkdir()
    document = yaml.safe_load((ROOT / "ops/alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    for route in (document["route"], *document["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    with HTTPServer(("127.0.0.1", 0), Person) as person:
        threading.Thread(target=person.serve_forever, daemon=True).start()
        for receiver in document["receivers"]:
            for entry in receiver["webhook_configs"]:
                del entry["url_file"]
                entry["url"] = f"http://127.0.0.1:{person.server_port}"
        (folder / "config.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
        place = f"127.0.0.1:{free_port()}"
        program = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
        assert program, "apt-get install prometheus-alertmanager"
        command = [program, f"--config.file={folder}/config.yml", f"--storage.path={folder}"]
        command += [f"--web.listen-address={place}", "--cluster.listen-address="]
        with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                yield place
            finally:
                process.terminate()
                person.shutdown()


def without_waiting(path: Path, folder: Path) -> Path:
    """Copy a rule file almost without the time that a fault has to last, and for the one replica that there is.

    What else runs on this machine may fill its disk, and keep it from an answer for a moment. The first predictions are
    counted by one scrape, and their log is seen by another one.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for rule in (rule for group in document["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = rule["for"] if rule["alert"] == "DiskFills" else "15s" if rule["alert"] in MOMENTARY else "0s"
        rule["expr"] = rule["expr"].replace('count(up{job="service"}) < 2', 'count(up{job="service"}) < 1')
    goal = folder / path.name
    goal.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return goal


@pytest.fixture
def quick(finished_project: Project, copy: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project whose monitor is quick, in the current folder."""
    project = copy(finished_project)

    def hurry(document: Any) -> None:
        document["monitor"] |= {"minutes": {"quality": 0.05, "skew": 0.05}}
        document["monitor"]["quality"]["few"] = 50
        document["assess"]["staleness"]["retrain_days"] = 1_000_000

    project.edit("params.yaml", hurry)
    monkeypatch.chdir(project.path)
    return project


def spoiled(folder: Path, name: str, before: str, after: str) -> Path:
    """Copy the source with one change."""
    package = Path(serving.__file__).parent.parent
    shutil.copytree(package, folder / "src" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "src" / package.name / "serving" / name
    code = path.read_text(encoding="utf-8")
    assert code.count(before) == 1
    path.write_text(code.replace(before, after), encoding="utf-8")
    return folder / "src"


def test_good_health_is_quiet_and_drift_is_computed_exactly(quick: Project, tmp_path: Path) -> None:
    with observed(quick, tmp_path) as seen:
        sent = seen.send()
        take(quick, {name: [value for value, _ in pairs] for name, pairs in sent.items()})
        seen.prometheus.wait("model_quality_score", ARRIVES)
        seen.require()
        require_exact_drift(seen)
        text = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
        names = set(METRIC.findall(text))
        assert len(names) > 20
        missing = {name for name in names - OPTIONAL - {"job_name"} if not seen.prometheus.query(name)}
        assert not missing


def test_what_fails_ends_all_that_was_started(quick: Project, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), observed(quick, tmp_path):
        raise ZeroDivisionError


def require_exact_drift(seen: Observed) -> None:
    """Compare the index that Prometheus computes with what Python makes of the same counts."""
    assert seen.prometheus.wait("model:feature_psi:1w", 30)
    time.sleep(3)
    bins, output = reference.read(Store(seen.project.path / "models/serving").model("1"))
    counted: dict[str, dict[str, float]] = {}
    for line in seen.client.get("/metrics").text.splitlines():
        if found := re.match(r'model_feature_bin_total\{bin="(.*)",feature="(.*)",version="1"\} (\S+)', line):
            counted.setdefault(found[2], {})[found[1]] = float(found[3])
    index = {one["metric"]["feature"]: one["value"] for one in seen.prometheus.query("model:feature_psi:1w")}
    assert index.keys() == bins.keys()
    for feature, one in bins.items():
        counts = np.array([counted[feature][name.replace('"', '\\"')] for name in one.names])
        assert index[feature] == pytest.approx(reference.psi(np.array(one.shares), counts), rel=1e-6, abs=1e-9)
    assert seen.prometheus.query("model:output_psi:1w")
    assert output.names


def take(project: Project, truth: dict[str, list[Any]]) -> None:
    """Take labels in, as people do."""
    name = project.contract.target.name
    rows = [{"id": key, "row": row, name: door.plain(value)} for key, values in truth.items() for row, value in enumerate(values)]
    pq.write_table(pa.Table.from_pylist(rows), project.path / "labels.parquet")
    ran = project.run("python", "-m", labels.__name__, "labels.parquet")
    assert ran.returncode == 0, ran.stderr


def test_drift(quick: Project, tmp_path: Path) -> None:
    table = pq.read_table(quick.path / "data/test.parquet")
    column = next(c for c in quick.contract.features if c.type in {"integer", "number"})
    value = max(filter(lambda one: one is not None, table[column.name].to_pylist()))
    with observed(quick, tmp_path) as seen:
        seen.send(lambda row: row.update({column.name: value}))
        seen.require("FeatureDrift")
        assert {labels["feature"] for labels in seen.told} == {column.name}


def test_an_old_model(quick: Project, tmp_path: Path) -> None:
    quick.edit("params.yaml", lambda document: document["assess"]["staleness"].update(retrain_days=1e-7))
    with observed(quick, tmp_path) as seen:
        seen.send()  # rows say what time it is
        seen.require("ModelTooOld")


def test_a_model_without_finite_answers(quick: Project, tmp_path: Path) -> None:
    source = spoiled(
        tmp_path,
        "roles.py",
        "        taken = (time.perf_counter() - start) * 1e3\n",
        "        taken, output = 1.0, output * np.nan\n",
    )
    with observed(quick, tmp_path, source) as seen:
        seen.send(count=300)
        time.sleep(2)
        seen.send(count=1_000)
        seen.require("ModelFails")


def test_a_slow_service(quick: Project, tmp_path: Path) -> None:
    source = spoiled(
        tmp_path,
        "service.py",
        "        assigned = roles.assigned(key)\n",
        "        __import__('time').sleep(0.4)\n        assigned = roles.assigned(key)\n",
    )
    with observed(quick, tmp_path, source) as seen:
        seen.send()
        seen.require("SlownessBurnsTheBudget")


def test_lost_quality(quick: Project, tmp_path: Path) -> None:
    contract = quick.contract
    assert contract.task == "binary", "the example's"
    with observed(quick, tmp_path) as seen:
        sent = seen.send()
        middle = float(np.median([out["probability"] for pairs in sent.values() for _, out in pairs]))
        take(
            quick,
            {name: [contract.classes[int(out["probability"] < middle)] for _, out in pairs] for name, pairs in sent.items()},
        )
        seen.require("QualityLost")


def test_a_changed_schema(quick: Project, tmp_path: Path) -> None:
    with observed(quick, tmp_path) as seen:
        seen.require()
        quick.rewrite(f'SELECT * EXCLUDE ("{quick.contract.features[-1].name}") FROM sample')
        found = {"changes": {"schema": dependencies.schema()}, "unknown": {}}
        (quick.path / dependencies.REPORT).write_text(json.dumps(found), encoding="utf-8")
        seen.require("DependencyChanged")


def test_a_dead_service(quick: Project, tmp_path: Path) -> None:
    with observed(quick, tmp_path) as seen:
        ask(seen.client, "/predict", door.to_json(pq.read_table("data/test.parquet").slice(0, 1), quick.contract))
        seen.service.close()
        seen.require("ServiceDown")
