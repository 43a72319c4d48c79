"""Can one prediction be followed step by step, and is each step the same in the pipeline and in the service?"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flight_delays import explain, features
from flight_delays.model import Model
from flight_delays.serving import door

from tests.conftest import ROOT, Project
from tests.service import ask, differences, serve

ROWS = 20  # drawn from all test rows, and as many from those with a null


@pytest.fixture(scope="session")
def source() -> Path:
    """The code that serves."""
    return ROOT / "src"


def draw(project: Project) -> list[int]:
    """Draw places of test rows, with a fixed seed; rows with nulls among them."""
    contract = project.contract
    rows = pq.read_table(project.path / "data/test.parquet", columns=[column.name for column in contract.features])
    nulls = np.any([rows[name].is_null().to_numpy() for name in rows.column_names], axis=0)
    random = np.random.default_rng(0)
    places: set[int] = set()
    for some in (np.arange(rows.num_rows), np.flatnonzero(nulls)):
        places |= set(random.choice(some, min(ROWS, len(some)), replace=False).tolist())
    return sorted(places)


@pytest.mark.ml_test("infra-5")
def test_each_step_of_a_row_is_the_same_in_the_pipeline_and_in_the_service(
    project: Project, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    model = Model.load(explain.MODEL)
    found = []
    with serve(project, "--model", str(explain.MODEL), source=source) as client:
        for place in draw(project):
            row = explain.find(str(place), "test", model.contract).row
            theirs = ask(client, "/explain", door.to_json(row, model.contract))
            found += [f"test row {place}: {words}" for words in differences(explain.explain(model, row), theirs)]
    if found:
        pytest.fail("\n".join(found[:20]), pytrace=False)


@pytest.mark.sabotage(
    of=test_each_step_of_a_row_is_the_same_in_the_pipeline_and_in_the_service,
    fault="the service encodes one feature otherwise than the pipeline",
)
def test_another_encoding_in_the_service_is_named_by_its_feature(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = features.features(project.contract)[-1].name
    other = tmp_path / "src"
    shutil.copytree(ROOT / "src", other)
    path = other / Path(features.__file__).relative_to(ROOT / "src")
    planted = "\n    matrix[~np.isfinite(matrix)] = np.nan\n"
    text = path.read_text(encoding="utf-8")
    assert text.count(planted) == 1
    fault = (
        "\n    if len(matrix) == 1:  # else the golden rows keep the service from starting\n        matrix[:, -1] += 1"
    )
    path.write_text(text.replace(planted, fault + planted), encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=rf"test row \d+: feature '{name}': number is .* in the service"):
        test_each_step_of_a_row_is_the_same_in_the_pipeline_and_in_the_service(project, other, monkeypatch)
