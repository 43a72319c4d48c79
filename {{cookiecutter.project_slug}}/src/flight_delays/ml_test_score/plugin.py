"""Which tests earn points, and which prove them? The pytest plugin behind `make score` and `make prove`.

It is loaded in every run of pytest, so it imports next to nothing before one of its options is given.
"""

from typing import Any, NoReturn

import pytest

from flight_delays.ml_test_score.rubric import ROWS

_REAL = {"project", "assessment"}  # fixtures: the project itself, not a sample of it
_RUN = "ml_test_score_run"
_PREFIX = "does not apply: "


def does_not_apply(reason: str) -> NoReturn:
    """End a test whose question this project does not raise.

    Parameters
    ----------
    reason
        Such as `the contract has no time column`.
    """
    pytest.skip(_PREFIX + reason)


def read_reason(skipped: str) -> str | None:
    """Give the reason of a test that ended by `does_not_apply`; None of any other skipped test.

    Parameters
    ----------
    skipped
        What pytest says of a skipped test.
    """
    return skipped.removeprefix(_PREFIX) if skipped.startswith(_PREFIX) else None


def rows_of(item: pytest.Item) -> tuple[str, ...]:
    """List the ids of the rows that a test earns.

    Parameters
    ----------
    item
        A collected test.
    """
    return tuple(sorted(mark.args[0] for mark in item.iter_markers("ml_test")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("ML Test Score")
    group.addoption("--score", action="store_true", help="run the tests that earn points, and write the score down")
    group.addoption("--prove", action="store_true", help="plant the faults, and show that the tests catch them")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and what runs under an option."""
    for mark in (
        "ml_test(row, twin=None): the test earns this row of the ML Test Score; twin: why it is its own proof",
        "sabotage(of, fault): plants this fault and sees the test `of` fail",
        "slow: takes most of a minute, so it runs under --score and --prove alone",
        "last: waits for what was begun in the background, so it runs when all others have",
    ):
        config.addinivalue_line("markers", mark)
    if config.option.score and config.option.prove:
        raise pytest.UsageError("--score or --prove: one at a time")
    if config.option.score or config.option.prove:
        from flight_delays.ml_test_score.runs import Prover, Scorer

        config.pluginmanager.register((Scorer if config.option.score else Prover)(config), _RUN)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check all marks, and keep the tests of this kind of run, before any other choice is made."""
    for item in items:
        _check(item)
    run: Any = config.pluginmanager.get_plugin(_RUN)
    items[:] = run.choose(items) if run else [item for item in items if not _waits(item)]
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


def _waits(item: pytest.Item) -> bool:
    fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
    marked = any(item.get_closest_marker(mark) for mark in ("sabotage", "slow"))
    return marked or not _REAL.isdisjoint(fixtures)


def _check(item: pytest.Item) -> None:
    for mark in item.iter_markers("ml_test"):
        if len(mark.args) != 1 or mark.kwargs.keys() - {"twin"}:
            raise pytest.UsageError(f'{item.nodeid}: write ml_test("data-1"), or ml_test("data-1", twin="why none")')
        if mark.args[0] not in list(ROWS):
            raise pytest.UsageError(
                f"{item.nodeid}: {mark.args[0]!r} is no row of the ML Test Score: {', '.join(ROWS)}"
            )
        if not mark.kwargs.get("twin", "why"):
            raise pytest.UsageError(f"{item.nodeid}: twin must say why the test is its own proof")
    for mark in item.iter_markers("sabotage"):
        if mark.args or mark.kwargs.keys() != {"of", "fault"}:
            raise pytest.UsageError(f'{item.nodeid}: write sabotage(of=a_test, fault="what is planted")')
        if not any(other.name == "ml_test" for other in getattr(mark.kwargs["of"], "pytestmark", ())):
            raise pytest.UsageError(f"{item.nodeid}: `of` must be a test function that is marked ml_test")
        if rows_of(item):
            raise pytest.UsageError(f"{item.nodeid}: a sabotage twin earns no row itself")
