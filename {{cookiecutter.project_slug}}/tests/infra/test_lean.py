"""Does a worker keep out what only training needs? Each of it takes seconds at the start, and memory ever after."""

import json
import subprocess
import sys
from collections.abc import Callable

import pyarrow.parquet as pq

from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model
from flight_delays.serving import door, worker
from flight_delays.serving.release import Release, Store

from tests.conftest import Project

Copy = Callable[[Project], Project]
HEAVY = {"great_expectations", "lightgbm", "matplotlib", "mlflow", "pandas", "scipy", "sklearn"}
HEAVY |= {"jsonschema", "open_data_contract_standard"}  # by which a contract is checked, which was done
ASK = """
import json, sys
from starlette.testclient import TestClient
from {module} import start

with TestClient(start()) as client:
    answer = client.post("/predict", content=sys.argv[1])
print(json.dumps([answer.status_code, sorted(set(sys.modules))]))
"""


def test_a_worker_answers_without_what_only_training_needs(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    model = Model.load(project.path / "models/candidate")
    if not model.boosted:
        does_not_apply("the model is scikit-learn's, which then has to be there")
    store = Store(project.path / "models/serving")
    store.add("tried", project.path / "models/candidate")
    store.publish(Release("tried"))
    rows = pq.read_table(project.path / "data/test.parquet").slice(0, 20)
    body = json.dumps({"rows": door.to_json(rows, model.contract)})
    asked = project.run(sys.executable, "-c", ASK.format(module=worker.__name__), body)
    assert asked.returncode == 0, asked.stderr
    status, modules = json.loads(asked.stdout.splitlines()[-1])  # before it stand the lines of the service's log
    assert status == 200
    assert HEAVY.isdisjoint(modules), HEAVY.intersection(modules)
    assert subprocess.run([sys.executable, "-c", "import pandas"], check=False).returncode == 0  # it could have been
