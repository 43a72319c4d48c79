"""Does data become a served prediction: pipeline, registry and service in one go, and the model's own to the bit?"""

from collections.abc import Callable

import mlflow
import pyarrow.parquet as pq
import pytest

from flight_delays.explain import explain
from flight_delays.model import Model
from flight_delays.serving import door
from flight_delays.serving.service import answers

from tests.conftest import Project
from tests.service import ask, differences, serve

Copy = Callable[[Project], Project]
ROWS = 500  # of one request


@pytest.fixture
def registered(finished_project: Project, copy: Copy) -> Project:
    """A copy of the sample project whose model is champion, even where the gate asks for more than a sample shows."""
    project = copy(finished_project)
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    client.set_registered_model_alias(project.contract.id, "champion", "1")
    return project


@pytest.mark.slow
@pytest.mark.ml_test("infra-3")
def test_the_service_answers_as_the_model_that_the_pipeline_made(registered: Project) -> None:
    model = Model.load(registered.path / "models/candidate")
    rows = pq.read_table(registered.path / "data/test.parquet")
    with serve(registered) as client:
        for first in range(0, rows.num_rows, ROWS):
            sent = rows.slice(first, ROWS)
            served = ask(client, "/predict", door.to_json(sent, model.contract))
            pairs = zip(answers(model, model.score(sent)), served["predictions"], strict=True)
            for place, (ours, theirs) in enumerate(pairs):
                if ours != theirs:
                    row = sent.slice(place, 1)
                    steps = ask(client, "/explain", door.to_json(row, model.contract))
                    why = "\n".join(f"  {words}" for words in differences(explain(model, row), steps)[:5])
                    pytest.fail(
                        f"test row {first + place}: {served['model']['name']} version {served['model']['version']} "
                        f"answers {theirs}, models/candidate {ours}:\n{why}",
                        pytrace=False,
                    )


@pytest.mark.sabotage(
    of=test_the_service_answers_as_the_model_that_the_pipeline_made,
    fault="the champion is not the model that the pipeline made",
)
def test_another_model_behind_the_service_is_named_by_its_first_row(registered: Project) -> None:
    rows = pq.read_metadata(registered.path / "data/train.parquet").num_rows
    registered.edit("params.yaml", lambda document: document["train"].update(max_rows=rows // 2))
    ran = registered.stage("train")
    assert ran.returncode == 0, ran.stderr
    name = registered.contract.id
    with pytest.raises(
        pytest.fail.Exception, match=rf"test row \d+: {name} version 1 answers .*\n  feature '.*': contri"
    ):
        test_the_service_answers_as_the_model_that_the_pipeline_made(registered)
