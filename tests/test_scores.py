"""Is the score true on data that nobody designed for? One project meets a foreign data set, a leak and a hundred rows."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bakery import git
from cookiecutter.main import cookiecutter
from projects import Made, commit, ok

pytestmark = pytest.mark.slow

FILE = "data/raw/cancer.csv"
CANCER = f"""
from sklearn.datasets import load_breast_cancer
found = load_breast_cancer(as_frame=True)
names = found.target.map(dict(enumerate(found.target_names)))
found.data.assign(diagnosis=names).to_csv({FILE!r}, index=False)
"""
LEAK = f"""
import pandas
rows = pandas.read_csv({FILE!r})
rows["verdict"] = (rows["diagnosis"] == "benign") + rows.index % 7 / 100
rows.to_csv({FILE!r}, index=False)
"""
FEW = f"""
import pandas
pandas.read_csv({FILE!r}).drop(columns="verdict").head(100).to_csv({FILE!r}, index=False)
"""
QUICK = (  # without what takes minutes, and is the same on any data
    "-m 'not slow' --deselect=tests/infra/test_reproducible.py --deselect=tests/data/test_feature_code.py "
    "--deselect=tests/data/test_features.py"
)
UNTOLD = {"data-6", "data-7", "infra-1", "infra-2", "infra-3", "infra-6", "infra-7", "mon-3"}  # by the quick ones
OF_THE_MODEL = (  # tests that look at the project's own data and model, not at a sample
    "tests/model tests/infra/test_gate.py tests/data/test_feature_value.py tests/data/test_feature_cost.py "
    "tests/data/test_requirements.py::test_no_feature_gives_the_target_away "
    "tests/data/test_schema.py::test_the_data_keeps_every_expectation"
)


@dataclass(frozen=True)
class Scored:
    """What `make score` printed.

    Attributes
    ----------
    printed
        All of it.
    rows
        By id, the state and the reason.
    """

    printed: str
    rows: dict[str, tuple[str, str]]

    def of(self, state: str) -> set[str]:
        """List the rows in a state."""
        return {row for row, (found, _) in self.rows.items() if found == state}

    def why(self, row: str) -> str:
        """Give the reason of a row that failed."""
        state, reason = self.rows[row]
        assert state == "failed", (row, state, reason)
        return reason


def score(made: Made, tests: str) -> Scored:
    """Score a project by some of its tests, of which some may fail and none may crash."""
    done = made.make("score", COLUMNS="1000", PYTEST_ADDOPTS=tests)  # so wide that no line is broken
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed[-6000:]
    found = re.findall(r"│ (\w+-\d) +│ [^│]+ │ ([^│]+?) +│ ([^│]*?) +│", printed)
    rows = {row: (state, why) for row, state, why in found}
    assert len(rows) == 28, printed[-6000:]
    assert all(why for state, why in rows.values() if state not in {"passed", "not there yet"})
    return Scored(printed, rows)


@dataclass(frozen=True)
class Scores:
    """How the same project scores on three states of its data."""

    foreign: Scored
    leaked: Scored
    tiny: Scored
    warned: str


@pytest.fixture(scope="module")
def scores(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Score scikit-learn's breast cancer; then with its answer among the features; then its first hundred rows."""
    folder = tmp_path_factory.mktemp("scores")
    begun = folder / Path(FILE).name
    begun.write_text("size,diagnosis\n" + "1,benign\n2,malignant\n" * 2, encoding="utf-8")
    answers = {"project_name": "Cancer", "dataset": str(begun), "target": "diagnosis"}
    made = Made(Path(cookiecutter(str(template), no_input=True, output_dir=str(folder), extra_context=answers)))
    ok(made.run("uv", "sync"))
    made.python(CANCER)  # the data set lies in the environment that the project brings
    made.set_up()
    commit(made, "Lock the environment")
    ok(made.make("pipeline"))
    commit(made, "First model")
    foreign = score(made, QUICK)
    commit(made, "First score")
    warned = leak(made)
    leaked = score(made, OF_THE_MODEL)
    shrink(made)
    return Scores(foreign, leaked, score(made, OF_THE_MODEL), warned)


def leak(made: Made) -> str:
    """Put the answer among the features, against the warning, which is given back."""
    made.python(LEAK)
    warned = ok(made.make("contract"))
    path = made.path / "contract.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    (entry,) = (entry for entry in document["schema"][0]["properties"] if entry["name"] == "verdict")
    entry["tags"] = ["feature"]
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return warned


def shrink(made: Made) -> None:
    """Begin again with a hundred rows."""
    git(made.path, "checkout", "--quiet", "HEAD~3", "--", "contract.yaml")  # as generated, before the data was seen
    (made.path / "mlflow.db").unlink()
    shutil.rmtree(made.path / "models")
    made.python(FEW)
    ok(made.make("contract"))
    told = ["uv", "run", "dvc", "add", "--quiet", FILE]  # else the hook refuses the commit
    ok(made.run(*told))
    commit(made, "A hundred rows")


def test_a_foreign_data_set_scores_every_row_but_the_one_that_its_data_cannot_earn(scores: Scores) -> None:
    foreign = scores.foreign
    assert foreign.of("failed") == {"data-2"}, foreign.printed[-6000:]
    assert foreign.of("did not run") == UNTOLD
    few = r"\d+ of 30 features are not shown to help on \d+ \(only \d+ with diagnosis = malignant\) test rows: bring more"
    assert re.match(few, foreign.why("data-2"))
    assert foreign.rows["model-4"] == ("does not apply", "the contract has no time column")
    assert foreign.rows["model-7"] == ("does not apply", "no column is tagged `group`")


def test_a_column_that_holds_the_answer_is_named_before_it_is_a_feature_and_after(scores: Scores) -> None:
    assert "gives the target away" in scores.warned
    assert "feature 'verdict': gives the target away (AUC 1.000 alone): drop its tag" in scores.leaked.why("data-4")
    assert "column 'verdict': gives 100.0% of all gain" in scores.leaked.why("data-2")
    assert "REFUSED" in scores.leaked.printed


def test_a_hundred_rows_are_said_to_be_too_few_wherever_they_are(scores: Scores) -> None:
    tiny = scores.tiny
    assert "the training rows are too few for 12 models" in tiny.why("model-2")
    assert re.match(r"among \d+ training rows the gate cannot see a leak: bring 100", tiny.why("infra-4"))
    assert re.search(r"on 1\d \(only \d with diagnosis = benign\) test rows: bring more", tiny.why("data-2"))
    assert tiny.rows["data-1"][0] == "passed"
