"""A project that may be released: committed, and pushed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flight_delays.settings import VARIABLES
from flight_delays.tracking import CHAMPION, Registry

from tests.conftest import Project

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_KEPT = ("contract.yaml", "params.yaml", "pyproject.toml", "uv.lock", "dvc.lock", ".dvc/config")


@dataclass(frozen=True)
class Releasable(Project):
    """A project of which a version may go to integration.

    Attributes
    ----------
    store
        The folder of its DVC remote.
    """

    store: Path

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Put the project's own files back at the end, whatever was done to them."""
        before = {name: (self.path / name).read_bytes() for name in _KEPT}
        try:
            yield
        finally:
            for name, content in before.items():
                (self.path / name).write_bytes(content)


def releasable(finished: Project, folder: Path) -> Releasable:
    """Make one of a project that has been through its pipeline.

    Parameters
    ----------
    finished
        The sample project.
    folder
        An empty one.
    """
    project = Releasable(folder / "project", folder / "store")
    shutil.copytree(finished.path, project.path, symlinks=True)
    config = f"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = {project.store}\n"
    (project.path / ".dvc/config").write_text(config, encoding="utf-8")
    source = project.path / project.contract.server.path  # as `make setup` does it
    steps: list[tuple[str, ...]] = [
        ("dvc", "add", "--quiet", str(source)),
        ("git", "add", "--all"),
        ("git", *IDENTITY, "commit", "--quiet", "--message", "First model"),
        ("dvc", "push", "--quiet"),
    ]
    for step in steps:
        done = project.run(*step)
        assert done.returncode == 0, done.stdout + done.stderr
    return project


def pass_the_gate(project: Project) -> None:
    """Let the sample's model be champion, which on few rows it may not deserve.

    Parameters
    ----------
    project
        In the current folder.
    """
    registry = Registry(project.contract.id)
    version = registry.find_version({})
    assert version is not None
    registry.promote(registry.tag(version, {"gate": "passed", "git.dirty": "false"}), CHAMPION)


def unset() -> list[str]:
    """Name what of the environment must not reach a test of tiers."""
    return [name for name in os.environ if name in VARIABLES or name.startswith("MLFLOW_TRACKING_URI")]
