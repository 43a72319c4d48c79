"""Do generated projects work? Each is set up, checked, trained and tested by its own commands, on data of its kind."""

import contextlib
import csv
import ctypes
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from bakery import Bake, git
from cookiecutter.main import cookiecutter

pytestmark = pytest.mark.slow
with_example = pytest.mark.xdist_group("example")  # made once, in one process

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """A generated project.

    Attributes
    ----------
    path
        Its folder.
    """

    path: Path

    def make(self, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make as a person would."""
        return subprocess.run(
            ["make", *targets], cwd=self.path, env=os.environ | environment, capture_output=True, text=True, check=False
        )

    def python(self, code: str) -> str:
        """Run Python in the project's environment, and give what it printed."""
        command = ["uv", "run", "--no-sync", "python", "-W", "ignore", "-c", code]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hashes(self) -> dict[str, str]:
        """Give the hash of each output of each stage, but for the registry's own."""
        stages = yaml.safe_load((self.path / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}

    @property
    def changed(self) -> set[str]:
        """What git would commit."""
        return {line[3:] for line in git(self.path, "status", "--porcelain").splitlines()}


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Give what a command printed, having seen that it succeeded."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def binary(draw: random.Random) -> Rows:
    """Text categories and nulls, a yes or no to predict, an e-mail address to keep out."""
    rows = []
    for number in range(900):
        town, age = draw.choice(["Basel", "Bern", "Zürich"]), draw.randint(18, 90)
        likely = 0.1 + 0.5 * (town == "Bern") + 0.003 * age
        rows.append({
            "customer_id": f"C{number:05d}",
            "town": town if draw.random() > 0.05 else "",
            "age": age if draw.random() > 0.1 else "",
            "income": round(draw.lognormvariate(8, 0.5), 2),
            "email": f"person{number}@example.org",
            "bought": "yes" if draw.random() < likely else "no",
        })  # fmt: skip
    return rows


def multiclass(draw: random.Random) -> Rows:
    """Sixty columns, four classes."""
    rows = []
    for _ in range(800):
        kind = draw.choice(["north", "east", "south", "west"])
        centre = ["north", "east", "south", "west"].index(kind)
        rows.append({f"x{index}": round(draw.gauss(centre * (index < 12) * 0.5, 1), 4) for index in range(60)} | {"kind": kind})
    return rows


def regression(draw: random.Random) -> Rows:
    """Predict a number, with an event time."""
    start = datetime.datetime(2024, 1, 1)  # noqa: DTZ001 (the file has no time zone either)
    rows = []
    for hour in range(1500):
        when = start + datetime.timedelta(hours=hour)
        load = 50 + 20 * (8 <= when.hour <= 18) + 5 * (when.weekday() < 5) + draw.gauss(0, 3)
        rows.append({
            "measured_at": when.isoformat(sep=" "),
            "temperature": round(draw.gauss(12, 6), 1),
            "station": draw.choice("ABC"),
            "load": round(load, 2),
        })  # fmt: skip
    return rows


def nasty(draw: random.Random) -> Rows:
    """Names that are keywords, spaced, quoted or in other scripts; dates, mixed types, constants, repeated rows."""
    rows = []
    for number in range(700):
        score = draw.randint(0, 100)
        rows.append({
            "class": draw.choice(["a", "b; c", 'd "e"']),
            "größe in m²": round(draw.uniform(1, 9), 2),
            "the 'date'": f"{draw.randint(1, 28):02d}.{draw.randint(1, 12):02d}.{draw.randint(2019, 2023)}",
            "mixed": draw.choice(["12", "7", "n/a", "many"]),
            "評価": score,
            "constant": "same",
            "empty": "",
            "select": "" if number % 3 else draw.choice(["ja", "nein"]),
            "Ergebnis %": "gut" if score + draw.gauss(0, 15) > 50 else "schlecht",
        })  # fmt: skip
    return rows + rows[:40]


def plainly(path: Path, rows: Rows) -> None:
    """Write a plain CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def nastily(path: Path, rows: Rows) -> None:
    """Write semicolons, Windows line ends and a byte order mark."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


KINDS: dict[str, tuple[Callable[[random.Random], Rows], Callable[[Path, Rows], None], str, dict[str, str]]] = {
    "binary": (binary, plainly, "bought", {"remote": "s3", "ci": "gitlab"}),
    "multiclass": (multiclass, plainly, "kind", {"remote": "gcs", "ci": "jenkins", "license": "Apache-2.0"}),
    "regression": (regression, plainly, "load", {"remote": "azure", "ci": "travis", "license": "BSD-3-Clause"}),
    "nasty": (nasty, nastily, "Ergebnis %", {"ci": "none", "license": "Proprietary"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_on_data_of_its_own_passes_its_own_commands(bake: Bake, tmp_path: Path, kind: str) -> None:
    rows, write, target, answers = KINDS[kind]
    write(tmp_path / f"{kind} data.csv", rows(random.Random(7)))  # noqa: S311
    made = Made(bake(project_name=f"My {kind}", dataset=str(tmp_path / f"{kind} data.csv"), target=target, **answers))
    for target_name in ("setup", "check", "pipeline", "test"):
        printed = ok(made.make(target_name))
        assert "Traceback" not in printed, target_name
    asked = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); m = mlflow.pyfunc.load_model('models:/NAME/1');"
    answer = made.python(asked.replace("NAME", f"my-{kind}") + "print(m.predict(m.input_example).to_json())")
    assert len(json.loads(answer.splitlines()[-1])["prediction"]) == 5
    roots = {name.split("/")[0] for name in made.changed}
    assert roots == {"contract.yaml", "uv.lock", "dvc.lock", "reports", "data"}, made.changed
    assert "Running stage" not in ok(made.make("pipeline"))


@pytest.fixture(scope="module")
def example(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make the example project, set it up and run it, and commit. Do not change it: make a `clone`."""
    folder = tmp_path_factory.mktemp("example")
    made = Made(Path(cookiecutter(str(template), no_input=True, output_dir=str(folder))))
    ok(made.make("setup"))
    ok(made.make("check"))
    printed = ok(made.make("pipeline"))
    assert "passed: roc_auc gain over the constant baseline" in printed
    assert {name.split("/")[0] for name in made.changed} == {"uv.lock", "dvc.lock", "reports"}
    git(made.path, "add", "--all")
    git(made.path, "commit", "--quiet", "--message", "First model")
    return made


def clone(made: Made, tmp_path: Path) -> Made:
    """Clone a project, as a colleague does."""
    git(tmp_path, "clone", "--quiet", str(made.path), "clone")
    return Made(tmp_path / "clone")


@with_example
def test_the_example_passes_its_own_tests_and_leaves_the_tree_clean(example: Made) -> None:
    ok(example.make("test"))
    assert example.changed == set()


@with_example
def test_a_fresh_clone_makes_the_same_bits_whatever_kills_it_on_the_way(example: Made, tmp_path: Path) -> None:
    """Kill the pipeline in each stage in turn; what it makes in the end is what the first project made undisturbed."""
    made = clone(example, tmp_path)
    expected = made.hashes()
    (made.path / "dvc.lock").unlink()
    shutil.rmtree(made.path / "reports")
    ok(made.make("setup"))
    for stage in ("ingest", "validate", "split", "train", "evaluate", "register"):
        kill_in(stage, made)
    ok(made.make("pipeline"))
    assert made.hashes() == expected
    assert made.changed <= {"dvc.lock"}  # the registry is new, so its stage ran
    listed = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
    versions = made.python(listed + "print(len(c.search_model_versions(\"name = 'flight-delays'\")))")
    assert versions.splitlines()[-1] == "1"


@pytest.fixture(autouse=True, scope="module")
def _orphans_come_to_us() -> None:
    """Bury the children of a killed process, which a container may lack an init for: DVC takes a zombie for alive."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, see prctl(2)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all its children, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-process.pid, 0)


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
        time.sleep(1.2)  # past the start of Python, into the work
        kill(process)


@with_example
def test_two_pipelines_at_once_do_not_disturb_each_other(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    expected = made.hashes()
    (made.path / "dvc.lock").unlink()
    ok(made.make("setup"))
    first = subprocess.Popen(["make", "pipeline"], cwd=made.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(6)
    second = made.make("pipeline")
    assert first.wait() == 0
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert "lock" in second.stderr
    assert made.hashes() == expected


@with_example
def test_experiments_and_differences_work_as_the_readme_says(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    ok(made.make("setup"))

    def dvc(*arguments: str) -> str:
        command = ["uv", "run", "--no-sync", "dvc", *arguments]
        return ok(subprocess.run(command, cwd=made.path, capture_output=True, text=True, check=False))

    dvc("exp", "run", "-S", "train.hyperparameters.n_estimators=40")
    assert "n_estimators" in dvc("params", "diff")
    assert "roc_auc" in dvc("metrics", "diff")
    dvc("plots", "diff")
    assert "roc_auc" in dvc("exp", "show", "--csv")


def test_a_search_goes_on_after_a_kill_and_ends_like_one_that_was_not_disturbed(bake: Bake, tmp_path: Path) -> None:
    plainly(tmp_path / "shop.csv", binary(random.Random(3)))  # noqa: S311
    made = Made(bake(project_name="Shop", dataset=str(tmp_path / "shop.csv"), target="bought"))
    ok(made.make("setup"))
    params = made.path / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("trials: 30", "trials: 8"), encoding="utf-8")
    untouched = params.read_text(encoding="utf-8")
    ok(made.make("tune"))
    undisturbed = params.read_text(encoding="utf-8")
    assert undisturbed != untouched
    assert untouched.count("#") == undisturbed.count("#")

    params.write_text(untouched, encoding="utf-8")
    (made.path / "models/tuning.db").unlink()
    process = subprocess.Popen(
        ["make", "tune"], cwd=made.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    count = "import optuna; print(sum(t.state.is_finished() for s in optuna.get_all_study_summaries('sqlite:///models/tuning.db')"
    count += " for t in optuna.load_study(study_name=s.study_name, storage='sqlite:///models/tuning.db').trials))"
    for _ in range(100):
        time.sleep(0.3)
        if (made.path / "models/tuning.db").exists():
            done = subprocess.run(
                ["uv", "run", "--no-sync", "python", "-c", count], cwd=made.path, capture_output=True, text=True, check=False
            )
            if done.stdout.strip() and int(done.stdout) >= 2:
                break
    kill(process)
    ok(made.make("tune"))
    assert params.read_text(encoding="utf-8") == undisturbed


def test_new_data_that_breaks_the_contract_is_refused_and_the_contract_says_what_changed(bake: Bake, tmp_path: Path) -> None:
    rows = binary(random.Random(5))  # noqa: S311
    plainly(tmp_path / "shop.csv", rows)
    made = Made(bake(project_name="Shop", dataset=str(tmp_path / "shop.csv"), target="bought"))
    ok(made.make("setup"))
    ok(made.make("pipeline"))
    lock = made.hashes()
    rows[6]["town"] = "Atlantis"
    rows[7]["age"] = 4000
    plainly(made.path / "data/raw/shop.csv", rows)
    refused = made.make("pipeline")
    assert refused.returncode != 0
    assert "Traceback" not in refused.stdout + refused.stderr
    for words in ("'town'", "Atlantis", "'age'", "4000", "row 7", "row 8"):
        assert words in refused.stderr, words
    assert made.hashes()["models/candidate"] == lock["models/candidate"]
    shown = ok(made.make("contract"))
    assert "Atlantis" in shown
    plainly(made.path / "data/raw/shop.csv", [row | {"shoe": 1} for row in rows])
    assert "'shoe' is not in contract.yaml" in made.make("pipeline").stderr


def test_without_network_setup_says_what_it_cannot_reach(bake: Bake, tmp_path: Path) -> None:
    made = Made(bake(project_name="Alone"))
    unreachable = {
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_HTTP_RETRIES": "0",
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
    }
    stopped = made.make("setup", **unreachable)
    assert stopped.returncode != 0
    assert "Traceback" not in stopped.stderr
    assert "127.0.0.1:9" in stopped.stderr
    assert not (made.path / "uv.lock").exists()


@with_example
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system: run `sudo make test`")
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(example: Made, tmp_path: Path) -> None:
    made = clone(example, tmp_path)
    (made.path / "dvc.lock").unlink()
    ok(made.make("setup"))
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
