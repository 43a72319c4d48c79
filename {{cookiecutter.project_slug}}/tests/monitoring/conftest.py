"""A service under traffic, its monitor, and a Prometheus that watches both by the project's own rules."""

import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from flight_delays import monitoring
from flight_delays.serving import metrics, moves
from flight_delays.serving.release import CANARY, Store

from tests.conftest import ROOT, Project
from tests.prometheus import Prometheus, prometheus
from tests.service import environment, serve
from tests.traffic import traffic, until

_SCRAPES_SECONDS = 6  # rates need several
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_RECORDED = re.compile(r"record: (\S+)")


@dataclass(frozen=True)
class Watched:
    """What is watched.

    Attributes
    ----------
    prometheus
        That watches it.
    project
        Whose service is watched.
    client
        Of the service.
    known
        Matches the names of all metrics that there can be: of the service, recorded, or of the monitor.
    """

    prometheus: Prometheus
    project: Project
    client: httpx.Client
    known: re.Pattern[str]


def rules() -> list[Path]:
    """Give the project's rule files."""
    found = sorted((ROOT / "ops/prometheus").rglob("*.yml"))
    return [path for path in found if "groups" in yaml.safe_load(path.read_text(encoding="utf-8"))]


@contextmanager
def monitor(project: Project) -> Iterator[str]:
    """Run the monitor of a project for the length of a `with` block, and give its `host:port`.

    Parameters
    ----------
    project
        Whose.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", monitoring.__name__, "--port", "0"],
            cwd=project.path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        try:
            assert process.stdout
            for line in process.stdout:
                if found := re.search(r"http://([\d.]+:\d+)/metrics", line):
                    yield found[1]
                    return
            complaints.seek(0)
            pytest.fail(f"the monitor does not start: {complaints.read().strip()}", pytrace=False)
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="session")
def watched(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A service that has answered for a while, with a challenger on trial and requests that broke the contract."""
    folder = tmp_path_factory.mktemp("watched")
    project = Project(folder / "project")
    shutil.copytree(finished_project.path, project.path, symlinks=True)
    with ExitStack() as stack:
        client = stack.enter_context(serve(project, "--alone"))
        store = Store(project.path / "models/serving")
        store.add("2", store.model("1"))
        release = moves.challenge(store, "2", CANARY, 0.5, "to be watched")
        moves.wait(store, release, 20)
        service = f"{client.base_url.host}:{client.base_url.port}"
        targets = {"service": [service], "monitor": [stack.enter_context(monitor(project))]}
        with traffic(client, project) as sent:
            until(lambda: len(sent.answers) > 50, 20)
            assert client.post("/predict", json={"rows": [{"no_such_column": 1}]}).status_code == 422
            found = stack.enter_context(prometheus(targets, rules(), folder / "prometheus"))
            time.sleep(_SCRAPES_SECONDS)
            client.post("/predict", json={"rows": [{"no_such_column": 1}]})
            time.sleep(3)
        sent.require_answers("while they were watched")
        yield Watched(found, project, client, _known(found))


def _known(found: Prometheus) -> re.Pattern[str]:
    names = set(found.get("label/__name__/values"))
    counted = [entry for entry in vars(metrics).values() if isinstance(entry, MetricWrapperBase)]
    for metric in itertools.chain.from_iterable(entry.describe() for entry in counted):
        names |= {metric.name + suffix for suffix in _SUFFIXES.get(metric.type, ("",))}
    for path in rules():
        names |= set(_RECORDED.findall(path.read_text(encoding="utf-8")))
    for path in Path(monitoring.__file__).parent.glob("*.py"):  # where a name has a part in braces, anything may stand
        written = re.findall(r'"([a-z]+_[a-z_{}]+)"', path.read_text(encoding="utf-8"))
        names |= {re.sub(r"\{\w*\}", r"[a-z_]+", name) for name in written}
    return re.compile("|".join(sorted(names)))
