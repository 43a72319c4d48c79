"""Do several replicas get along on one store: each with its own counts, all in one log, none waited for in vain?"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from flight_delays import serving
from flight_delays.serving import log, moves
from flight_delays.serving.release import Release, Store

from tests.conftest import ROOT, Project
from tests.service import serve
from tests.traffic import traffic, until

Copy = Callable[[Project], Project]
CANDIDATE = "models/candidate"
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
