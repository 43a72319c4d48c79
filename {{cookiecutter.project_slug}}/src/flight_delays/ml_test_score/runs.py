"""What happens under --score and under --prove? Tests are chosen, watched and told of as they end, and summed up."""

import datetime
from collections import defaultdict
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from flight_delays.ml_test_score import report
from flight_delays.ml_test_score.plugin import read_reason, rows_of
from flight_delays.ml_test_score.records import find_strays, read_records
from flight_delays.ml_test_score.score import (
    DID_NOT_RUN,
    DOES_NOT_APPLY,
    FAILED,
    PASSED,
    Outcome,
    Score,
    compare,
    judge,
    merge,
)
from flight_delays.settings import given

_ENDS = {
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.INTERRUPTED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
}  # others mean that pytest itself was used or works wrongly
_LONGEST = 300  # characters of a detail
_COLOURS: dict[str, dict[str, bool]] = {PASSED: {"green": True}, FAILED: {"red": True}, DID_NOT_RUN: {"red": True}}


class Run:
    """Watches the chosen tests, and prints a line for each in the place of pytest's own.

    Parameters
    ----------
    config
        Of this run of pytest.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.root = config.rootpath
        self.chosen: dict[str, tuple[str, ...]] = {}
        self.deselected: set[str] = set()
        self.uncollected: list[str] = []
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)
        self.done = 0
        option = config.option
        option.verbose = min(option.verbose, -1)  # lines, tracebacks and summary: the score says it once
        option.reportchars = ""
        option.tbstyle = "short" if option.tbstyle == "auto" else option.tbstyle

    @property
    def terminal(self) -> Any:
        """The screen, by pytest's own way."""
        return self.config.pluginmanager.get_plugin("terminalreporter")

    def outcome(self, test: str) -> Outcome:
        """Say how a chosen test ended.

        Parameters
        ----------
        test
            Its node id.
        """
        found = self.outcomes[test]
        if not found:
            why = "deselected" if test in self.deselected else "the run was stopped before it"
            return Outcome(test, DID_NOT_RUN, why)
        return Outcome(test, *merge(found))

    def why_partial(self) -> str:
        """Say why not all tests of this kind ran; nothing if they did."""
        config = self.config
        wanted = [self.root / path for path in config.getini("testpaths")] or [self.root]
        options = config.option
        given = [(config.invocation_params.dir / path).resolve() for path in config.args]
        if any(not any(path.is_relative_to(part) for part in given) for path in wanted):
            return "only a part of the tests was asked for"
        if self.deselected or options.ignore or options.ignore_glob or getattr(options, "lf", False):
            return "only a part of the tests was chosen"
        if not all(self.outcomes[test] for test in self.chosen):
            return "the run was stopped"
        return "some tests could not be collected" if self.uncollected else ""

    def show(self, *tables: Table, lines: Sequence[str] = ()) -> None:
        """Print tables and lines.

        Parameters
        ----------
        *tables
            First.
        lines
            Below.
        """
        writer = self.config.get_terminal_writer()
        width = writer.fullwidth if self.terminal.isatty else max(writer.fullwidth, 140)
        for table in tables:
            self.terminal.write(report.draw(table, width, coloured=writer.hasmarkup))
        for line in lines:
            self.terminal.write_line(line)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember what could not be read, or skips itself as a whole."""
        if not report.passed:
            self.uncollected.append(report.nodeid)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember what -k and its like left out."""
        self.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note how each phase of a test ended."""
        found = yield
        self.seconds[item.nodeid] += found.duration
        if outcome := _read(item.nodeid, found, call.excinfo):
            self.outcomes[item.nodeid].append(outcome)
        return found

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show what runs, where a line can be written again."""
        self.done += 1
        if self.terminal.isatty:
            width = self.config.get_terminal_writer().fullwidth
            self.terminal.rewrite(self._line(nodeid, "…")[: width - 1], erase=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Show how it ended."""
        state = self.outcome(nodeid).state
        line = self._line(nodeid, state, f"{self.seconds[nodeid]:.1f} s")
        if self.terminal.isatty:
            self.terminal.rewrite(line, erase=True, **_COLOURS.get(state, {}))
            line = ""
        self.terminal.write_line(line, **_COLOURS.get(state, {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str]:
        """Keep pytest's dots off the screen; it counts as ever."""
        if hasattr(report, "wasxfail"):
            return f"x{report.outcome}".replace("xskipped", "xfailed"), "", ""
        if report.when == "call":
            return report.outcome, "", ""
        return {"passed": "", "failed": "error"}.get(report.outcome, report.outcome), "", ""

    def _line(self, test: str, state: str, seconds: str = "") -> str:
        total = str(len(self.chosen) - len(self.deselected & self.chosen.keys()))
        rows = ", ".join(self.chosen[test])
        return f"[{self.done:>{len(total)}}/{total}] {rows:<12} {state:<14} {seconds:>9}  {test.split('/')[-1]}"


class Scorer(Run):
    """Runs the tests that earn points, and writes the score down."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.score: Score | None = None
        self.lines: list[str] = []

    def choose(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Keep the tests that earn a row.

        Parameters
        ----------
        items
            All that were collected.
        """
        self.chosen = {item.nodeid: rows for item in items if (rows := rows_of(item))}
        return [item for item in items if item.nodeid in self.chosen]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Sum up and write down."""
        if self.config.option.collectonly or exitstatus not in _ENDS:
            return
        by_row: dict[str, list[Outcome]] = defaultdict(list)
        for test, rows in self.chosen.items():
            for row in rows:
                by_row[row].append(self.outcome(test))
        self.score = score = judge(by_row, read_records(self.root, datetime.datetime.now(datetime.UTC).date()))
        self.lines += [f"{path} is named after no row of the ML Test Score" for path in find_strays(self.root)]
        self.lines += [f"{name} was not read: its tests do not count" for name in self.uncollected]
        if why := self.why_partial():
            self.lines.append(f"{why}: this is not the project's score, and its files stay as they were")
            return
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # what is not there yet fails nobody
        dropped = self._compare(score)
        report.write(score, self.root)
        self.lines.append(f"written to {report.PAGE}, {report.JSON} and {report.BADGE}")
        self.lines.append(self._log(score))
        if dropped and given("CI"):
            self.lines.append("a lost row fails the run, because CI is set")
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self) -> None:
        """Show the score."""
        if self.score:
            words = f"ML Test Score {self.score.words}: {self.score.reading}"
            self.show(report.make_table(self.score), lines=[words, *self.lines])

    def _compare(self, score: Score) -> bool:
        last, place = report.find_last(self.root)
        if last is None:
            return False
        try:
            change = compare(last, score)
        except (KeyError, TypeError, ValueError):
            self.lines.append(f"the report in {place} cannot be read: nothing to compare with")
            return False
        self.lines += report.tell_change(change, place, score)
        return bool(change.lost)

    def _log(self, score: Score) -> str:
        try:
            return report.log(score, self.root)
        except Exception as fault:  # the score must be told even where no server answers
            return f"not logged to MLflow: {_first_line(fault)}"


class Prover(Run):
    """Runs the sabotage twins, and shows which planted faults were caught."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.planted: dict[str, tuple[str, str]] = {}
        self.unproved: list[str] = []

    def choose(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Keep the twins, and the tests that are their own proof; note the tests that have none.

        Parameters
        ----------
        items
            All that were collected.
        """
        proved = set()
        for item in items:
            for mark in item.iter_markers("sabotage"):
                of = mark.kwargs["of"]
                proved.add((of.__module__, of.__qualname__))
                rows = [other.args[0] for other in of.pytestmark if other.name == "ml_test"]
                self.chosen[item.nodeid] = (*self.chosen.get(item.nodeid, ()), *rows)
                case = item.name.removeprefix(getattr(item, "originalname", item.name))
                self.planted[item.nodeid] = (of.__name__ + case, mark.kwargs["fault"])
            for mark in item.iter_markers("ml_test"):
                if why := mark.kwargs.get("twin"):
                    self.chosen[item.nodeid] = rows_of(item)
                    self.planted[item.nodeid] = (item.name, f"its own proof: {why}")
        unproved: dict[str, None] = {}
        for item in items:
            function = getattr(item, "function", None)
            name = (getattr(function, "__module__", ""), getattr(function, "__qualname__", item.nodeid))
            if rows_of(item) and name not in proved and item.nodeid not in self.chosen:
                unproved[f"{', '.join(rows_of(item))}: {item.nodeid.split('[')[0]} has no sabotage twin"] = None
        self.unproved = list(unproved)
        return [item for item in items if item.nodeid in self.chosen]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail where a test is not proved."""
        if self.config.option.collectonly or exitstatus not in _ENDS:
            return
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and not self.chosen:
            session.exitstatus = pytest.ExitCode.OK
        if self.unproved or any(self._caught(test) == "NO" for test in self.chosen.keys() - self.deselected):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self) -> None:
        """Show what was planted and caught."""
        if self.config.option.collectonly:
            return
        table = Table("row", title="Faults planted", title_justify="left")
        for column in ("test", "fault planted", "caught"):
            table.add_column(column, overflow="fold")
        asked = [test for test in self.chosen if test not in self.deselected]
        for test in sorted(asked, key=lambda test: self.chosen[test]):
            name, fault = self.planted[test]
            caught, detail = self._caught(test), self.outcome(test).detail
            style = {"yes": "green", "NO": "bold red"}.get(caught, "dim")
            row = (", ".join(self.chosen[test]), Text(name), Text(fault))
            table.add_row(*row, Text(f"{caught}: {detail}" if detail else caught, style))
        found = [self._caught(test) for test in asked]
        proved = f"{found.count('yes')} of {len(found) - found.count(DOES_NOT_APPLY)} planted faults caught"
        self.show(table, lines=[*self.unproved, proved])

    def _caught(self, test: str) -> str:
        return {PASSED: "yes", DOES_NOT_APPLY: DOES_NOT_APPLY}.get(self.outcome(test).state, "NO")


def _read(test: str, found: pytest.TestReport, caught: pytest.ExceptionInfo[BaseException] | None) -> Outcome | None:
    if hasattr(found, "wasxfail"):
        return Outcome(test, DID_NOT_RUN, f"it is expected to fail: {found.wasxfail}".removesuffix(": "))
    if found.passed:
        return Outcome(test, PASSED) if found.when == "call" else None
    if found.skipped:
        said = str(found.longrepr[2] if isinstance(found.longrepr, tuple) else found.longrepr or "")
        said = said.removeprefix("Skipped: ")
        reason = read_reason(said)
        return (
            Outcome(test, DID_NOT_RUN, f"skipped: {said}") if reason is None else Outcome(test, DOES_NOT_APPLY, reason)
        )
    return Outcome(test, FAILED, _first_line(caught.value) if caught else str(found.longrepr).splitlines()[0])


def _first_line(fault: BaseException) -> str:
    """Say what is wrong in the fault's own words; how much more there is to say, where that is more than pytest's."""
    lines = [line for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__]
    told = isinstance(fault, pytest.fail.Exception)
    words = lines[0].strip()[:_LONGEST]
    if not told and not isinstance(fault, AssertionError):
        words = f"{type(fault).__name__}: {words}"
    return words + (f" (and {len(lines) - 1} more)" if told and len(lines) > 1 else "")
