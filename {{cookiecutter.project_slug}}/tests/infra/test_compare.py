"""Does a reviewer see what a change does to data, model and score, and only that?"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flight_delays.compare import METRICS, SCORE, compare
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply

from tests.conftest import Project

Copy = Callable[[Project], Project]


@pytest.fixture
def committed(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, with all that it made committed, and a score; in the current folder."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    row = {"id": "data-1", "title": "", "state": "passed", "points": 1, "detail": "", "tests": []}
    Path(SCORE).write_text(json.dumps({"score": 7, "sections": [{"rows": [row]}]}), encoding="utf-8")
    commit(project)
    return project


def commit(project: Project) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    assert project.run("git", "add", "--all").returncode == 0
    assert project.run("git", *identity, "commit", "--quiet", "--message", "Made").returncode == 0


def change(name: str, edit: Callable[[Any], object]) -> None:
    document = json.loads(Path(name).read_text(encoding="utf-8"))
    edit(document)
    Path(name).write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.usefixtures("committed")
def test_no_difference_is_said_to_be_none() -> None:
    assert compare("HEAD").splitlines()[2:] == ["Nothing that is measured is different."]


@pytest.mark.usefixtures("committed")
def test_a_surely_worse_model_is_called_worse_and_a_better_one_better() -> None:
    deciding = json.loads(Path(METRICS).read_text(encoding="utf-8"))["score"]
    greater = deciding == "roc_auc"
    for shift, word in ((-10, "worse" if greater else "better"), (20, "better" if greater else "worse")):
        change(METRICS, lambda found, by=shift: found["test"][deciding].update(moved(found["test"][deciding], by)))  # type: ignore[misc]
        line = next(line for line in compare("HEAD").splitlines() if line.startswith(f"| {deciding} "))
        assert f"**{word}**" in line
        assert "alike" in compare("HEAD")  # the others have not moved


def moved(value: dict[str, float], by: float) -> dict[str, float]:
    width = value["high"] - value["low"] + 1e-3
    return {name: number + by * width for name, number in value.items()}


@pytest.mark.usefixtures("committed")
def test_a_row_lost_is_named_with_its_reason() -> None:
    def lose(found: Any) -> None:
        found["score"] = 6
        found["sections"][0]["rows"][0].update(state="failed", detail="the schema is not kept")

    change(SCORE, lose)
    page = compare("HEAD")
    assert "6 of 7, was 7" in page
    assert "- data-1: passed before, **failed** now: the schema is not kept" in page


def test_a_change_of_contract_and_parameters_is_named_field_by_field(committed: Project) -> None:
    name = committed.contract.features[0].name
    committed.edit("params.yaml", lambda found: found["split"].update(seed=4711))
    committed.edit(
        "contract.yaml",
        lambda found: next(
            entry for entry in found["schema"][0]["properties"] if entry["name"] == name
        ).update(description="Seen twice"),
    )  # fmt: skip
    page = compare("HEAD")
    assert "- `split.seed`: 0 → 4711" in page
    assert f"- `{name}.description`: " in page
    assert '→ "Seen twice"' in page
    assert "`contract.yaml`, `params.yaml`" in page.split("## To be committed")[1]


def test_rows_that_moved_are_named_by_feature_and_by_how_far(committed: Project) -> None:
    plain = [
        column for column in committed.contract.features if column.type in {"integer", "number", "string", "boolean"}
    ]
    if not plain:
        does_not_apply("all features are dates or times")
    name = plain[0].name
    quoted = name.replace('"', '""')
    committed.rewrite(
        f'SELECT * FROM sample ORDER BY "{quoted}", hash(sample) LIMIT (SELECT count(*) * 7 // 10 FROM sample)'
    )
    made = committed.run("dvc", "repro", "train")
    assert made.returncode == 0, made.stdout + made.stderr
    data = compare("HEAD").split("## Data")[1].split("##")[0]
    assert "`data/train.parquet` is other than it was" in data
    assert f"- `{name}`: moved by" in data
    assert "(population stability index)" in data


def test_where_the_other_model_is_gone_that_is_said(committed: Project) -> None:
    shutil.rmtree(committed.path / ".dvc/cache")
    assert "How far the features have moved is not known" in compare("HEAD")


@pytest.mark.usefixtures("committed")
def test_an_unknown_base_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="nowhere is no commit known here: fetch it"):
        compare("nowhere")


@pytest.mark.usefixtures("committed")
def test_the_first_push_has_nothing_to_be_compared_with() -> None:
    assert "Nothing to compare with" in compare("0" * 40)


def test_a_column_that_becomes_a_feature_is_a_new_one(committed: Project) -> None:
    name = committed.contract.features[-1].name

    def forget(found: Any) -> None:
        entry = next(one for one in found["schema"][0]["properties"] if one["name"] == name)
        entry["tags"] = [tag for tag in entry["tags"] if tag != "feature"]

    committed.edit("contract.yaml", forget)
    made = committed.run("dvc", "repro", "train")
    assert made.returncode == 0, made.stdout + made.stderr
    data = compare("HEAD").split("## Data")[1].split("##")[0]
    assert f"- `{name}" in data
    assert "no feature any more" in data


def test_without_a_model_and_a_contract_that_can_be_used_the_rest_is_compared(committed: Project) -> None:
    Path(METRICS).unlink()
    committed.edit("contract.yaml", lambda found: found["schema"][0].update(properties=[]))
    assert "There is no model yet: `make pipeline`." in compare("HEAD")
