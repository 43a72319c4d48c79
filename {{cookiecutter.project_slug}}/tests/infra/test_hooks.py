"""Does git refuse what must not be committed? The project's own files pass; each fault, planted, is named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project

NOTEBOOK = {
    "cells": [{
        "cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "source": ["1 + 1"],
        "outputs": [
            {"data": {"text/plain": ["2"]}, "execution_count": 1, "metadata": {}, "output_type": "execute_result"},
        ],
    }],
    "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
}  # fmt: skip
SECRET = "aws_access_key_id = 'AKIA" + "QYLPMN5HHHFPZQAB'\n"
SMALL = (
    ".gitignore", ".pre-commit-config.yaml", "Makefile",
    "contract.yaml", "params.yaml", "pyproject.toml",
    "src/flight_delays/errors.py", "tests/__init__.py",
)  # fmt: skip


def write(name: str, content: str) -> Callable[[Path], None]:
    """Plant a file."""

    def plant(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")

    return plant


def spoil_contract(folder: Path) -> None:
    """Plant a role that there is not."""
    text = (folder / "contract.yaml").read_text(encoding="utf-8")
    assert "target" in text
    (folder / "contract.yaml").write_text(text.replace("target", "tarrget"), encoding="utf-8")


def change_data(folder: Path) -> None:
    """Change one letter of what DVC knows."""
    write("data/raw/shop.csv", "a,b\n1,3\n")(folder)


NEW = "src/flight_delays/new.py"
FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "unformatted code": ("format", write(NEW, '"""New."""\nx  =  1\n'), "new.py"),
    "a lint error": ("lint", write(NEW, '"""New."""\n\nimport os\n'), "F401"),
    "a type error": ("types", write(NEW, '"""New."""\n\nx: int = "one"\n'), "new.py:3"),
    "a secret": ("secrets", write("settings.ini", SECRET), "settings.ini:1"),
    "a broken contract": ("contract", spoil_contract, "error: contract.yaml: "),
    "changed data": ("data", change_data, "error: data/raw/shop.csv is not what data/raw/shop.csv.dvc says"),
    "new data": ("data", write("data/raw/more.csv", "a\n1\n"), "error: data/raw/more.csv is new to DVC"),
    "a damaged pointer": ("data", write("data/raw/shop.csv.dvc", "outs: 3\n"), "shop.csv.dvc is damaged"),
    "data for git": ("outside", write("more.csv", "a\n1\n"), "dvc add"),
    "a model for git": ("outside", write("model.skops", "model"), "dvc add"),
    "a notebook's output": ("notebooks", write("look.ipynb", json.dumps(NOTEBOOK, indent=1)), "look.ipynb"),
    "a large file": ("large", write("large.txt", "words\n" * 200_000), "large.txt"),
    "a conflict": ("merge", write("notes.md", "<<<<<<< HEAD\n"), "notes.md:1"),
    "broken JSON": ("json", write("broken.json", "{"), "broken.json"),
    "broken TOML": ("toml", write("broken.toml", "["), "broken.toml"),
    "broken YAML": ("yaml", write("broken.yaml", "a: [\n"), "broken.yaml"),
}  # fmt: skip


def pointer_to(content: str) -> str:
    """Write what `dvc add` writes."""
    digest = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
    return f"outs:\n- md5: {digest}\n  size: {len(content)}\n  hash: md5\n  path: shop.csv\n"


def copied(folder: Path, names: list[str]) -> Project:
    """Make a repository of some of this project's files, with this environment."""
    for name in filter(os.path.isfile, (ROOT / name for name in names)):
        (folder / Path(name).relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, folder / Path(name).relative_to(ROOT))
    (folder / ".venv").symlink_to(sys.prefix)
    project = Project(folder)
    git(project, "init", "-q", "-b", "main")
    git(project, "config", "core.excludesFile", os.devnull)
    with (folder / ".git/info/exclude").open("a") as excluded:
        excluded.write(".venv\n")
    git(project, "add", "-A")
    return project


def git(project: Project, *arguments: str) -> None:
    """Run git, as somebody."""
    someone = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    done = project.run("git", *someone, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def commit(project: Project) -> subprocess.CompletedProcess[str]:
    """Try to commit what is staged, as a person does whose shell knows nothing of the environment."""
    someone = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"PATH": os.defpath}
    return subprocess.run(
        ["git", *someone, "commit", "-q", "-m", "Change"],
        cwd=project.path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _own_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings of whoever runs this, nor a commit that this runs in, reach the copy."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("PREK_HOME", str(tmp_path / "prek"))


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """A small repository with this project's hooks, and data that DVC knows."""
    project = copied(tmp_path / "project", list(SMALL))
    write("data/raw/shop.csv", "a,b\n1,2\n")(project.path)
    write("data/raw/shop.csv.dvc", pointer_to("a,b\n1,2\n"))(project.path)
    git(project, "add", "-A")
    return project


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused_and_named(small: Project, fault: str) -> None:
    hook, plant, words = FAULTS[fault]
    before = small.run("prek", "run", "--all-files", hook)
    assert before.returncode == 0, before.stdout + before.stderr
    plant(small.path)
    git(small, "add", "-A")
    done = small.run("prek", "run", "--all-files", hook)
    assert done.returncode == 1, done.stdout + done.stderr
    assert words in done.stdout
    assert "Traceback" not in done.stdout


def test_every_hook_has_a_fault_here(small: Project) -> None:
    listed = small.run("prek", "list", "--output-format", "json")
    assert {hook["id"] for hook in json.loads(listed.stdout)} == {hook for hook, _, _ in FAULTS.values()}


def test_a_contract_that_waits_for_its_data_passes(small: Project) -> None:
    text = """\
apiVersion: v3.1.0
kind: DataContract
id: shop
version: 1.0.0
status: draft
servers: [{server: development, type: local, path: data/raw/shop.csv, format: csv}]
schema: [{name: shop, properties: [{name: sold, tags: [target]}]}]
"""
    write("contract.yaml", text)(small.path)
    done = small.run("prek", "run", "--all-files", "contract")
    assert done.returncode == 0, done.stdout + done.stderr


def test_git_refuses_a_fault_and_lets_a_good_change_pass(small: Project) -> None:
    installed = small.run("prek", "install")
    assert installed.returncode == 0, installed.stderr
    good = commit(small)
    assert good.returncode == 0, good.stdout + good.stderr
    write("settings.ini", SECRET)(small.path)
    git(small, "add", "-A")
    refused = commit(small)
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "settings.ini:1" in refused.stdout + refused.stderr
    write("settings.ini", "region = eu\n")(small.path)
    git(small, "add", "-A")
    mended = commit(small)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert small.run("git", "status", "--porcelain").stdout == ""


def test_a_commit_that_leaves_the_new_pointer_out_is_refused(small: Project) -> None:
    assert small.run("prek", "install").returncode == 0
    assert commit(small).returncode == 0
    change_data(small.path)
    write("data/raw/shop.csv.dvc", pointer_to("a,b\n1,3\n"))(small.path)
    write("notes.md", "Notes\n")(small.path)
    git(small, "add", "notes.md")
    refused = commit(small)
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "run `dvc add data/raw/shop.csv`, and commit" in refused.stdout + refused.stderr
    git(small, "add", "data/raw/shop.csv.dvc")
    whole = commit(small)
    assert whole.returncode == 0, whole.stdout + whole.stderr


@pytest.mark.parametrize(
    ("surroundings", "hooks_path", "expected"),
    [({}, "", True), ({"CI": "true"}, "", False), ({}, "/nowhere", False)],
    ids=["at a desk", "in CI", "with hooks elsewhere"],
)
def test_setup_lets_git_ask_only_where_that_is_wanted(
    small: Project, monkeypatch: pytest.MonkeyPatch, surroundings: dict[str, str], hooks_path: str, expected: bool
) -> None:
    monkeypatch.delenv("CI", raising=False)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    if hooks_path:
        git(small, "config", "core.hooksPath", hooks_path)
    monkeypatch.setenv("UV_NO_SYNC", "1")  # this environment serves the copy as well
    recipe = small.run("make", "--no-print-directory", "hook")
    assert recipe.returncode == 0, recipe.stdout + recipe.stderr
    assert (small.path / ".git/hooks/pre-commit").is_file() == expected
