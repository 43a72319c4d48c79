"""Does one command go back to the last model under full load, quickly, and is every request answered meanwhile?"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import golden
from flight_delays.errors import InputError
from flight_delays.serving import control, moves
from flight_delays.serving.release import Store
from flight_delays.tracking import Registry

from tests import candidates
from tests.conftest import ROOT, Project
from tests.service import environment, serve, wait_for_workers
from tests.traffic import traffic

Copy = Callable[[Project], Project]
WORKERS = 2
SECONDS = 5.0  # until all workers have switched; a tenth of it is usual
_AWAY = "http://127.0.0.1:9"  # where no registry is


@pytest.fixture
def promoted(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, in the current folder, whose second version has followed the first as champion."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("SERVING_DIR", raising=False)
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    client.set_model_version_tag(project.contract.id, "1", "gate", "passed")
    model = candidates.good(project.contract, candidates.load_rows(project))
    folder = candidates.save(project, model, project.path / "models/good")
    store, known = Store(), Registry(project.contract.id)
    for number in ("1", candidates.register(project, folder)):
        version = known.version(number)
        known.promote(version)
        control.fetch(store, known, version)
        moves.serve(store, number, version.tags, "test")
    return project


def roll_back(
    project: Project, client: httpx.Client, workers: int = WORKERS, source: Path | None = None, registry: str = ""
) -> subprocess.CompletedProcess[str]:
    """Go back by the command of `make rollback` while rows are sent; every request must be answered."""
    variables = environment(source) | ({"MLFLOW_TRACKING_URI": registry} if registry else {})
    command = [sys.executable, "-m", control.__name__, "rollback"]
    wait_for_workers(project, workers)
    with traffic(client, project) as sent:
        ran = subprocess.run(command, cwd=project.path, env=variables, capture_output=True, text=True, check=False)
    sent.require_answers("during the rollback")
    assert set(sent.answers.values()) == {"1", "2"}
    return ran


def require_switched(ran: subprocess.CompletedProcess[str], workers: int = WORKERS) -> None:
    """Require that the command says that all workers switched, and soon enough."""
    found = re.search(r"version 1 answers all requests: (\d+) workers switched in ([\d.]+) s", ran.stdout)
    if found is None:
        pytest.fail(f"the rollback did not reach all workers: {ran.stderr.strip()}", pytrace=False)
    assert int(found[1]) == workers
    if float(found[2]) > SECONDS:
        pytest.fail(f"the rollback took {found[2]} s, {SECONDS:.0f} are allowed", pytrace=False)


@pytest.mark.slow
@pytest.mark.ml_test("infra-7")
def test_one_command_goes_back_under_load_and_no_request_fails(promoted: Project) -> None:
    with serve(promoted, "--workers", str(WORKERS), "--alone") as client:
        ran = roll_back(promoted, client)
        require_switched(ran)
        assert ran.returncode == 0, ran.stderr
        assert client.get("/health/ready").json()["model"]["version"] == "1"
    champion = Registry(promoted.contract.id).champion()
    assert champion
    assert champion.number == "1"
    now = Store().read()
    assert now
    assert (now.champion, now.previous, now.pending) == ("1", "2", "")


def spoil(folder: Path, name: str, before: str, after: str) -> Path:
    """Copy the package's source, and change a line of it; the command waits less."""
    shutil.copytree(ROOT / "src", folder)
    place = folder / Path(*control.__name__.split(".")[:-1])
    for file, old, new in ((name, before, after), ("control.py", "WAIT_SECONDS = 20.0", "WAIT_SECONDS = 3.0")):
        text = (place / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: {old}"
        (place / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder


@pytest.mark.sabotage(
    of=test_one_command_goes_back_under_load_and_no_request_fails,
    fault="a worker restarts in order to load another model",
)
def test_a_restart_in_the_midst_of_requests_is_counted(promoted: Project, tmp_path: Path) -> None:
    restart = "Lane.__call__ = lambda *_: __import__('os')._exit(1)"  # with the next request, so that one is under way
    source = spoil(tmp_path / "src", "worker.py", "rest.build()\n        metrics", f"{restart}\n        metrics")
    with (
        serve(promoted, "--workers", str(WORKERS), "--alone", source=source) as client,
        pytest.raises(pytest.fail.Exception, match=r"of [\d,]+ requests failed during the rollback: "),
    ):
        roll_back(promoted, client, source=source)


@pytest.mark.sabotage(
    of=test_one_command_goes_back_under_load_and_no_request_fails,
    fault="workers look far too rarely at what they should serve",
)
def test_a_worker_that_does_not_follow_is_named(promoted: Project, tmp_path: Path) -> None:
    source = spoil(tmp_path / "src", "roles.py", "WATCH_SECONDS = 0.1", "WATCH_SECONDS = 600")
    with (
        serve(promoted, "--workers", str(WORKERS), "--alone", source=source) as client,
        traffic(client, promoted),
    ):
        wait_for_workers(promoted, WORKERS)
        command = [sys.executable, "-m", control.__name__, "rollback"]
        ran = subprocess.run(
            command, cwd=promoted.path, env=environment(source), capture_output=True, text=True, check=False
        )
    with pytest.raises(pytest.fail.Exception, match=r"all workers: error: worker \d+ does not serve version 1 yet"):
        require_switched(ran)


def test_without_the_registry_it_goes_back_all_the_same_and_the_registry_hears_of_it_later(promoted: Project) -> None:
    with serve(promoted, "--alone") as client:
        ran = roll_back(promoted, client, 1, registry=_AWAY)
        require_switched(ran, 1)
        assert client.get("/health/ready").json()["model"]["version"] == "1"
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert ran.stderr.startswith("error: the registry is not told yet")
    store, known = Store(), Registry(promoted.contract.id)
    now, champion = store.read(), known.champion()
    assert now
    assert champion
    assert (now.pending, champion.number) == (moves.CHAMPION, "2")
    release, champion = control.sync(store), known.champion()
    assert champion
    assert (release.champion, champion.number) == ("1", "1")


def test_what_is_not_sound_is_not_gone_back_to(finished_project: Project, tmp_path: Path) -> None:
    store = Store(tmp_path / "serving")
    for number in ("1", "2"):
        store.add(number, finished_project.path / "models/candidate")
        moves.serve(store, number, {}, "test")
    _break(store.model("1"))
    with pytest.raises(InputError, match=r"version 1 cannot be served: .* golden rows are answered otherwise"):
        control.rollback(store, "asked for")
    now = store.read()
    assert now
    assert (now.champion, now.previous, now.reason) == ("2", "1", "version 1 cannot be served")


def _break(folder: Path) -> None:
    """Change the golden answers of a model, as if the model had changed."""
    path = folder / golden.FILE
    stored = pq.read_table(path)
    changed = [[value + 1 for value in output] for output in stored["output"].to_pylist()]
    pq.write_table(stored.set_column(1, "output", pa.array(changed)), path)
