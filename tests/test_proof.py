"""Can the tests of the ML Test Score fail? The example plants the fault that each exists for."""

import re
from pathlib import Path

import pytest
from projects import first_model, ok

pytestmark = pytest.mark.slow


def test_each_fault_that_the_score_exists_for_is_caught(template: Path, tmp_path: Path) -> None:
    made = first_model(template, tmp_path)
    printed = ok(made.make("prove"))
    planted = re.search(r"(\d+) of (\d+) planted faults caught", printed)
    assert planted, printed[-3000:]
    assert planted[1] == planted[2]
    assert int(planted[1]) >= 70
    assert made.changed == set()
