"""Does the example work? It is made once, set up, trained and scored, and then disturbed in every way."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from projects import Made, clone, commit, first_model, kill, ok

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make the example project, set it up and run it, and commit. Do not change it: make a `clone`."""
    folder = tmp_path_factory.mktemp("example")
    made = first_model(template, folder)
    ok(made.make("check"))
    scored = made.make("score")
    (made.path.parent / "score.txt").write_text(scored.stdout + scored.stderr, encoding="utf-8")
    commit(made, "First score")
    return made


def pipeline_hashes(made: Made) -> dict[str, str]:
    """Give the hashes of what `make pipeline` makes: without the closer look of `make score`."""
    return {name: md5 for name, md5 in made.hashes().items() if not name.startswith("reports/assessment")}


def rows_of_score(made: Made) -> dict[str, dict[str, Any]]:
    """Give the rows of the ML Test Score, by id."""
    found = json.loads((made.path / "reports/ml_test_score.json").read_text(encoding="utf-8"))
    return {row["id"]: row for section in found["sections"] for row in section["rows"]}


def test_the_example_passes_its_own_tests_and_leaves_the_tree_clean(example: Made) -> None:
    ok(example.make("test", PYTEST_ADDOPTS="-m 'not ml_test'"))  # the marked ones were run by `make score`
    assert example.changed == set()


def test_the_example_has_full_marks_on_its_first_commit(example: Made) -> None:
    printed = (example.path.parent / "score.txt").read_text(encoding="utf-8")
    states = {name: row["state"] for name, row in rows_of_score(example).items()}
    assert len(states) == 28
    assert set(states.values()) == {"passed"}, printed[-6000:]
    assert "ML Test Score 7 of 7" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["test_watch.py", "test_week.py"])
def test_faults_raise_their_alerts_and_a_week_of_good_health_none(example: Made, name: str) -> None:
    """Run what is too slow for each project's own suite: service, monitor, Prometheus and Alertmanager together."""
    inside = example.path / "tests/monitoring" / name
    shutil.copy(Path(__file__).parent / "inside" / name, inside)
    try:
        printed = ok(example.run(".venv/bin/pytest", "-q", "-p", "no:cacheprovider", str(inside)))
    finally:
        inside.unlink()
    assert " passed" in printed
    assert "skipped" not in printed
    assert example.changed == set()


def test_a_fresh_clone_makes_the_same_bits_whatever_kills_it_on_the_way(example: Made, tmp_path: Path) -> None:
    """Kill the pipeline in each stage in turn; what it makes in the end is what the first project made undisturbed."""
    made = clone(example, tmp_path)
    expected = pipeline_hashes(made)
    (made.path / "dvc.lock").unlink()
    for path in (made.path / name for name in expected):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    made.set_up()
    for stage in ("ingest", "validate", "split", "train", "evaluate", "register"):
        kill_in(stage, made)
    ok(made.make("pipeline"))
    assert made.hashes() == expected
    assert made.changed <= {"dvc.lock"}  # the registry is new, so its stage ran
    listed = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
    versions = made.python(listed + "print(len(c.search_model_versions(\"name = 'flight-delays'\")))")
    assert versions.splitlines()[-1] == "1"


def kill_in(stage: str, made: Made) -> None:
    """Start the pipeline, and kill it with all its children as soon as a stage is at work."""
    with (made.path.parent / f"{stage}.log").open("w+b") as log:
        process = subprocess.Popen(
            ["make", "pipeline"], cwd=made.path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 300
        mark = f"Running stage '{stage}'".encode()
        while mark not in Path(log.name).read_bytes():
            assert process.poll() is None, Path(log.name).read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Past the start of Python, into the work; not into DVC's writing of dvc.lock, which is not made to be killed.
        time.sleep(0.5 if stage == "split" else 1.2)
        kill(process)


def test_two_pipelines_at_once_do_not_disturb_each_other(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    expected = pipeline_hashes(made)
    (made.path / "dvc.lock").unlink()
    made.set_up()
    first = subprocess.Popen(["make", "pipeline"], cwd=made.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(6)
    second = made.make("pipeline")
    assert first.wait() == 0
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert "lock" in second.stderr
    assert made.hashes() == expected


def test_experiments_and_differences_work_as_the_readme_says(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    made.set_up()

    def dvc(*arguments: str) -> str:
        command = ["uv", "run", "--no-sync", "dvc", *arguments]
        return ok(made.run(*command))

    dvc("exp", "run", "-S", "train.hyperparameters.n_estimators=40")
    assert "n_estimators" in dvc("params", "diff")
    assert "roc_auc" in dvc("metrics", "diff")
    dvc("plots", "diff")
    assert "roc_auc" in dvc("exp", "show", "--csv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system: run `sudo make test`")
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    (made.path / "dvc.lock").unlink()
    made.set_up()
    data = made.path / "data"
    data.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(data)], check=True)
    try:
        stopped = made.make("pipeline")
        assert stopped.returncode != 0
        assert "Traceback" not in stopped.stderr
        assert "the disk is full" in stopped.stderr
        assert list(data.iterdir()) == []
    finally:
        subprocess.run(["umount", str(data)], check=True)
    ok(made.make("pipeline"))
