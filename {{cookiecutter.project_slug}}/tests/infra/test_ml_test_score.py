"""Is the ML Test Score worked out as its rules say? On small suites made up for the purpose."""

import datetime
import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import mlflow
import pytest

from flight_delays import ml_test_score
from flight_delays.ml_test_score import report
from flight_delays.ml_test_score.records import read_records
from flight_delays.ml_test_score.rubric import ROWS, SECTIONS, reading
from flight_delays.ml_test_score.score import (
    DID_NOT_RUN,
    DOES_NOT_APPLY,
    FAILED,
    PASSED,
    Outcome,
    Score,
    judge,
)
from flight_delays.settings import tracking_uri

from tests.conftest import Assessment, Project

HEAD = """
import pytest
from {package}.plugin import does_not_apply
"""
TODAY = datetime.date(2026, 3, 1)
FRONT = {"by": "Ada Example <ada@example.org>", "date": "2026-02-01", "expires": "2026-08-01"}

Run = Callable[..., pytest.RunResult]


def git(folder: Path, *arguments: str, mail: str = "ada@example.org") -> None:
    identity = ("-c", "user.name=Ada", "-c", f"user.email={mail}", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, mail: str = "ada@example.org") -> None:
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", "Write", mail=mail)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of the report."""
    found = json.loads((folder / report.JSON).read_text(encoding="utf-8"))
    return {row["id"]: row for section in found["sections"] for row in section["rows"]}


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Write a suite, and run pytest on it."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "240")

    def go(suite: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_suite=HEAD.format(package=ml_test_score.__name__) + suite)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return go


def test_the_rubric_has_four_sections_of_seven() -> None:
    assert [sum(row.section == name for row in ROWS.values()) for name in SECTIONS] == [7, 7, 7, 7]
    assert len({row.title for row in ROWS.values()}) == 28


@pytest.mark.parametrize(("score", "word"), [(0, "research"), (0.5, "holes"), (5, "strongly"), (5.5, "exception")])
def test_a_score_is_read_as_in_the_paper(score: float, word: str) -> None:
    assert word in reading(score)


SUITE = """
@pytest.mark.ml_test("data-1")
@pytest.mark.parametrize("number", [1, 2])
def test_of_numbers(number):
    assert number < 3

@pytest.mark.ml_test("data-2")
@pytest.mark.parametrize("number", [1, 2])
def test_of_a_number_too_many(number):
    assert number < 2, f"number {number} is too many: take it out"

@pytest.mark.ml_test("data-3")
def test_that_needs_a_tool():
    pytest.skip("there is no promtool")

@pytest.mark.ml_test("data-4")
def test_of_time():
    does_not_apply("the contract has no time column")

@pytest.mark.ml_test("data-5")
@pytest.mark.parametrize("time", [True, False])
def test_of_time_and_more(time):
    if time:
        does_not_apply("the contract has no time column")

@pytest.fixture
def broken():
    raise OSError("the disk is gone")

@pytest.mark.ml_test("data-6")
def test_of_a_broken_fixture(broken):
    pass

@pytest.mark.ml_test("model-1")
def test_of_problems():
    pytest.fail("slice night is below its floor: 0.1 < 0.6\\nslice day too", pytrace=False)

@pytest.mark.ml_test("model-2")
@pytest.mark.xfail(reason="not yet", strict=False)
def test_that_may_fail():
    pass

@pytest.mark.ml_test("model-3")
@pytest.mark.parametrize("number", [])
def test_of_nothing(number):
    pass

@pytest.mark.ml_test("model-4")
@pytest.mark.ml_test("model-5")
def test_of_two_rows():
    pass

def test_of_no_row():
    raise AssertionError("it must not run")
"""


def test_a_row_counts_only_if_all_of_its_tests_ran_and_passed(run: Run, pytester: pytest.Pytester) -> None:
    ran = run(SUITE, "--score")
    found = {row: (entry["state"], entry["points"], entry["detail"]) for row, entry in rows(pytester.path).items()}
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    assert found["data-1"] == ("passed", 1, "")
    assert found["data-2"] == (
        "failed",
        0,
        "number 2 is too many: take it out (1 of 2 tests)",
    )
    assert found["data-3"] == ("did not run", 0, "skipped: there is no promtool")
    assert found["data-4"] == ("does not apply", None, "the contract has no time column")
    assert found["data-5"] == ("passed", 1, "")
    assert found["data-6"] == ("failed", 0, "OSError: the disk is gone")
    assert found["data-7"] == ("not there yet", 0, "")
    assert found["model-1"] == ("failed", 0, "slice night is below its floor: 0.1 < 0.6 (and 1 more)")
    assert found["model-2"] == ("did not run", 0, "it is expected to fail: not yet")
    assert found["model-3"][:2] == ("did not run", 0)
    assert found["model-4"] == found["model-5"] == ("passed", 1, "")
    assert len(rows(pytester.path)["data-1"]["tests"]) == 2


def test_the_screen_shows_progress_rows_sums_and_score(run: Run) -> None:
    ran = run(SUITE, "--score", "--color=no")
    ran.stdout.fnmatch_lines(
        [
            "*1/13* data-1 *passed * s *test_suite.py::test_of_numbers[[]1[]]",
            "*data-6 *failed*test_of_a_broken_fixture",
            "*Data *2 of 6 applicable*",
            "*data-2 *failed*number 2 is too many: take it out*",
            "*data-4 *does not apply*no time column*",
            "*Model *2 of 7 *",
            "ML Test Score 0 of 7: more a research project*",
        ]
    )
    ran.stdout.no_fnmatch_line("*it must not run*")


def test_the_report_is_as_its_schema_says(run: Run, pytester: pytest.Pytester) -> None:
    run(SUITE, "--score")
    schema = json.loads(files(ml_test_score).joinpath("schema.json").read_text(encoding="utf-8"))
    found = json.loads((pytester.path / report.JSON).read_text(encoding="utf-8"))
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"score": 8}, schema)
    assert [section["points"] for section in found["sections"]] == [2, 2, 0, 0]


def test_what_is_not_there_yet_fails_nobody(run: Run, pytester: pytest.Pytester) -> None:
    assert run("def test_of_no_row(): pass", "--score").ret == 0
    assert {row["state"] for row in rows(pytester.path).values()} == {"not there yet"}


def outcomes(**states: str) -> Score:
    """Judge rows of which each has one test; the others have passed."""
    given = {row: states.get(row.replace("-", "_"), PASSED) for row in ROWS}
    return judge({row: [Outcome(f"test_{row}", state, "why")] for row, state in given.items()}, {})


def test_the_score_is_the_smallest_section_of_what_applies() -> None:
    assert outcomes().words == "7 of 7"
    assert outcomes(infra_3=FAILED, infra_4=DID_NOT_RUN, data_1=FAILED).words == "5 of 7"
    some = outcomes(model_4=DOES_NOT_APPLY)
    assert some.words == "6 of 6 applicable"
    assert [section.words for section in some.sections] == ["7 of 7", "6 of 6 applicable", "7 of 7", "7 of 7"]
    assert outcomes(model_4=DOES_NOT_APPLY, data_1=FAILED).words == "6 of 7"


def test_a_section_of_which_nothing_applies_has_no_say() -> None:
    assert outcomes(**{f"mon_{number}": DOES_NOT_APPLY for number in range(1, 8)}).value == 7


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-k", "two_rows"), "only a part of the tests was chosen"),
        (("test_suite.py::test_of_two_rows",), "only a part of the tests was asked for"),
        (("-x",), "the run was stopped"),
    ],
)
def test_a_run_of_some_tests_leaves_the_report_alone(
    run: Run, pytester: pytest.Pytester, options: tuple[str, ...], why: str
) -> None:
    ran = run(SUITE, "--score", *options)
    ran.stdout.fnmatch_lines([f"{why}: this is not the project's score*"])
    assert not (pytester.path / "reports").exists()


def test_a_deselected_test_does_not_count(run: Run) -> None:
    ran = run(SUITE, "--score", "-k", "numbers and 1")
    ran.stdout.fnmatch_lines(["*data-1 *did not run*deselected (1 of 2 tests)*"])


def test_a_file_that_cannot_be_read_makes_the_run_partial(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "test_other.py").write_text("import pytest\npytest.skip('no', allow_module_level=True)\n")
    ran = run(SUITE, "--score")
    ran.stdout.fnmatch_lines(["test_other.py was not read: its tests do not count"])
    assert not (pytester.path / "reports").exists()


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ('ml_test("data-8")', "'data-8' is no row of the ML Test Score"),
        ("ml_test()", "write ml_test"),
        ('ml_test("data-1", twin="")', "twin must say why"),
        ('sabotage(of=test_plain, fault="x")', "must be a test function that is marked"),
        ("sabotage(of=test_good)", "write sabotage"),
        ('sabotage(of=test_good, fault="x")\n@pytest.mark.ml_test("data-1")', "earns no row itself"),
    ],
)
def test_a_wrong_mark_is_refused(run: Run, mark: str, says: str) -> None:
    suite = f"""
def test_plain(): pass

@pytest.mark.ml_test("data-1")
def test_good(): pass

@pytest.mark.{mark}
def test_wrong(): pass
"""
    assert run(suite, "--score").ret == pytest.ExitCode.USAGE_ERROR
    ran = run(suite)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*test_suite.py::test_wrong: *{says}*"])


def test_score_and_prove_go_one_at_a_time(run: Run) -> None:
    assert run(SUITE, "--score", "--prove").ret == pytest.ExitCode.USAGE_ERROR


ONE = """
@pytest.mark.ml_test("data-1")
def test_one(): assert {one}

@pytest.mark.ml_test("data-2")
def test_two(): {two}
"""
GOOD = ONE.format(one=True, two="pass")


def test_a_lost_row_is_shown_and_fails_in_ci_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    skipping = ONE.format(one=True, two="pytest.skip('no tool')")
    run(GOOD, "--score")
    assert run(GOOD, "--score").ret == 0
    ran = run(skipping, "--score")
    ran.stdout.fnmatch_lines(["the score is 0, as in the last run", "lost: data-2"])
    assert ran.ret == 0
    run(GOOD, "--score").stdout.fnmatch_lines(["won: data-2"])
    monkeypatch.setenv("CI", "true")
    assert run(GOOD, "--score").ret == 0
    ran = run(skipping, "--score")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["a lost row fails the run, because CI is set"])


def test_the_committed_score_is_the_one_to_keep_up_with(run: Run, pytester: pytest.Pytester) -> None:
    run(GOOD, "--score")
    commit(pytester.path)
    for _ in range(2):  # the second time, the report on disk has lost the row already
        ran = run(ONE.format(one=True, two="pytest.skip('no tool')"), "--score")
        ran.stdout.fnmatch_lines(["*in the last commit", "lost: data-2"])


def test_a_row_that_no_longer_applies_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    run(GOOD, "--score")
    ran = run(ONE.format(one=True, two="does_not_apply('there are no groups')"), "--score")
    assert ran.ret == 0
    ran.stdout.fnmatch_lines(["no longer apply: data-2"])


def test_an_unreadable_last_report_is_said_so(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / report.JSON).parent.mkdir()
    (pytester.path / report.JSON).write_text("{", encoding="utf-8")
    ran = run(GOOD, "--score")
    assert ran.ret == 0
    ran.stdout.fnmatch_lines(["the report in the last run cannot be read*"])


PROOF = """
@pytest.mark.ml_test("data-2")
@pytest.mark.parametrize("number", [1, 2])
def test_good(number): assert number

@pytest.mark.sabotage(of=test_good, fault="the number is nought")
def test_twin():
    with pytest.raises(AssertionError):
        test_good({number})

@pytest.mark.ml_test("data-1", twin="it breaks each rule in turn")
def test_battery(): pass
"""


def test_a_proof_shows_what_was_planted_and_caught(run: Run, pytester: pytest.Pytester) -> None:
    ran = run(PROOF.format(number=0), "--prove")
    assert ran.ret == 0
    ran.stdout.fnmatch_lines(
        [
            "*data-1 *test_battery *its own proof: it breaks each rule in turn *yes*",
            "*data-2 *test_good *the number is nought *yes*",
            "2 of 2 planted faults caught",
        ]
    )
    assert not (pytester.path / "reports").exists()


def test_a_fault_that_slips_through_fails_the_proof(run: Run) -> None:
    ran = run(PROOF.format(number=1), "--prove")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["*data-2 *the number is nought *NO: DID NOT RAISE*", "1 of 2 planted faults caught"])


def test_only_the_faults_that_were_asked_for_are_shown(run: Run) -> None:
    ran = run(PROOF.format(number=1), "--prove", "-k", "battery")
    assert ran.ret == 0
    ran.stdout.no_fnmatch_line("*the number is nought*")
    ran.stdout.fnmatch_lines(["1 of 1 planted faults caught"])


def test_a_skipped_twin_proves_nothing_unless_its_question_does_not_apply(run: Run) -> None:
    twin = '@pytest.mark.ml_test("data-1")\ndef test_a(): pass\n\n@pytest.mark.sabotage(of=test_a, fault="b")\n'
    assert run(twin + "def test_b(): pytest.skip('no tool')", "--prove").ret == pytest.ExitCode.TESTS_FAILED
    assert run(twin + "def test_b(): does_not_apply('there is no time')", "--prove").ret == 0


def test_a_test_without_a_twin_fails_the_proof(run: Run) -> None:
    ran = run(PROOF.format(number=0) + GOOD, "--prove")
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["data-1: test_suite.py::test_one has no sabotage twin"])


def test_a_plain_run_leaves_out_twins_and_whatever_needs_the_real_project(run: Run) -> None:
    suite = """
@pytest.fixture
def project(): raise AssertionError("it must not be asked for")

@pytest.fixture
def reader(project): pass

def test_real(reader): pass

@pytest.mark.ml_test("data-1")
def test_sample(): pass

@pytest.mark.sabotage(of=test_sample, fault="x")
def test_twin(): raise AssertionError("it must not run")
"""
    ran = run(suite)
    ran.assert_outcomes(passed=1)


def test_an_assessment_passes_fails_or_does_not_apply() -> None:
    good = {"problems": [], "gain": 1}
    bad = {"problems": ["slice night is too low", "slice day is too low"]}
    found = Assessment({"good": good, "bad": bad, "other": {"does_not_apply": "there is no time column"}})
    assert found.require("good") == good
    with pytest.raises(pytest.fail.Exception, match=r"slice night is too low\nslice day is too low"):
        found.require("bad")
    with pytest.raises(pytest.skip.Exception, match="does not apply: there is no time column"):
        found.require("other")
    with pytest.raises(pytest.fail.Exception, match="no `missing`: run `make score`"):
        found.require("missing")


def record(folder: Path, **changes: str) -> Path:
    """Write a record of data-1, with changes in its front matter."""
    path = folder / "docs/ml_test_score/data-1.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = changes.pop("body", "Looked at 100 rows.")
    front = "".join(f"{key}: {value}\n" for key, value in (FRONT | changes).items())
    path.write_text(f"---\n{front}---\n{body}\n", encoding="utf-8")
    return path


def by_hand(folder: Path, *states: str) -> tuple[float, str]:
    score = judge({"data-1": [Outcome("test", state) for state in states]}, read_records(folder, TODAY))
    return score.results[0].points, score.results[0].detail


def test_a_signed_and_dated_record_earns_half_a_point(tmp_path: Path) -> None:
    record(tmp_path)
    commit(tmp_path)
    half = (0.5, "tested by Ada Example on 2026-02-01, counts until 2026-08-01")
    assert by_hand(tmp_path) == half
    assert by_hand(tmp_path, DID_NOT_RUN) == half


@pytest.mark.parametrize(("state", "points"), [(PASSED, 1), (FAILED, 0), (DOES_NOT_APPLY, 0)])
def test_a_record_does_not_stand_in_for_tests_that_ran(tmp_path: Path, state: str, points: float) -> None:
    record(tmp_path)
    commit(tmp_path)
    found, detail = by_hand(tmp_path, state)
    assert found == points
    assert "the row's tests decide" in detail


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expires": "2026-02-28"}, "expired on 2026-02-28"),
        ({"date": "2026-03-02"}, "dated in the future"),
        ({"expires": "2027-02-02"}, "within 365 days"),
        ({"expires": "2026-01-31"}, "within 365 days"),
        ({"date": "yesterday"}, "must be dates"),
        ({"by": "ada@example.org"}, "`Name <mail>`"),
        ({"by": "Bob <bob@example.org>"}, "ada@example.org committed it last"),
        ({"body": " "}, "what was done"),
    ],
)
def test_a_record_that_breaks_a_rule_does_not_count_and_says_why(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    record(tmp_path, **changes)
    commit(tmp_path)
    points, detail = by_hand(tmp_path)
    assert points == 0
    assert detail.startswith("docs/ml_test_score/data-1.md does not count: ")
    assert says in detail


def test_a_record_counts_up_to_its_last_day(tmp_path: Path) -> None:
    record(tmp_path, date="2026-03-01", expires="2026-03-01")
    commit(tmp_path)
    assert by_hand(tmp_path)[0] == 0.5


def test_a_record_must_be_committed_as_it_stands(tmp_path: Path) -> None:
    path = record(tmp_path)
    assert "not committed" in by_hand(tmp_path)[1]
    commit(tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    assert "changes that are not committed" in by_hand(tmp_path)[1]
    commit(tmp_path, mail="bob@example.org")
    assert "bob@example.org committed it last" in by_hand(tmp_path)[1]


def test_a_cut_off_history_cannot_show_who_signed(tmp_path: Path) -> None:
    record(tmp_path / "whole")
    commit(tmp_path / "whole")
    commit(tmp_path / "whole", mail="bob@example.org")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{tmp_path}/whole", "cut")
    assert by_hand(tmp_path / "whole")[0] == 0.5
    assert "git fetch --unshallow" in by_hand(tmp_path / "cut")[1]


def test_a_record_without_front_matter_is_said_so(tmp_path: Path) -> None:
    record(tmp_path).write_text("All is well.\n", encoding="utf-8")
    commit(tmp_path)
    assert "no front matter" in by_hand(tmp_path)[1]


def test_a_record_counts_in_the_whole_run_and_a_misnamed_one_is_told(run: Run, pytester: pytest.Pytester) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    path = record(pytester.path, date=str(today), expires=str(today + datetime.timedelta(days=2)))
    path.with_name("data-9.md").write_text("x", encoding="utf-8")
    commit(pytester.path)
    ran = run("", "--score")
    assert rows(pytester.path)["data-1"]["state"] == "by hand"
    ran.stdout.fnmatch_lines(["*data-1 *by hand*tested by Ada Example*", "docs/ml_test_score/data-9.md is named*"])


def test_the_page_keeps_its_table_whatever_a_message_holds() -> None:
    hostile = "a | b\\| *c* _d_ <script> [x](y) `z`"
    score = judge({"data-1": [Outcome("test", FAILED, hostile)]}, {})
    (line,) = (line for line in report.to_markdown(score).splitlines() if line.startswith("| data-1 "))
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == 5
    assert "<script>" not in line


def test_the_badge_is_an_image_that_tells_the_score() -> None:
    drawn = ElementTree.fromstring(report.to_svg(outcomes(data_1=FAILED)))  # noqa: S314 (our own)
    assert drawn.get("aria-label") == "ML Test Score: 6 of 7"
    assert [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")] == ["ML Test Score", "6 of 7"]


def test_the_score_is_logged_with_the_run_of_the_model_and_the_newest_counts(
    finished_project: Project, copy: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    for score in (outcomes(), outcomes(infra_1=FAILED, model_4=DOES_NOT_APPLY)):
        report.write(score, project.path)
        assert "of model version 1" in report.log(score, project.path)
    client = mlflow.MlflowClient(tracking_uri())
    (version,) = client.search_model_versions(f"name = '{project.contract.id}'")
    found = client.get_run(version.run_id).data.metrics
    assert {name: value for name, value in found.items() if name.startswith("ml_test_score")} == {
        "ml_test_score": 6,
        "ml_test_score.data": 7,
        "ml_test_score.model": 6,
        "ml_test_score.infra": 6,
        "ml_test_score.monitoring": 7,
    }
    assert report.JSON.name in {entry.path for entry in client.list_artifacts(version.run_id)}


def test_a_score_without_its_model_is_told_and_not_logged(
    finished_project: Project, copy: Callable[[Project], Project], tmp_path: Path
) -> None:
    assert "there is no models/candidate" in report.log(outcomes(), tmp_path)
    project = copy(finished_project)
    (project.path / "models/candidate/extra").write_text("another model", encoding="utf-8")
    assert "no registered version" in report.log(outcomes(), project.path)
