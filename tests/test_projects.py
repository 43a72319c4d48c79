"""Do generated projects work? Each is set up, checked, trained and tested by its own commands, on data of its kind."""

import csv
import datetime
import json
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bakery import Bake
from projects import Made, kill, ok

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]


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
    "regression": (
        regression, plainly, "load",
        {"package_name": "forecast", "remote": "azure", "ci": "travis", "license": "BSD-3-Clause"},
    ),
    "nasty": (nasty, nastily, "Ergebnis %", {"ci": "none", "license": "Proprietary"}),
}  # fmt: skip


PARTS = {  # of the suite, each on data of two kinds and more; the example passes all of it, and test_scores' data most
    "binary": ["tests/data", "--deselect=tests/data/test_feature_code.py"],  # which asks the code, and that is the same
    "multiclass": ["tests/model"],
    "regression": ["tests/model", "tests/monitoring"],
    "nasty": ["tests/data", "tests/monitoring"],
}


FUZZED = ("regression", "nasty")  # with times, and with names and values that are hard to spell


def fuzz(made: Made) -> None:
    """Ask the service whatever its documentation allows, and what it does not: all answers must be as that says."""
    (package,) = (made.path / "src").iterdir()
    command = ["uv", "run", "--no-sync", "python", "-m", f"{package.name}.serving", "--port", "0", "--alone"]
    with subprocess.Popen(command, cwd=made.path, stdout=subprocess.PIPE, start_new_session=True) as serving:
        try:
            assert serving.stdout
            place = re.search(rb"http://127.0.0.1:\d+", serving.stdout.readline())
            assert place
            fuzzer = ["uvx", "schemathesis@4.32.5", "run", "--no-color", "--seed", "7", "--max-examples", "500"]
            known = ("--exclude-checks", "positive_data_acceptance")  # JSON Schema has no words for the bounds of a time
            asked = [*fuzzer, *known, f"{place[0].decode()}/openapi.json"]
            printed = ok(subprocess.run(asked, cwd=made.path.parent, capture_output=True, text=True, check=False))
        finally:
            kill(serving)
    count = re.search(r"([\d,]+) generated", printed)
    assert count, printed
    assert int(count[1].replace(",", "")) > 1_000, printed


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_on_data_of_its_own_passes_its_own_commands(bake: Bake, tmp_path: Path, kind: str) -> None:
    rows, write, target, answers = KINDS[kind]
    write(tmp_path / f"{kind} data.csv", rows(random.Random(7)))  # noqa: S311
    made = Made(bake(project_name=f"My {kind}", dataset=str(tmp_path / f"{kind} data.csv"), target=target, **answers))
    for printed in (made.set_up(), ok(made.make("check")), ok(made.make("pipeline"))):
        assert "Traceback" not in printed
    command = ["uv", "run", "--no-sync", "pytest", *PARTS[kind]]
    ok(made.run(*command))
    if kind in FUZZED:
        fuzz(made)
    asked = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); m = mlflow.pyfunc.load_model('models:/NAME/1');"
    answer = made.python(asked.replace("NAME", f"my-{kind}") + "print(m.predict(m.input_example).to_json())")
    assert len(json.loads(answer.splitlines()[-1])["prediction"]) == 5
    roots = {name.split("/")[0] for name in made.changed}
    assert roots == {"contract.yaml", "uv.lock", "dvc.lock", "reports", "data"}, made.changed
    assert "Running stage" not in ok(made.make("pipeline"))


def test_a_search_goes_on_after_a_kill_and_ends_like_one_that_was_not_disturbed(bake: Bake, tmp_path: Path) -> None:
    plainly(tmp_path / "shop.csv", binary(random.Random(3)))  # noqa: S311
    made = Made(bake(project_name="Shop", dataset=str(tmp_path / "shop.csv"), target="bought"))
    made.set_up()
    params = made.path / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("trials: 20", "trials: 8"), encoding="utf-8")
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
    made.set_up()
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
