"""What do the tests' outcomes add up to? Outcomes to rows, rows to sections, and the smallest section is the score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flight_delays.ml_test_score.records import Record
from flight_delays.ml_test_score.rubric import ROWS, SECTIONS, Row, reading

PASSED, BY_HAND, FAILED = "passed", "by hand", "failed"
DID_NOT_RUN, DOES_NOT_APPLY, NOT_THERE = "did not run", "does not apply", "not there yet"
POINTS = {PASSED: 1.0, BY_HAND: 0.5}  # the paper's; any other state earns nothing


@dataclass(frozen=True)
class Outcome:
    """How one test ended.

    Attributes
    ----------
    test
        Its node id.
    state
        `passed`, `failed`, `did not run` or `does not apply`.
    detail
        Why, in one line, where it did not pass.
    """

    test: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What a row has earned.

    Attributes
    ----------
    row
        Of the rubric.
    state
        As an outcome's, or `by hand` or `not there yet`.
    detail
        Why, in one line.
    outcomes
        Of the row's tests.
    """

    row: Row
    state: str
    detail: str
    outcomes: tuple[Outcome, ...] = ()

    @property
    def points(self) -> float:
        """0, 0.5 or 1."""
        return POINTS.get(self.state, 0.0)


@dataclass(frozen=True)
class Section:
    """Seven rows.

    Attributes
    ----------
    id, title
        As in the rubric.
    results
        Of its rows.
    """

    id: str
    title: str
    results: tuple[Result, ...]

    @property
    def points(self) -> float:
        """The sum."""
        return sum(result.points for result in self.results)

    @property
    def maximum(self) -> int:
        """How many rows apply."""
        return sum(result.state != DOES_NOT_APPLY for result in self.results)

    @property
    def words(self) -> str:
        """The sum, as people read it: `5 of 7`, or `6 of 6 applicable`."""
        return f"{self.points:g} of {self.maximum}" + (" applicable" if self.maximum < len(self.results) else "")


@dataclass(frozen=True)
class Score:
    """The whole rubric, filled in.

    Attributes
    ----------
    sections
        In the paper's order.
    """

    sections: tuple[Section, ...]

    @property
    def results(self) -> tuple[Result, ...]:
        """Of all rows."""
        return tuple(result for section in self.sections for result in section.results)

    @property
    def value(self) -> float:
        """The smallest of the section sums; a section of which nothing applies has none."""
        return min((section.points for section in self.sections if section.maximum), default=0.0)

    @property
    def words(self) -> str:
        """The final score, as people read it."""
        full = all(section.points == section.maximum for section in self.sections)
        return f"{self.value:g} of {self.value:g} applicable" if full and self.value < 7 else f"{self.value:g} of 7"

    @property
    def reading(self) -> str:
        """What the paper says of such a score."""
        return reading(self.value)


def judge(outcomes: Mapping[str, Sequence[Outcome]], records: Mapping[str, Record]) -> Score:
    """Fill in the rubric.

    Parameters
    ----------
    outcomes
        Of each row's tests, by the row's id.
    records
        Of what was tested by hand, by the row's id.
    """
    results = [_judge_row(row, tuple(outcomes.get(row.id, ())), records.get(row.id)) for row in ROWS.values()]
    return Score(
        tuple(
            Section(name, title, tuple(result for result in results if result.row.section == name))
            for name, title in SECTIONS.items()
        )
    )


def merge(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Say what several outcomes are together: the worst counts, and what does not apply only if all else is so too.

    Parameters
    ----------
    outcomes
        Of the tests of a row, or of the parts of a test.

    Returns
    -------
    state, detail
        As of one outcome.
    """
    for state in (FAILED, DID_NOT_RUN, PASSED, DOES_NOT_APPLY):
        alike = [outcome for outcome in outcomes if outcome.state == state]
        if alike:
            return state, _tell(alike, len(outcomes))
    return NOT_THERE, ""


def _tell(alike: Sequence[Outcome], total: int) -> str:
    details = list(dict.fromkeys(outcome.detail for outcome in alike if outcome.detail))
    if alike[0].state == PASSED or not details:
        return ""
    if total == 1 or alike[0].state == DOES_NOT_APPLY:
        return "; ".join(details)
    return f"{details[0]} ({len(alike)} of {total} tests)"


def _judge_row(row: Row, outcomes: tuple[Outcome, ...], record: Record | None) -> Result:
    state, detail = merge(outcomes)
    if record is None:
        return Result(row, state, detail, outcomes)
    refused = record.refused
    if state in {PASSED, FAILED, DOES_NOT_APPLY}:
        refused = refused or f"the row's tests decide: {state}"
    if refused is None:
        return Result(row, BY_HAND, record.words, outcomes)
    said = f"{record.path} does not count: {refused}"
    return Result(row, state, f"{detail}; {said}" if detail else said, outcomes)


@dataclass(frozen=True)
class Change:
    """What is other than in the last report.

    Attributes
    ----------
    before
        The last final score.
    lost, won, left
        Rows with fewer points, with more, and those that no longer apply.
    """

    before: float
    lost: tuple[str, ...]
    won: tuple[str, ...]
    left: tuple[str, ...]


def compare(last: dict[str, Any], now: Score) -> Change:
    """Find the rows that earn more or less than in an earlier report.

    Parameters
    ----------
    last
        As `reports/ml_test_score.json` holds it.
    now
        To compare with.

    Raises
    ------
    KeyError, TypeError
        `last` is no such report.
    """
    before = {row["id"]: row["points"] or 0.0 for section in last["sections"] for row in section["rows"]}
    lost: list[str] = []
    won: list[str] = []
    left: list[str] = []
    for result in now.results:
        gain = result.points - before.get(result.row.id, 0.0)
        if gain < 0:
            (left if result.state == DOES_NOT_APPLY else lost).append(result.row.id)
        elif gain > 0:
            won.append(result.row.id)
    return Change(float(last["score"]), tuple(lost), tuple(won), tuple(left))
