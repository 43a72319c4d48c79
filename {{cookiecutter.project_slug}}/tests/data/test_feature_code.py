"""Is all of the feature code tested, and would its tests notice a fault in it?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flight_delays import features
from flight_delays.ml_test_score.plugin import does_not_apply

from tests.conftest import ROOT, Project

CODE = Path("src", *features.__name__.split(".")).with_suffix(".py")
TESTS = "tests/data/test_features.py"
# Changes that no test can notice, each with its reason; all others must be noticed.
ALIKE = "a row or a column at a time gives the same numbers, only sooner or later"
EXCUSED = {
    "'65536' → '65537'": "how many rows are encoded at once changes no number, only the memory it takes",
    "'16' → '17'": ALIKE,
    "'len(rows) < _FEW' → 'len(rows) <= _FEW'": ALIKE,
}


def run(project: Project, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a project on the project's own code."""
    own = {**os.environ, "PYTHONPATH": str(project.path / "src"), **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=project.path, env=own, capture_output=True, text=True, check=False
    )


@pytest.mark.ml_test("data-7")
def test_every_branch_of_the_feature_code_is_tested(project: Project, tmp_path: Path) -> None:
    report = tmp_path / "coverage.json"
    options = f"--cov={features.__name__} --cov-branch --cov-report=json:{report} --hypothesis-profile=quick"
    file = str(tmp_path / "coverage")
    ran = run(project, "-m", "pytest", "-qp", "no:cacheprovider", *options.split(), TESTS, COVERAGE_FILE=file)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = json.loads(report.read_text(encoding="utf-8"))["files"].values()
    lines = [f"{CODE}:{line} is not run by {TESTS}: add a test" for line in found["missing_lines"]]
    lines += [
        f"{CODE}:{start}: {TESTS} never goes from here to line {end}: add a test" if end > 0 else
        f"{CODE}:{start}: {TESTS} never ends here: add a test"
        for start, end in found["missing_branches"]
        if end not in found["missing_lines"]
    ]  # fmt: skip
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.mark.ml_test("data-7")
def test_no_change_of_the_feature_code_goes_unnoticed(project: Project) -> None:
    if not hasattr(os, "fork"):
        does_not_apply("this system cannot fork, and to start anew for each change would take too long")
    ran = run(project, "tests/data/mutants.py", features.__name__, TESTS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    survivors = [(entry, entry.partition(": ")[2]) for entry in json.loads(ran.stdout)]
    here = f"tests/data/{Path(__file__).name}"
    lines = [
        f"{CODE}, {entry}: no test in {TESTS} notices: add one, or give the reason in EXCUSED of {here}"
        for entry, change in survivors
        if change not in EXCUSED
    ]
    unused = set(EXCUSED) - {change for _, change in survivors}
    lines += [f"{here}: EXCUSED {change}: it is noticed by now: drop it" for change in unused]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.fixture
def code_alone(tmp_path: Path) -> Project:
    """A copy of what the tests of the feature code need."""
    for name in (
        "contract.yaml",
        "pyproject.toml",
        "tests/__init__.py",
        "tests/conftest.py",
        TESTS,
        "tests/data/mutants.py",
    ):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "code" / name)
    shutil.copytree(ROOT / "src", tmp_path / "code/src", ignore=shutil.ignore_patterns("__pycache__"))
    return Project(tmp_path / "code")


@pytest.mark.sabotage(of=test_every_branch_of_the_feature_code_is_tested, fault="a branch that no test takes")
def test_an_untested_branch_is_named_by_its_line(code_alone: Project, tmp_path: Path) -> None:
    path = code_alone.path / CODE
    source = path.read_text(encoding="utf-8")
    path.write_text(f"{source}\n\ndef _new(value: int) -> int:\n    return value\n", encoding="utf-8")
    line = len(source.splitlines()) + 4
    with pytest.raises(pytest.fail.Exception, match=rf"features\.py:{line} is not run"):
        test_every_branch_of_the_feature_code_is_tested(code_alone, tmp_path)


@pytest.mark.sabotage(of=test_no_change_of_the_feature_code_goes_unnoticed, fault="a test that asserts nothing")
def test_a_test_that_asserts_nothing_lets_a_change_through(code_alone: Project) -> None:
    path = code_alone.path / TESTS
    lines = path.read_text(encoding="utf-8").splitlines()
    (asserts,) = (place for place, line in enumerate(lines) if "Zürich" in line)
    lines[asserts] = "    pass"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(
        pytest.fail.Exception, match=r"_bucket, line \d+: .* % HASH_BUCKETS.*: no test .* notices: add one"
    ):
        test_no_change_of_the_feature_code_goes_unnoticed(code_alone)
