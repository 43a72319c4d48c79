"""What do the tests of tiers share? One project that is ready to be released."""

from collections.abc import Iterator

import pytest

from tests.conftest import Project
from tests.releasing import Releasable, releasable, unset


@pytest.fixture(scope="session")
def shared(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Releasable:
    """A project that lacks nothing but what production asks of its surroundings."""
    return releasable(finished_project, tmp_path_factory.mktemp("releasable"))


@pytest.fixture
def ready(shared: Releasable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Releasable]:
    """The same, current, and put back in the end."""
    for name in unset():
        monkeypatch.delenv(name)
    monkeypatch.chdir(shared.path)
    with shared.planted():
        yield shared
