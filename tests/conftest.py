"""What do all tests stand on? A clean export of this working tree, and one way to generate a project from it."""

import ctypes
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bakery import ROOT, ROWS, Bake, git
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter

LONGEST = (
    "test_example", "test_scores", "test_proof", "test_projects", "test_ci", "test_stack", "test_remotes", "test_tiers",
    "test_containers",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one in the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _neutral_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let neither the developer's settings nor the running environment reach the children."""
    home = tmp_path_factory.mktemp("home")
    config = home / "cookiecutter.yaml"
    config.write_text(f"cookiecutters_dir: {home}/templates\nreplay_dir: {home}/replay\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOKIECUTTER_CONFIG", str(config))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        patch.setenv("MYPY_CACHE_DIR", f"{home}/mypy")  # what it knows of the libraries serves all projects
        for name in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export what is tracked or could be, uncommitted work included, caches not; commit it there."""
    clone = tmp_path_factory.mktemp("template") / "cookiecutter-fullmarks"
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not deleted since
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    git(clone, "init", "--quiet", "--initial-branch=main")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "The working tree")
    return clone


@pytest.fixture
def bake(template: Path, tmp_path: Path) -> Bake:
    """Generate a project without questions, into a folder of its own."""

    def _bake(into: str | Path = "out", *, template: Path = template, force: bool = False, **answers: str) -> Path:
        folder = tmp_path / into
        folder.mkdir(parents=True, exist_ok=True)
        made = cookiecutter(
            str(template), no_input=True, extra_context=answers, output_dir=str(folder), overwrite_if_exists=force
        )
        return Path(made)

    return _bake


@pytest.fixture
def refusal(bake: Bake, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Generate what must be refused; return the one line that says why, having seen that nothing stays behind."""

    def _refusal(**answers: str) -> str:
        capfd.readouterr()
        logging.disable(logging.CRITICAL)  # cookiecutter adds a traceback of its own
        try:
            with pytest.raises(FailedHookException):
                bake("refused", **answers)
        finally:
            logging.disable(logging.NOTSET)
        assert list((tmp_path / "refused").iterdir()) == []
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("fullmarks: ")
        return lines[0].removeprefix("fullmarks: ")

    return _refusal


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., str]:
    """Write a data set; return its path."""

    def _data(content: str | bytes = ROWS, name: str = "shop.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return _data


@pytest.fixture(autouse=True, scope="session")
def _orphans_come_to_us() -> None:
    """Bury the children of a killed process, which a container may lack an init for: DVC takes a zombie for alive."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, see prctl(2)
