"""A small copy of this very project, on a sample of its own data, that has been through its own pipeline."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from inspect import signature
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import yaml
from hypothesis import settings

from flight_delays.contract import Contract
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.reproduce import Reproduction, reproduce
from flight_delays.source import cast_column, connect, open_source, quote

if TYPE_CHECKING:
    from tests.exercise import Steps

pytest_plugins = ["pytester"]

# Examples are drawn alike in each run, and the first call of a library may take its time.
settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("project"), max_examples=20)  # to be run a hundred times
settings.load_profile("project")

ROOT = Path(__file__).parent.parent
SAMPLE_ROWS = 4_000
PERSONAL, MARKER = "a_private_name", "Marker 4711"  # in every row of the sample; its outputs are searched for it
_FILES = (
    ".dvcignore", ".gitignore", "CODEOWNERS", "Makefile",
    "contract.yaml", "dvc.yaml", "params.yaml", "pyproject.toml", "uv.lock",
)  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A project in its folder: this one, or a copy on a sample of its data.

    Attributes
    ----------
    path
        The folder, which is a git and DVC repository.
    """

    path: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder, in this environment."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run one stage of the pipeline by itself."""
        return self.run("python", "-m", f"flight_delays.pipeline.{name}")

    @property
    def contract(self) -> Contract:
        """The project's contract."""
        return Contract.read(self.path / "contract.yaml")

    @property
    def sample(self) -> Path:
        """The file that the project's data comes from."""
        return self.path / "data/raw/sample.parquet"

    def rewrite(self, query: str) -> None:
        """Replace the project's data by a query over `sample`."""
        changed = self.sample.with_suffix(".changed")
        with duckdb.connect() as connection:
            connection.execute(f"CREATE VIEW sample AS SELECT * FROM '{self.sample}'")
            connection.execute(f"COPY ({query}) TO '{changed}' (FORMAT parquet)")
        changed.replace(self.sample)

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Change a YAML file of the project."""
        path = self.path / name
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096), encoding="utf-8")


@dataclass(frozen=True)
class Assessment:
    """What the stage `assess` found.

    Attributes
    ----------
    found
        By question, what its module measured.
    """

    found: dict[str, Any]

    def require(self, question: str) -> Any:
        """Give what was found on a question, unless there are problems: then the test fails, and names them."""
        entry = self.found.get(question)
        if entry is None:
            pytest.fail(f"reports/assessment.json has no `{question}`: run `make score`", pytrace=False)
        if reason := entry.get("does_not_apply"):
            does_not_apply(reason)
        if entry["problems"]:
            pytest.fail("\n".join(entry["problems"]), pytrace=False)
        return entry


@pytest.fixture(autouse=True)
def own_registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test on a sample away from the registry of the environment, and each from that of another test."""
    own = {"project", "assessment"}.isdisjoint(request.fixturenames)
    # set, so that what MLflow makes of it is undone
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "" if own else os.environ.get("MLFLOW_TRACKING_URI", ""))


@pytest.fixture(scope="session")
def project() -> Project:
    """The very project these tests stand in, with its whole data and its trained model. Do not change it."""
    if not (ROOT / "models/candidate").is_dir():
        pytest.fail("run `make score`: there is no model in models/candidate yet", pytrace=False)
    return Project(ROOT)


@pytest.fixture(scope="session", autouse=True)
def second_run(request: pytest.FixtureRequest) -> Iterator["Future[Reproduction] | None"]:
    """The pipeline's second run, if a test asks for it: begun first and in the background, as it takes longest."""
    if not _asked(request, "reproduction"):
        yield None
        return
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool.submit(reproduce, ROOT)


@pytest.fixture(scope="session", autouse=True)
def steps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Steps | None]":
    """The exercise of README.md that adds a feature, if a test asks for it: begun in the background as well."""
    if not _asked(request, "steps"):
        yield None
        return
    from tests import exercise

    finished: Project = request.getfixturevalue("finished_project")
    project = Project(tmp_path_factory.mktemp("grown") / "project")
    shutil.copytree(finished.path, project.path, symlinks=True)
    exercise.grow(project)
    begun = exercise.begin(project)
    try:
        yield begun
    finally:
        exercise.stop(begun)


def _asked(request: pytest.FixtureRequest, fixture: str) -> bool:
    """Whether a test of this run names a fixture that others have only because it is for all."""
    return any(
        fixture in signature(item.function).parameters
        for item in request.session.items
        if isinstance(item, pytest.Function)
    )


@pytest.fixture(scope="session")
def assessment(project: Project) -> Assessment:
    """What the stage `assess` found on the whole data."""
    path = project.path / "reports/assessment.json"
    if not path.is_file():
        pytest.fail("run `make score`: there is no reports/assessment.json yet", pytrace=False)
    return Assessment(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The project's contract."""
    return Contract.read(ROOT / "contract.yaml")


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory: pytest.TempPathFactory, contract: Contract) -> Project:
    """The project on a sample of its data, before its first run. Do not change it: ask for a `copy`."""
    project = Project(tmp_path_factory.mktemp("fresh") / "project")
    for name in ("src", ".dvc/config", ".dvc/plots"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, project.path / name)
    for name in _FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, project.path / name)
    project.sample.parent.mkdir(parents=True)
    _write_sample(contract, project.sample)
    project.edit("contract.yaml", _read_from_sample)
    project.edit("params.yaml", _make_quick)
    for command in ("git init -q -b main", "dvc config core.analytics false", "git add -A"):
        assert project.run(*command.split()).returncode == 0, command
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    assert project.run("git", *identity, "commit", "-q", "-m", "Start").returncode == 0
    return project


@pytest.fixture(scope="session")
def finished_project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The sample project after `dvc repro register`. Do not change it: ask for a `copy`."""
    project = Project(tmp_path_factory.mktemp("finished") / "project")
    shutil.copytree(fresh_project.path, project.path)
    ran = project.run("dvc", "repro", "register")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return project


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Project], Project]:
    """Make a copy that a test may change."""

    def make(project: Project) -> Project:
        shutil.copytree(project.path, tmp_path / "project", symlinks=True)
        return Project(tmp_path / "project")

    return make


def _write_sample(contract: Contract, path: Path) -> None:
    """Take rows evenly over the source, in its order, and every class of the target with at least 20 rows."""
    with connect() as connection:
        os.chdir(ROOT)  # the contract's paths are relative to the project
        stored = open_source(connection, contract.server)
        columns = ", ".join(f"{cast_column(c, stored[c.name])} AS {quote(c.name)}" for c in contract.columns)
        columns += f", '{MARKER}' AS {PERSONAL}"
        connection.execute(f"CREATE TABLE numbered AS SELECT row_number() OVER () AS _row, {columns} FROM source")
        (total,) = connection.execute("SELECT count(*) FROM numbered").fetchone() or (0,)
        step = max(1, total // SAMPLE_ROWS)
        group = quote(contract.target.name) if contract.classes else "NULL"
        rare = f"row_number() OVER (PARTITION BY {group} ORDER BY _row) <= 20"
        chosen = f"SELECT * EXCLUDE (_row) FROM numbered QUALIFY _row % {step} = 0 OR {rare} ORDER BY _row"
        connection.execute(f"COPY ({chosen}) TO '{path}' (FORMAT parquet)")


def _read_from_sample(document: Any) -> None:
    document["status"] = "active"
    document["servers"] = [
        {"server": "development", "type": "local", "path": "data/raw/sample.parquet", "format": "parquet"}
    ]
    for entry in document["schema"][0]["properties"]:
        entry.get("logicalTypeOptions", {}).pop("format", None)  # the sample is stored typed
        entry["quality"] = [rule for rule in entry.get("quality", []) if rule.get("metric") == "nullValues"]
    personal = {"name": PERSONAL, "logicalType": "string", "required": True, "classification": "restricted"}
    document["schema"][0]["properties"].append(personal)


def _make_quick(document: Any) -> None:
    document["evaluate"]["resamples"] = 40
    document["train"]["hyperparameters"]["n_estimators"] = 60
    document["tune"] |= {"trials": 3, "max_rows": 1000}
