"""Do several replicas get along on one store: each with its own counts, all in one log, none waited for in vain?"""

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from flight_delays import serving
from flight_delays.features import features
from flight_delays.serving import door, log, moves
from flight_delays.serving.release import Release, Store

from tests.conftest import ROOT, Project
from tests.service import serve, wait_for_workers
from tests.traffic import traffic, until

Copy = Callable[[Project], Project]
CANDIDATE = "models/candidate"
MANY, ALONE = 40, 20  # rows of one request, and requests of one row
START = """
import runpy, sys
sys.modules["mlflow"] = None
sys.argv[1:] = ["--port", "0"]
runpy.run_module("{module}", run_name="__main__")
"""


@pytest.fixture
def released(finished_project: Project, copy: Copy) -> Project:
    """A copy of the sample project whose store has its model."""
    project = copy(finished_project)
    store = store_of(project)
    store.add("first", project.path / CANDIDATE)
    store.publish(Release("first"))
    return project


def store_of(project: Project) -> Store:
    """Give the store of a project's service."""
    return Store(project.path / "models/serving")


def counted(client: httpx.Client) -> int:
    """Read from a replica's metrics how many predictions it has answered."""
    found = re.findall(r'service_requests_total{path="/predict",status="200"} ([\d.]+)', client.get("/metrics").text)
    return int(float(found[0])) if found else 0


def ask(client: httpx.Client, name: str) -> None:
    """Predict the service's own example under an id."""
    answer = client.post("/predict", json=client.get("/example").json(), headers={"x-request-id": name})
    assert answer.status_code == 200, answer.text


def require_own_counts(project: Project, source: Path | None = None) -> None:
    """Start a second replica beside a busy one; neither may lose a count, or count for the other."""
    with serve(project, "--workers", "2", "--alone", source=source) as first:
        for number in range(5):
            ask(first, f"first-{number}")
        with serve(project, "--alone", source=source) as second:
            ask(second, "second-0")
            assert (counted(first), counted(second)) == (5, 1)
    names = {record["id"] for record in log.read(store_of(project).predictions)}
    assert names == {f"first-{number}" for number in range(5)} | {"second-0"}


def test_each_replica_has_its_own_counts_and_all_are_in_one_log(released: Project) -> None:
    require_own_counts(released)


def test_counts_that_are_kept_in_one_place_are_seen_to_mix(
    released: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(ROOT / "src", tmp_path / "src")
    (path,) = source.glob("*/serving/__main__.py")
    own = "os.environ[leaving.FOLDER] = folder"
    text = path.read_text(encoding="utf-8")
    assert text.count(own) == 1
    path.write_text(text.replace(own, own.replace("folder", 'os.environ["HOME"]')), encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AssertionError):
        require_own_counts(released, source)


def require_bins(project: Project, source: Path | None = None) -> None:
    """Ask two workers for one row and for many; soon each row must be in a bin of each feature and of the output."""
    rows = pq.read_table(project.path / "data/test.parquet").slice(0, MANY)
    sent = door.to_json(rows, project.contract)
    with serve(project, "--workers", "2", "--alone", source=source) as client:
        for few in [sent, *([row] for row in sent[:ALONE])]:
            assert client.post("/predict", json={"rows": few}, headers={"connection": "close"}).status_code == 200
        expected = {feature.name: len(sent) + ALONE for feature in features(project.contract)} | {"": len(sent) + ALONE}

        def in_bins() -> dict[str, int]:
            found: Counter[str] = Counter()
            for line in client.get("/metrics").text.splitlines():
                if counted := re.match(r"model_(?:feature|output)_bin_total{(.*)} ([\d.]+)", line):
                    name = re.search(r'feature="(.*?)"', counted[1])
                    found[name[1] if name else ""] += int(float(counted[2]))
            return dict(found)

        assert until(lambda: in_bins() == expected, 5), in_bins()


def test_the_rows_of_all_workers_are_soon_in_their_bins(released: Project) -> None:
    require_bins(released)


def test_rows_that_are_never_put_into_bins_are_missed(released: Project, tmp_path: Path) -> None:
    source = shutil.copytree(ROOT / "src", tmp_path / "src")
    (path,) = source.glob("*/serving/metrics.py")
    counted, text = "    def settle(self) -> None:\n", path.read_text(encoding="utf-8")
    assert text.count(counted) == 1
    path.write_text(text.replace(counted, f"{counted}        return\n"), encoding="utf-8")
    with pytest.raises(AssertionError):
        require_bins(released, source)


def test_the_memory_of_a_worker_that_died_is_not_counted(released: Project) -> None:
    def size(client: httpx.Client) -> float:
        found = re.search(r"^service_resident_bytes (\S+)", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def numbers() -> set[int]:
        return {one["pid"] for one in store_of(released).reports()}

    with serve(released, "--workers", "2", "--alone") as client:
        wait_for_workers(released, 2)
        assert until(lambda: size(client) > 0, 10)
        dead = numbers()
        for number in dead:
            os.kill(number, signal.SIGKILL)
        assert until(lambda: len(numbers()) == len(dead) and not numbers() & dead, 60)
        held = sum(psutil.Process(number).memory_info().rss for number in numbers())
        assert until(lambda: abs(size(client) / held - 1) < 0.2, 10), (size(client), held)


def test_a_move_reaches_all_replicas_and_waits_for_none_that_was_stopped(released: Project) -> None:
    store = store_of(released)
    store.add("second", released.path / CANDIDATE)
    with serve(released, "--alone") as first, serve(released, "--workers", "2", "--alone") as others:
        assert until(lambda: len(store.reports()) == 3, 30)
        with traffic(first, released) as sent:
            release = moves.serve(store, "second", {}, "test")
            assert moves.wait(store, release, 20) == 3
        sent.require_answers("during the move")
        assert [one.get("/model").json()["version"] for one in (first, others)] == ["second"] * 2
    assert list(store.workers.iterdir()) == []


def test_a_model_of_an_image_takes_over_once_and_its_log_stays(released: Project, tmp_path: Path) -> None:
    variables = {"SERVING_DIR": str(tmp_path / "store")}
    store = Store(tmp_path / "store")
    store.add("before", released.path / CANDIDATE)
    store.publish(Release("before"))
    with (
        serve(released, "--model", CANDIDATE, variables=variables) as first,
        serve(released, "--model", CANDIDATE, variables=variables) as second,
    ):
        ask(first, "one")
        ask(second, "two")
    assert {record["id"] for record in log.read(store.predictions)} == {"one", "two"}
    assert [entry["champion"] for entry in store.past("release")] == ["candidate", "before"]
    assert moves.back(store, "it was worse")
    with serve(released, "--model", CANDIDATE, variables=variables) as again:  # a container that was restarted
        assert again.get("/model").json()["version"] == "before"
    (released.path / CANDIDATE / "another").touch()
    with serve(released, "--model", CANDIDATE, variables=variables) as newer:
        assert newer.get("/model").json()["version"] == "candidate"


def test_where_only_serving_is_installed_a_store_without_release_says_what_to_do(released: Project) -> None:
    store_of(released).file.unlink()
    ran = released.run("python", "-c", START.format(module=serving.__name__))
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert "is missing, and no MLflow is here to ask for the champion: run `python -m " in ran.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_replica_that_will_stop_says_so_and_answers_meanwhile(released: Project, workers: str) -> None:
    with serve(released, "--alone", "--workers", workers, "--drain", "2") as client:
        assert until(lambda: len(store_of(released).reports()) == int(workers), 30)
        (parent,) = psutil.Process().children()
        assert client.get("/health/ready").status_code == 200
        parent.terminate()
        assert until(lambda: client.get("/health/ready").status_code == 503, 1.5)
        assert client.get("/health/live").status_code == 200
        ask(client, "last")
        assert parent.wait(15) == 0
    assert [record["id"] for record in log.read(store_of(released).predictions)] == ["last"]
