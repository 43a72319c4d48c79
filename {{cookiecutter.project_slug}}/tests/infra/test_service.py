"""Does the service answer in every kind of task, and say in one line what is wrong with a request or its start?"""

import asyncio
import json
import math
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import features, serving
from flight_delays.errors import InputError
from flight_delays.explain import explain, find
from flight_delays.model import Model, fit, make_estimator
from flight_delays.serving import door
from flight_delays.serving.__main__ import reserve
from flight_delays.serving.app import create_app
from flight_delays.serving.lane import MAX_BYTES
from flight_delays.serving.roles import MAX_ROWS
from flight_delays.serving.service import MAX_LISTED
from flight_delays.steps import draw, tell

from tests.conftest import Project

Copy = Callable[[Project], Project]
Fitted = Callable[..., tuple[Model, pa.Table]]
TASKS = ("binary", "multiclass", "regression")
OTHERS = {
    "binary": "sklearn.naive_bayes.GaussianNB",
    "multiclass": "sklearn.naive_bayes.GaussianNB",
    "regression": "sklearn.linear_model.Ridge",
}


@pytest.fixture(scope="module")
def fitted(fresh_project: Project) -> Fitted:
    """Fit a small model of a task to the project's own columns, or to a made-up target; give it with some rows."""
    contract = fresh_project.contract
    rows = pq.read_table(fresh_project.sample)
    rows = rows.select([c.name for c in contract.columns]).cast(contract.schema()).slice(0, 500)

    def make(task: str, path: str = "auto") -> tuple[Model, pa.Table]:
        labels = {"binary": ("no", "yes"), "multiclass": ("red", "green", "blue")}.get(task, ())
        kind = "string" if labels else "number"
        target = replace(contract.target, type=kind, values=labels, custom={"task": "auto"})
        columns = tuple(target if column.name == target.name else column for column in contract.columns)
        aimed = replace(contract, columns=columns, task=task)
        X = features.encode(rows, aimed)
        y = np.argsort(np.nan_to_num(X).sum(axis=1)).argsort() % (len(labels) or len(X))
        few = {"n_estimators": 5} if path == "auto" else {}
        both = (X, y.astype(float))
        return Model(aimed, fit(make_estimator(path, task, few, 0), aimed, both, both), 0.4), rows.slice(0, 20)

    return make


def request(model: Model, method: str, path: str, **sent: Any) -> httpx.Response:
    """Ask an app in this process."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(model, "7"))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(send())


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_answered_in_its_own_words(fitted: Fitted, task: str) -> None:
    model, rows = fitted(task)
    output = model.score(rows)
    answer = request(model, "POST", "/predict", json={"rows": door.to_json(rows, model.contract)}).json()
    assert answer["model"] == {"name": model.contract.id, "version": "7"}
    assert [entry["prediction"] for entry in answer["predictions"]] == model.decide(output)
    if task == "binary":
        assert [entry["probability"] for entry in answer["predictions"]] == output.tolist()
    if task == "multiclass":
        assert [list(entry["probabilities"].values()) for entry in answer["predictions"]] == output.tolist()
        assert list(answer["predictions"][0]["probabilities"]) == ["red", "green", "blue"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("lightgbm", [True, False])
def test_contributions_add_up_to_the_score(fitted: Fitted, task: str, lightgbm: bool) -> None:
    model, rows = fitted(task, "auto" if lightgbm else OTHERS[task])
    for place in range(rows.num_rows):
        steps = explain(model, rows.slice(place, 1))
        parts = [step["contribution"] for step in steps["features"]]
        assert math.isclose(steps["start"] + sum(parts), steps["score"], abs_tol=1e-9)
        share = steps["output"] if task != "multiclass" else max(steps["output"])
        meant = 1 / (1 + math.exp(-steps["score"])) if steps["scale"] == "log-odds" else steps["score"]
        if steps["scale"] != "score":
            assert math.isclose(meant, share, abs_tol=1e-9)
        assert steps["prediction"] == model.decide(model.score(rows.slice(place, 1)))[0]
        assert all(step["ok"] for step in steps["columns"])


def test_a_linear_model_is_explained_by_its_coefficients(fitted: Fitted) -> None:
    model, rows = fitted("regression", OTHERS["regression"])
    imputer, ridge = model.predictor[0], model.predictor[-1]
    moved = (imputer.transform(features.encode(rows.slice(0, 1), model.contract)) - imputer.statistics_) * ridge.coef_
    parts = [step["contribution"] for step in explain(model, rows.slice(0, 1))["features"]]
    np.testing.assert_allclose(parts, moved[0], atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_an_explanation_is_printed_and_drawn(
    fitted: Fitted, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = fitted(task)
    steps = explain(model, rows.slice(0, 1))
    tell(steps, model.contract, "a row", truth=steps["prediction"])
    draw(steps, model.contract, tmp_path / "row.png", truth=steps["prediction"])
    said = capsys.readouterr().out
    assert all(step["feature"] in said for step in steps["features"])
    assert f"{model.contract.target.name} is " in said
    assert (tmp_path / "row.png").stat().st_size > 10_000


def test_one_row_is_explained_and_more_are_refused(fitted: Fitted) -> None:
    model, rows = fitted("binary")
    sent = door.to_json(rows.slice(0, 2), model.contract)
    steps = request(model, "POST", "/explain", json={"rows": sent[:1]}).json()
    assert steps.pop("model") == {"name": model.contract.id, "version": "7"}
    assert steps == json.loads(json.dumps(explain(model, rows.slice(0, 1))))
    assert request(model, "POST", "/explain", json={"rows": sent}).status_code == 422


def test_a_row_that_breaks_the_contract_is_refused_with_its_place(fitted: Fitted) -> None:
    model, rows = fitted("binary")
    sent = door.to_json(rows.slice(0, 2), model.contract)
    name = model.contract.features[0].name
    refusal = request(model, "POST", "/predict", json={"rows": [sent[0], sent[1] | {name: {}}]})
    assert refusal.status_code == 422
    (fault,) = refusal.json()["violations"]
    assert (fault["row"], fault["column"], fault["rule"]) == (1, name, "type")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"rows": []}', b'{"rows": 1}', b'{"rows": [{}], "x": 1}'],
)
def test_what_is_no_request_is_refused_in_words(fitted: Fitted, content: bytes) -> None:
    refusal = request(fitted("binary")[0], "POST", "/predict", content=content)
    assert refusal.status_code == 422
    assert "send 1 to 10,000 rows" in refusal.json()["violations"][0]["message"]


def test_an_output_that_is_no_number_is_not_sent(fitted: Fitted) -> None:
    model, rows = fitted("regression")
    broken = replace(model, predictor=Broken())
    refusal = request(broken, "POST", "/predict", json={"rows": door.to_json(rows, model.contract)})
    assert (refusal.status_code, refusal.json()["detail"]) == (
        500,
        "the model gave an output that is not a finite number",
    )


class Broken:
    """A predictor that has lost its numbers."""

    def predict(self, X: features.Floats) -> features.Floats:
        return np.full(len(X), np.nan)


def test_a_request_that_is_too_large_is_refused(fitted: Fitted) -> None:
    model, _ = fitted("binary")
    too_long = request(model, "POST", "/predict", content=b" " * (MAX_BYTES + 1))
    too_many = request(model, "POST", "/predict", json={"rows": [{}] * (MAX_ROWS + 1)})
    assert (too_long.status_code, too_many.status_code) == (413, 422)
    all_wrong = request(model, "POST", "/predict", json={"rows": [{}] * MAX_ROWS}).json()
    assert len(all_wrong["violations"]) == MAX_LISTED


@pytest.mark.parametrize("task", TASKS)
def test_the_service_describes_itself_from_the_contract(fitted: Fitted, task: str) -> None:
    model, _ = fitted(task)
    described = request(model, "GET", "/model").json()
    assert described["features"] == [feature.name for feature in features.features(model.contract)]
    assert described["contract"] == model.contract.digest
    document = request(model, "GET", "/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert list(content["schema"]["properties"]["rows"]["items"]["properties"]) == list(described["columns"])
    assert request(model, "POST", "/predict", json=content["example"]).status_code == 200
    assert request(model, "GET", "/health/live").json() == {"status": "alive"}
    assert request(model, "GET", "/health/ready").json()["model"]["version"] == "7"


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_for_people_needs_nobody_else(fitted: Fitted, page: str) -> None:
    model, _ = fitted("binary")
    shown = request(model, "GET", page)
    loaded = re.findall(r'\b(?:src|href|spec-url)="([^"]+)"|\burl: \'([^\']+)\'', shown.text)
    paths = [one or other for one, other in loaded]
    assert "/openapi.json" in paths
    assert len(paths) >= 3
    assert {path: request(model, "GET", path).status_code for path in paths} == dict.fromkeys(paths, 200)
    assert all(path.startswith("/") and not path.startswith("//") for path in paths)


def test_an_answer_does_not_wait_for_the_last_one_to_be_acknowledged() -> None:
    with reserve(0) as taken:
        assert taken.proto == socket.IPPROTO_TCP  # by which asyncio knows that it may set TCP_NODELAY


def test_a_project_without_a_champion_says_what_to_do(fresh_project: Project, copy: Copy) -> None:
    ran = copy(fresh_project).run("python", "-m", serving.__name__, "--port", "0")
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the registry has no champion yet: run `make pipeline`")


def test_a_start_that_cannot_be_says_so_in_one_line(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    start = ("python", "-m", serving.__name__, "--model", "models/candidate", "--port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = project.run(*start, port)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    assert f"port {port} cannot be had" in ran.stderr
    name = project.contract.features[0].name
    project.edit("models/candidate/contract.yaml", lambda document: _forbid(document, name))
    ran = project.run(*start, "0")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    assert (
        f"models/candidate/contract.yaml: column '{name}' cannot be tagged `feature`: it is `deprecated`" in ran.stderr
    )


def _forbid(document: dict[str, Any], name: str) -> None:
    (entry,) = (entry for entry in document["schema"][0]["properties"] if entry["name"] == name)
    entry["deprecated"] = True


def test_a_row_of_the_project_is_explained_from_the_command_line(finished_project: Project, copy: Copy) -> None:
    project = copy(finished_project)
    ran = project.run("python", "-m", explain.__module__, "3")
    assert ran.returncode == 0, ran.stderr
    assert (project.path / "reports/explain/3.png").exists()
    rows = pq.read_table(project.path / "data/test.parquet").slice(3, 1)
    for column in project.contract.columns:
        if column.personal and len(value := str(rows[column.name][0])) > 3:
            assert value not in ran.stdout


def test_a_row_is_found_by_its_place_or_in_json(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_project.path)
    contract = finished_project.contract
    stored = find("3", "test", contract)
    (sent,) = door.to_json(stored.row, contract)
    (tmp_path / "row.json").write_text(json.dumps(sent), encoding="utf-8")
    for given in (json.dumps(sent), json.dumps({"rows": [sent]}), str(tmp_path / "row.json")):
        found = find(given, "test", contract)
        assert found.row.equals(stored.row.select(found.row.column_names))
    assert contract.target.name not in stored.title


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("9999999", "no row 9,999,999"),
        ("no-such-file.json", "is no row: give its place, a JSON object or a file"),
        ('{"stranger": 1', "is no row"),
        ('{"stranger": 1}', "column 'stranger': is not asked for"),
        ('{"rows": []}', "give one row"),
    ],
)
def test_a_row_that_is_none_is_refused(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch, row: str, words: str
) -> None:
    monkeypatch.chdir(finished_project.path)
    with pytest.raises(InputError, match=words):
        find(row, "test", finished_project.contract)
