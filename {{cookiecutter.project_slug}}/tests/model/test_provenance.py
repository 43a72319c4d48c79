"""Can the served model be traced to what was reviewed and committed?"""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flight_delays.contract import Contract
from flight_delays.pipeline import register
from flight_delays.tracking import Registry, Version

from tests.conftest import Project

MAKE_AGAIN = "commit, then run `make register`"


def served(project: Project, monkeypatch: pytest.MonkeyPatch) -> Version:
    """Give the version that the registry serves."""
    monkeypatch.chdir(project.path)
    registry = Registry(project.contract.id)
    champion = registry.champion()
    if champion is None:
        newest = registry.find_version({})
        reason = newest.tags["gate.reason"] if newest else "no model was registered: run `make pipeline`"
        pytest.fail(f"there is no champion: {reason}", pytrace=False)
    return champion


def in_commit(project: Project, commit: str, name: str) -> bytes | None:
    """Give a file's content in a commit."""
    shown = subprocess.run(["git", "show", f"{commit}:./{name}"], cwd=project.path, capture_output=True, check=False)
    return shown.stdout if shown.returncode == 0 else None


@pytest.mark.ml_test("model-1")
def test_all_that_the_champion_was_made_of_is_in_git(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = served(project, monkeypatch)
    tags, commit = version.tags, version.tags["git.commit"]
    faults = []
    if tags["git.dirty"] != "false":
        faults.append(f"was made from files that were not committed: {MAKE_AGAIN}")
    if project.run("git", "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        faults.append(f"names commit {commit[:7]}, which is not in this repository: {MAKE_AGAIN}")
    for name, tag in (("params.yaml", "params"), ("uv.lock", "uv.lock")):
        content = in_commit(project, commit, name)
        if content is None or hashlib.sha256(content).hexdigest() != tags.get(tag):
            faults.append(f"was made with another {name} than commit {commit[:7]} holds: {MAKE_AGAIN}")
    (tmp_path / "contract.yaml").write_bytes(in_commit(project, commit, "contract.yaml") or b"")
    if not (tmp_path / "contract.yaml").stat().st_size or _digest(tmp_path / "contract.yaml") != tags["contract"]:
        faults.append(f"was made with another contract.yaml than commit {commit[:7]} holds: {MAKE_AGAIN}")
    if tags["dvc.lock"] not in _committed_locks(project):
        faults.append("no commit holds the dvc.lock of its run: `git add dvc.lock reports`, and commit")
    if faults:
        pytest.fail("\n".join(f"version {version.number} {fault}" for fault in faults), pytrace=False)


def _digest(path: Path) -> str:
    return Contract.read(path).digest


def _committed_locks(project: Project) -> set[str]:
    listed = project.run("git", "log", "--all", "--max-count=200", "--format=%H", "--", "dvc.lock").stdout.split()
    return {
        register.lock_digest(content.decode())
        for commit in listed
        if (content := in_commit(project, commit, "dvc.lock"))
    }


@pytest.mark.ml_test("model-1")
def test_somebody_reviews_each_change_of_what_makes_the_model(project: Project) -> None:
    rules = project.path / "CODEOWNERS"
    lines = rules.read_text(encoding="utf-8").splitlines() if rules.exists() else []
    owned = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not any(words[0] == "*" and len(words) > 1 for words in owned):
        pytest.fail(
            "CODEOWNERS names nobody for all files: write `* @who-reviews`, and protect the branch", pytrace=False
        )
    if project.run("git", "ls-files", "--error-unmatch", "CODEOWNERS").returncode:
        pytest.fail("CODEOWNERS is not in git: commit it", pytrace=False)


def committed(project: Project) -> Project:
    """Commit what the run left, as a person does."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    project.run("git", "add", "--all")
    project.run("git", *identity, "commit", "--quiet", "--message", "Run the pipeline")
    return project


@pytest.fixture
def made(finished_project: Project, copy: Callable[[Project], Project]) -> Project:
    """The sample project, its run committed."""
    return committed(copy(finished_project))


@pytest.mark.sabotage(
    of=test_all_that_the_champion_was_made_of_is_in_git,
    fault="a parameter is changed without a commit before training",
)
def test_a_model_from_a_dirty_tree_is_marked_and_production_refuses_it(
    made: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    test_all_that_the_champion_was_made_of_is_in_git(made, monkeypatch, tmp_path)
    made.edit("params.yaml", lambda document: document["train"].update(seed=1))
    assert made.run("dvc", "repro", "evaluate").returncode == 0
    monkeypatch.setenv("TIER", "production")
    refused = made.stage("register")
    assert "REFUSED: not made from a clean commit" in " ".join(refused.stdout.split()), refused.stdout + refused.stderr
    monkeypatch.delenv("TIER")
    made.edit("params.yaml", lambda document: document["register"].update(tolerance=1.0))
    ran = made.stage("register")
    assert "champion" in ran.stdout, ran.stdout
    with pytest.raises(pytest.fail.Exception, match=r"files that were not committed.*make register"):
        test_all_that_the_champion_was_made_of_is_in_git(made, monkeypatch, tmp_path)


@pytest.mark.sabotage(
    of=test_all_that_the_champion_was_made_of_is_in_git,
    fault="the history is rewritten: commit and lock are gone",
)
def test_a_lost_history_is_noticed(made: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for command in ("rm -rf .git", "git init -q -b main", "git add contract.yaml"):
        assert made.run(*command.split()).returncode == 0
    with pytest.raises(pytest.fail.Exception, match=r"not in this repository[\s\S]*no commit holds the dvc.lock"):
        test_all_that_the_champion_was_made_of_is_in_git(made, monkeypatch, tmp_path)


@pytest.mark.sabotage(
    of=test_somebody_reviews_each_change_of_what_makes_the_model,
    fault="the only rule that names a reviewer is removed",
)
def test_a_project_without_reviewers_is_noticed(made: Project) -> None:
    (made.path / "CODEOWNERS").write_text("# * @nobody\n", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match="CODEOWNERS names nobody"):
        test_somebody_reviews_each_change_of_what_makes_the_model(made)


def test_once_committed_a_model_is_registered_from_the_commit(
    made: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first run of a new project is not committed yet; committing and `make register` mends that."""
    first = served(made, monkeypatch)
    made.edit("params.yaml", lambda document: document["tune"].update(trials=4))
    register.main()
    assert f"version {first.number}," in capsys.readouterr().out, "the same model is not registered twice"
    stages = yaml.safe_load((made.path / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert "register" in stages
