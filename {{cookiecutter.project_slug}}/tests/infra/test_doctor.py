"""Does `make doctor` see each thing that a machine or a tier lacks, in a line, and say what to type?"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flight_delays.serving.guard import make_key
from flight_delays.settings import INSISTS, NEEDS, PRODUCTION
from flight_delays.tiers import doctor
from flight_delays.tiers.checks import Finding, faults, look
from flight_delays.tracking import Registry, Version

from tests.releasing import Releasable, pass_the_gate

Plant = Callable[[Releasable], None]


def one(name: str, tier: str = PRODUCTION) -> Finding:
    """Run one check."""
    return look([name], tier)[name]


def test_a_project_that_is_ready_lacks_nothing_that_it_has_itself(ready: Releasable) -> None:
    pass_the_gate(ready)
    found = look((NEEDS | INSISTS).keys() - {"docker", "promtool", "disk", "secrets", "tracking"}, "integration")
    assert {name: finding.found for name, finding in found.items() if not finding.ok} == {}


def write(name: str, old: str, new: str) -> Plant:
    """Replace words in a file of the ready."""

    def plant(ready: Releasable) -> None:
        path = ready.path / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return plant


def stray(ready: Releasable) -> None:
    (ready.path / "stray.txt").write_text("left")


def lost(name: str) -> Plant:
    """Take a file away from the remote."""

    def plant(ready: Releasable) -> None:
        digest = hashlib.md5((ready.path / name).read_bytes(), usedforsecurity=False).hexdigest()  # as DVC names it
        (path,) = ready.store.rglob(digest[2:])
        path.rename(path.with_suffix(".lost"))

    return plant


def untracked(ready: Releasable) -> None:
    ready.sample.rename(ready.sample.with_name("new.parquet"))
    ready.edit("contract.yaml", lambda document: document["servers"][0].update(path="data/raw/new.parquet"))


def nowhere(ready: Releasable) -> None:
    (ready.path / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")


FAULTS: dict[str, tuple[str, Plant, str]] = {
    "a changed parameter": ("sources", write("params.yaml", "seed: 0", "seed: 1"), "committed: params.yaml"),
    "a stray file": ("tree", stray, "not committed: stray.txt"),
    "a lock file out of step": ("environment", write("pyproject.toml", "numpy>=2.3", "numpy>=2.2"), "uv.lock is not"),
    "another Python": ("python", write("pyproject.toml", 'python = "==', 'python = "==2.'), "wanted ==2."),
    "a contract that nobody read": ("review", write("contract.yaml", "status: active", "status: draft"), "nobody has"),
    "a contract that was changed since": ("review", write("contract.yaml", "name:", "name:  "), "is not as it was"),
    "a contract that is none": ("contract", write("contract.yaml", "tags:", "tagged:"), "contract.yaml"),
    "no room": ("disk", write("params.yaml", "gigabytes: 5", "gigabytes: 900000000"), "GB free, 900000000 wanted"),
    "a file that is not in the remote": ("remote", lost("data/test.parquet"), "(default): data/test.parquet"),
    "one of a folder": ("remote", lost("models/candidate/model.json"), "(default): models/candidate/model.json"),
    "data that DVC does not know": ("remote", untracked, "data/raw/new.parquet is not tracked"),
    "no remote": ("remote", nowhere, "remote (default)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_project_is_seen(ready: Releasable, fault: str) -> None:
    name, plant, words = FAULTS[fault]
    plant(ready)
    try:
        found = one(name)
    finally:
        (ready.path / "stray.txt").unlink(missing_ok=True)
        for path in ready.store.rglob("*.lost"):
            path.rename(path.with_suffix(""))
        if (moved := ready.sample.with_name("new.parquet")).exists():
            moved.rename(ready.sample)
    assert not found.ok, found
    assert words in found.found
    assert "\n" not in found.found
    assert found.do or name == "contract"


def test_a_stray_file_is_no_change_of_the_sources(ready: Releasable) -> None:
    stray(ready)
    try:
        assert one("sources").ok
    finally:
        (ready.path / "stray.txt").unlink()


@pytest.mark.usefixtures("ready")
def test_an_environment_without_the_locked_libraries_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "uv", "venv", "--quiet", str(tmp_path / "empty")], check=True)
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(tmp_path / "empty"))
    found = one("environment")
    assert not found.ok
    assert found.found.startswith("not installed as uv.lock says: ")


@pytest.mark.usefixtures("ready")
def test_keys_are_counted_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one("secrets").found == "API_KEYS is not set"
    entries = [make_key("a")[1], make_key("b")[1]]
    monkeypatch.setenv("API_KEYS", ",".join(entries))
    assert one("secrets") == Finding(True, "API_KEYS holds 2")
    monkeypatch.setenv("API_KEYS", "a:swordfish")
    found = one("secrets")
    assert not found.ok
    assert "swordfish" not in found.found


@pytest.mark.usefixtures("ready")
def test_a_file_is_no_server_and_one_that_is_away_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one("tracking").found == "runs and models are in a file on this machine"
    assert one("tracking").do == "set MLFLOW_TRACKING_URI or MLFLOW_TRACKING_URI_PRODUCTION"
    monkeypatch.setenv("MLFLOW_TRACKING_URI_PRODUCTION", "http://me:swordfish@127.0.0.1:9")  # pragma: allowlist secret
    for name in ("tracking", "model"):
        found = one(name)
        assert not found.ok
        assert "MLflow at http://127.0.0.1:9 does not answer" in found.found
        assert "swordfish" not in found.found


def test_a_model_that_must_not_leave_development_is_seen(ready: Releasable) -> None:
    assert one("model").found == f"no version of {ready.contract.id} is production"
    good = {"gate": "passed", "git.dirty": "false"}
    assert faults(Version("1", "", good)) == []
    for planted, words in (
        ({"gate": "refused", "gate.reason": "it is no better"}, "has not passed the gate (it is no better)"),
        ({"refused.live": "it is slow"}, "was refused on live requests (it is slow)"),
        ({"git.dirty": "true"}, "was not made from a clean commit"),
    ):
        (fault,) = faults(Version("1", "", good | planted))
        assert words in fault
    pass_the_gate(ready)
    registry = Registry(ready.contract.id)
    champion = registry.champion()
    assert champion is not None
    registry.tag(champion, {"gate": "refused"})
    found = one("model", "integration")
    assert not found.ok
    assert "is champion, and it has not passed the gate" in found.found


def test_a_command_that_does_not_come_back_is_left(
    ready: Releasable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.edit("params.yaml", lambda document: document["doctor"].update(seconds=1))
    (tmp_path / "docker").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert one("docker").found == "`docker info --format` took more than 1 s"


def test_a_machine_without_git_docker_and_network_gets_lines_and_a_failure(ready: Releasable, tmp_path: Path) -> None:
    key, entry = make_key("shop")
    alone = {"PATH": str(tmp_path), "HOME": str(tmp_path), "TIER": "production", "API_KEYS": entry, "API_KEY": key}
    alone |= {"MLFLOW_TRACKING_URI": "http://me:swordfish@127.0.0.1:9", "UV_OFFLINE": "1"}  # pragma: allowlist secret
    ran = subprocess.run(
        [sys.executable, "-m", doctor.__name__],
        cwd=ready.path,
        env=alone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    for line in ("git is not installed", "docker is not installed", "does not answer"):
        assert line in ran.stdout
    assert ran.stderr.startswith("error: production lacks git, ")
    said = ran.stdout + ran.stderr
    assert not [secret for secret in ("swordfish", key, entry.partition(":")[2]) if secret in said]


def test_what_a_tier_does_not_insist_on_fails_nobody() -> None:
    lacking = Finding(False, "none")
    assert doctor.state("secrets", lacking, "development") == doctor.NOT_NEEDED
    assert doctor.state("secrets", lacking, "production") == doctor.LACKS
    assert doctor.state("secrets", Finding(True, "one"), "production") == doctor.OK
