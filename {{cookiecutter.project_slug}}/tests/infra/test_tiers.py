"""Are the three tiers one table and one module of settings, and does each read its own rows?"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from flight_delays import gate, settings
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.infer.document import Document
from flight_delays.tiers.checks import CHECKS

from tests.conftest import ROOT, Project

SOURCE = ROOT / "src"
BETWEEN_OUR_OWN = {"leaving.py"}  # a variable that one process of the service sets for the others
OF_CI = {"pull_request.py"}  # stands alone, and asks for what CI sets
OF_THE_SYSTEM = {"PATH"}


def reads(code: str) -> Iterator[str]:
    """Name the variables of the environment that code reads."""
    for node in ast.walk(ast.parse(code)):
        asked: ast.expr | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.environ.get", "os.getenv", "environ.get"}:
            asked = node.args[0]
        elif (
            isinstance(node, ast.Subscript)
            and ast.unparse(node.value) in {"os.environ", "environ"}
            and isinstance(node.ctx, ast.Load)
        ):
            asked = node.slice
        if asked is not None:
            yield str(asked.value) if isinstance(asked, ast.Constant) else ast.unparse(asked)


def test_only_the_settings_read_what_the_environment_says() -> None:
    found = {
        f"{path.name}: {name}"
        for path in SOURCE.rglob("*.py")
        if path.name not in {"settings.py", *BETWEEN_OUR_OWN, *OF_CI}
        for name in reads(path.read_text(encoding="utf-8"))
        if name not in OF_THE_SYSTEM
    }
    assert not found


def test_a_module_that_reads_the_environment_by_itself_is_noticed() -> None:
    assert list(reads('import os\nos.environ["A"]\nos.environ.get(B)\nos.getenv("C", "")')) == ["A", "B", "C"]
    assert list(reads('import os\nos.environ["A"] = "1"\nown = os.environ | {}')) == []


def test_a_variable_that_the_settings_do_not_explain_cannot_be_read() -> None:
    with pytest.raises(KeyError):
        settings.given("TEIR")


def test_every_check_that_a_tier_insists_on_is_there_and_the_stricter_tier_drops_none() -> None:
    table = settings.NEEDS | settings.INSISTS
    assert table.keys() == CHECKS.keys()
    assert not settings.NEEDS.keys() & settings.INSISTS.keys()
    for name, tiers in settings.INSISTS.items():
        assert set(tiers) <= set(settings.TIERS), name
        assert settings.DEVELOPMENT not in tiers, name
        assert settings.PRODUCTION in tiers, name


def test_a_tier_has_its_own_registry_remote_and_place_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TIER", "DVC_REMOTE", "IMAGES", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert settings.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://all")
    monkeypatch.setenv("MLFLOW_TRACKING_URI_PRODUCTION", "http://own")
    assert [settings.tracking_uri(tier) for tier in settings.TIERS] == ["http://all", "http://all", "http://own"]
    monkeypatch.setenv("TIER", "production")
    assert settings.tracking_uri() == "http://own"

    assert settings.remote() == ""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n  remote = store\n['remote \"production\"']\n  url = /there\n")
    assert [settings.remote(tier) for tier in settings.TIERS] == ["", "", "production"]
    monkeypatch.setenv("DVC_REMOTE", "elsewhere")
    assert settings.remote() == "elsewhere"

    assert settings.image("abc").endswith("-serve:abc")
    assert "/" not in settings.image("abc")
    monkeypatch.setenv("IMAGES", "ghcr.io/org/")
    assert settings.image("abc").startswith("ghcr.io/org/")
    assert "//" not in settings.image("abc")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db:5432/mlflow", "postgresql://db:5432/mlflow"),  # pragma: allowlist secret
        ("https://me:s@crt@host/x", "https://host/x"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert settings.without_password(uri) == shown


@pytest.fixture
def several(fresh_project: Project, copy: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """The sample project with half of its rows behind a server of production."""
    project = copy(fresh_project)
    own = {"server": "warehouse", "environment": "production", "type": "local", "path": "data/raw/own.parquet"}
    project.edit("contract.yaml", lambda document: document["servers"].append(own | {"format": "parquet"}))
    with duckdb.connect() as connection:
        half = f"SELECT * FROM '{project.sample}' USING SAMPLE 50% (bernoulli, 0)"
        connection.execute(f"COPY ({half}) TO '{project.path}/data/raw/own.parquet' (FORMAT parquet)")
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("TIER", raising=False)
    return project


def test_each_tier_reads_its_own_server_and_the_first_where_it_has_none(
    several: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for tier, server in (("development", "development"), ("integration", "development"), ("production", "warehouse")):
        monkeypatch.setenv("TIER", tier)
        assert Contract.read().server.server == server
        assert Document(Path("contract.yaml")).server["server"] == server  # what `make contract` compares with
        ran = several.stage("ingest")
        assert ran.returncode == 0, ran.stderr
        file = pq.ParquetFile("data/rows.parquet")
        assert file.schema_arrow.metadata[b"server"].decode() == server
        counts[tier] = file.metadata.num_rows
    assert counts["development"] == counts["integration"] > counts["production"] > 0


def test_a_model_of_another_tiers_rows_is_refused(several: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "production")
    contract = several.contract
    verdict = gate.is_of_this_tier({"server": "development"}, contract, "production")
    assert not verdict.passed
    assert verdict.reason.endswith("`make pipeline TIER=production` reads them anew")
    for server in ("warehouse", ""):  # of rows that were read before servers were written down, nothing is known
        assert gate.is_of_this_tier({"server": server}, contract, "production").passed


def test_a_server_for_development_that_is_not_the_first_is_refused(several: Project) -> None:
    def turn(document: Any) -> None:
        document["servers"].reverse()

    several.edit("contract.yaml", turn)
    with pytest.raises(InputError, match="`servers` must begin with the one for development"):
        Contract.read()


@pytest.mark.parametrize(("tier", "passed"), [("development", True), ("integration", False), ("production", False)])
def test_a_model_from_uncommitted_sources_stays_in_development(tier: str, passed: bool) -> None:
    assert gate.is_traceable({"git.dirty": "true", "git.commit": "none"}, tier).passed is passed


def test_make_reads_the_rows_anew_only_where_there_are_several_servers_and_a_tier_is_named(
    several: Project, fresh_project: Project
) -> None:
    forced = "dvc repro --force --single-item ingest"
    assert forced in several.run("make", "-n", "pipeline", "TIER=production").stdout
    assert forced not in several.run("make", "-n", "pipeline").stdout
    assert forced not in fresh_project.run("make", "-n", "pipeline", "TIER=production").stdout
