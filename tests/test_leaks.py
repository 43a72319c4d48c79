"""Would a secret be found? One is planted in each place that others read, and each place is seen clean without it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bakery import Bake, git
from leaks import LOGGED, leaks, of_project

IN_USE = "c5b3fa7e19d2" * 4
KEY = "AKIA" + "QYLPMN5HHHFPZQAB"


def as_a_file(project: Path, text: str) -> None:
    """Write it into a file that git does not know."""
    (project / "notes.txt").write_text(text)


def as_an_ignored_file(project: Path, text: str) -> None:
    """Write it among bytes that are no text, where git does not look."""
    (project / ".gitignore").write_text("models/\n")
    (project / "models").mkdir()
    (project / "models/model.bin").write_bytes(b"\0" + text.encode())


def as_history(project: Path, text: str) -> None:
    """Commit it, and remove it again."""
    (project / "settings.ini").write_text(text)
    git(project, "add", "settings.ini")
    git(project, "commit", "--quiet", "--message", "Add")
    git(project, "rm", "--quiet", "settings.ini")
    git(project, "commit", "--quiet", "--message", "Remove")


def as_a_branch(project: Path, text: str) -> None:
    """Commit it on a branch that was left."""
    git(project, "checkout", "--quiet", "-b", "other")
    as_history(project, text)
    git(project, "checkout", "--quiet", "main")


def as_a_message(project: Path, text: str) -> None:
    """Say it in a commit's message."""
    git(project, "commit", "--quiet", "--allow-empty", "--message", text)


def test_a_new_project_has_no_secret_in_files_and_history(bake: Bake) -> None:
    project = bake(project_name="Corner Shop")
    assert of_project(project, [IN_USE]) == []


@pytest.mark.parametrize(
    ("plant", "text", "what"),
    [
        (as_a_file, f"key = '{KEY}'\n", "notes.txt: AWS Access Key, line 1"),
        (as_a_file, f"nothing here but {IN_USE}\n", "notes.txt: c5b3…, which is in use"),
        (as_an_ignored_file, IN_USE, "models/model.bin: c5b3…, which is in use"),
        (as_history, f"key = '{KEY}'\n", "settings.ini: AWS Access Key, line 1"),
        (as_history, f"nothing here but {IN_USE}\n", "settings.ini: c5b3…, which is in use"),
        (as_a_branch, f"key = '{KEY}'\n", "settings.ini: AWS Access Key, line 1"),
        (as_a_message, f"Use {KEY}", "messages of commits: AWS Access Key, line 2"),
    ],
)
def test_a_secret_is_found_where_it_was_planted(tmp_path: Path, plant: Callable[[Path, str], None], text: str, what: str) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Start")
    assert of_project(tmp_path, [IN_USE]) == []
    plant(tmp_path, text)
    assert any(found.endswith(what) for found in of_project(tmp_path, [IN_USE]))


@pytest.mark.parametrize(
    "line",
    [
        "connecting to postgresql://mlflow:Xk29fLq0p@db/mlflow",
        f'{{"message": "opened with {IN_USE}"}}',
        f'{{"message": "AWS_ACCESS_KEY_ID={KEY}"}}',
        "password = 'correct-horse-battery'",
    ],
)
def test_a_secret_in_a_log_is_found_among_ids(line: str) -> None:
    ids = '{"trace": {"id": "4bf92f3577b34da6a3ce929d0e0e4736"}, "http": {"request": {"id": "9f86d081884c7d65"}}}'
    assert leaks([("service.log", ids.encode())], [IN_USE], without=LOGGED) == []
    assert leaks([("service.log", f"{ids}\n{line}\n".encode())], [IN_USE], without=LOGGED)
