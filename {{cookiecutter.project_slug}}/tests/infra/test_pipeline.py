"""Does the pipeline run from the data to a registered model, and give the same again?"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays.errors import InputError
from flight_delays.model import Model
from flight_delays.pipeline import register, train
from flight_delays.settings import tracking_uri
from flight_delays.tracking import Registry

from tests.conftest import ROOT, Project

Copy = Callable[[Project], Project]


def hashes(project: Project) -> dict[str, Any]:
    """Give the hash of each output of each stage."""
    stages = yaml.safe_load((project.path / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def test_a_stage_is_a_module_and_a_section_of_the_parameters() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        module = import_module(f"flight_delays.pipeline.{name}")
        assert stage["cmd"] == f"python -m {module.__name__}"
        assert f"src/{module.__name__.replace('.', '/')}.py" in stage["deps"]
    sections = set(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    others = {"doctor", "serve", "monitor", "speed"}  # no stage is to run again for what no stage reads
    assert sections <= set(stages) | {"tune"} | others
    used = {param.split(".")[0] for stage in stages.values() for param in stage.get("params", [])}
    assert used == sections - others


def test_the_whole_run_leaves_a_champion_that_mlflow_serves_as_we_do(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_project.path)
    mlflow.set_tracking_uri(tracking_uri())
    registry, name = mlflow.MlflowClient(), finished_project.contract.id
    versions = registry.search_model_versions(f"name = '{name}'")
    assert len(versions) == 1
    served = mlflow.pyfunc.load_model(f"models:/{name}/1")
    ours = Model.load(finished_project.path / "models/candidate")
    rows = pq.read_table("data/test.parquet").slice(0, 5)
    answer: pd.DataFrame = served.predict(served.input_example)
    output = ours.score(rows)
    assert answer["prediction"].tolist() == ours.decide(output)
    if ours.contract.task == "binary":
        np.testing.assert_array_equal(answer["probability"], output)


def test_the_registry_is_that_of_the_current_folder(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for folder in (finished_project.path, tmp_path):
        monkeypatch.chdir(folder)
        found.append(Registry(finished_project.contract.id).find_version({}))
    assert found[0]
    assert found[1] is None


def test_the_registered_version_says_where_it_comes_from(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_project.path)
    mlflow.set_tracking_uri(tracking_uri())
    registry, name = mlflow.MlflowClient(), finished_project.contract.id
    (version,) = registry.search_model_versions(f"name = '{name}'")
    head = finished_project.run("git", "rev-parse", "HEAD").stdout.strip()
    assert version.tags["git.commit"] == head
    assert version.tags["git.dirty"] == "false"
    assert version.tags["contract"] == finished_project.contract.digest
    assert {"model", "data", "params", "dvc.lock", "gate", "gate.reason"} <= set(version.tags)
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    logged = registry.get_run(version.run_id).data.metrics
    assert logged[f"test.{metrics['score']}.value"] == pytest.approx(metrics["test"][metrics["score"]]["value"])
    if (passed := version.tags["gate"]) == "passed":
        assert registry.get_model_version_by_alias(name, "champion").version == version.version
    assert passed in {"passed", "refused"}


def test_running_again_does_nothing_and_registers_nothing(
    finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy(finished_project)
    ran = project.run("dvc", "repro", "register")
    assert "didn't change, skipping" in ran.stdout
    assert "Running stage" not in ran.stdout
    monkeypatch.chdir(project.path)
    register.main()
    again = capsys.readouterr().out
    assert "version 1" in again
    assert "version 2" not in again


def test_a_change_of_a_parameter_runs_its_stage_and_what_follows(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    project.edit("params.yaml", lambda document: document["train"]["hyperparameters"].update(n_estimators=3))
    planned = project.run("dvc", "status").stdout
    assert "train:" in planned
    assert "ingest:" not in planned
    shown = project.run("dvc", "params", "diff").stdout
    assert "n_estimators" in shown


def test_metrics_and_plots_are_wired(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    score = json.loads((project.path / "reports/metrics.json").read_text(encoding="utf-8"))["score"]
    assert score in project.run("dvc", "metrics", "show").stdout
    ran = project.run("dvc", "plots", "show", "--out", "plots")
    assert ran.returncode == 0, ran.stderr
    page = (project.path / "plots/index.html").read_text(encoding="utf-8")
    for title in ("Learning curve", "Calibration", "Decisions"):
        assert title in page


def test_a_broken_contract_stops_the_run_before_a_model_is_made(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    before = hashes(project)
    project.edit("contract.yaml", lambda document: _require_the_impossible(document, project))
    ran = project.run("dvc", "repro")
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert "expectations of contract.yaml are broken" in ran.stderr
    assert project.contract.features[0].name in ran.stderr
    assert hashes(project).keys() == before.keys()
    assert hashes(project)["models/candidate"] == before["models/candidate"]


def _require_the_impossible(document: dict[str, Any], project: Project) -> None:
    first = project.contract.features[0].name
    (entry,) = (e for e in document["schema"][0]["properties"] if e["name"] == first)
    rule = {"type": "expect_column_unique_value_count_to_be_between", "kwargs": {"min_value": 10**9}}
    entry.setdefault("quality", []).append({"type": "custom", "engine": "greatExpectations", "implementation": rule})


def test_a_fit_that_memory_cannot_hold_is_refused_before_it_starts() -> None:
    train.refuse_too_large(1_000, 10)
    with pytest.raises(InputError, match=r"needs about .* GiB.* set train\.max_rows in params\.yaml to"):
        train.refuse_too_large(10**12, 20)
