"""Are outputs that cannot be right counted and kept back, and is a poisoned model refused before it answers?"""

import gc
import json
import math
import re
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from flight_delays import features, gate, golden, reference
from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.model import Model
from flight_delays.reference import Bins
from flight_delays.serving import door
from flight_delays.serving.app import build
from flight_delays.serving.guard import Guard, Keys, Rates
from flight_delays.serving.metrics import Distributions
from flight_delays.serving.roles import Loaded, Roles, Served
from flight_delays.serving.service import Service

from tests.conftest import Project
from tests.tiny import running

CANDIDATE = "models/candidate"
SAME = 50  # different rows with one output, from which on a model has collapsed
Poison = Callable[[Path], None]


class Spoiled:
    """A predictor whose outputs are changed on their way out."""

    def __init__(self, model: Model, change: Callable[[features.Floats], features.Floats]) -> None:
        self.model, self.change = model, change

    def predict(self, X: features.Floats) -> features.Floats:
        return self.change(self.model.predict(X))


SPOILED: dict[str, Callable[[features.Floats], features.Floats]] = {
    "NaN": lambda output: output * np.nan,
    "infinite": lambda output: np.where(np.arange(output.size).reshape(output.shape) % 3 == 0, np.inf, output),
    "too few": lambda output: output[1:],
}


def loaded(
    project: Project, version: str, change: Callable[[features.Floats], features.Floats] | None = None
) -> Loaded:
    """Load the project's model; after that, its outputs may begin to be changed."""
    found = Loaded.read(version, project.path / CANDIDATE)
    if change:
        found.model = replace(found.model, predictor=Spoiled(found.model, change))
    return found


def served(one: Loaded) -> Any:
    """Serve a loaded model in this process."""
    roles = Roles(replace(Served.of(one.model, one.version).now.release), one)
    return running(Guard(build(Service(Served(roles))), Keys(""), Rates(0)))


def counted(name: str, **labels: str) -> float:
    """Read a counter."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def rows_of(project: Project, count: int) -> list[dict[str, Any]]:
    """Give rows of the project's data, each another one to the model, as they are sent."""
    table = pq.read_table(project.path / "data/test.parquet")
    X = features.encode(table, project.contract)
    _, places = np.unique(X, axis=0, return_index=True)
    if len(places) < count:
        does_not_apply(f"the test rows have only {len(places)} that differ in a feature")
    found: list[dict[str, Any]] = json.loads(
        json.dumps(door.to_json(table.take(np.sort(places)[:count]), project.contract))
    )
    return found


def require_unsound_outputs_counted(project: Project, one: Loaded) -> None:
    """Require that outputs which are no numbers are refused and counted."""
    labels = {"version": one.version, "role": "champion", "kind": "UnsoundError"}
    before = counted("model_failures_total", **labels)
    with served(one) as port:
        for size in (1, 20):
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"rows": rows_of(project, size)})
            if answer.status_code != httpx.codes.INTERNAL_SERVER_ERROR or "predictions" in answer.json():
                pytest.fail(f"an output that is no number is answered: {answer.text[:200]}", pytrace=False)
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    if (found := counted("model_failures_total", **labels) - before) != 2:
        pytest.fail(f"2 unsound outputs are counted as {found:g}", pytrace=False)
    assert f'model_failures_total{{kind="UnsoundError",role="champion",version="{one.version}"}}' in page


@pytest.mark.ml_test("mon-5", twin="plants the fault itself, in a healthy model")
@pytest.mark.parametrize("change", SPOILED)
def test_outputs_that_are_no_numbers_are_kept_back_and_counted(finished_project: Project, change: str) -> None:
    require_unsound_outputs_counted(finished_project, loaded(finished_project, change, SPOILED[change]))


def test_a_healthy_model_is_not_taken_for_an_unsound_one(finished_project: Project) -> None:
    with pytest.raises(pytest.fail.Exception, match="is answered"):
        require_unsound_outputs_counted(finished_project, loaded(finished_project, "healthy"))


@pytest.mark.ml_test("mon-5", twin="plants the fault itself, in a healthy model")
def test_a_model_that_answers_all_alike_is_counted_as_collapsed(finished_project: Project) -> None:
    rows = rows_of(finished_project, SAME)

    def alike(output: features.Floats) -> features.Floats:
        return np.full(output.shape, 0.25)

    ways = {"one by one": [[row] for row in rows], "at once": [rows], "in parts": [rows[:20], rows[20:]]}
    for version, requests in ways.items():
        with served(loaded(finished_project, version, alike)) as port, httpx.Client() as client:
            for sent in requests[:-1]:
                assert client.post(f"http://127.0.0.1:{port}/predict", json={"rows": sent}).status_code == 200
            assert counted("model_collapsed_total", version=version) == 0
            client.post(f"http://127.0.0.1:{port}/predict", json={"rows": requests[-1]})
        assert counted("model_collapsed_total", version=version) == 1, version


def test_a_version_that_has_come_to_mean_another_model_is_counted_in_that_ones_bins(finished_project: Project) -> None:
    one, other = loaded(finished_project, "again"), loaded(finished_project, "again")
    name = next(iter(other.bins))
    other.bins = {name: replace(other.bins[name], names=tuple(f"new {bin_}" for bin_ in other.bins[name].names))}
    service = Service(Served(Roles(replace(Served.of(one.model, one.version).now.release), one)))
    X = np.zeros((3, len(one.bins)))
    for model in (one, other):
        service._distributions(model, "champion").count(X, np.full(3, 0.5), 1.0)
    service.settle()
    failed = {"version": "again", "role": "champion", "kind": "UnsoundError"}
    assert REGISTRY.get_sample_value("model_failures_total", failed) == 0  # so that the first one is a change
    bins = {
        sample.labels["bin"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "model_feature_bin_total" and sample.labels["version"] == "again"
        and sample.labels["feature"] == name
    }  # fmt: skip
    assert sum(count for bin_, count in bins.items() if bin_.startswith("new ")) == 3
    assert sum(bins.values()) == 6


def test_counts_do_not_keep_a_model_that_is_no_longer_served(finished_project: Project) -> None:
    one = loaded(finished_project, "gone")
    counted_by, known = Distributions(one, "champion"), weakref.ref(one)
    del one
    gc.collect()
    assert known() is None
    assert counted_by.bins


def test_the_same_rows_again_and_again_are_no_collapse(finished_project: Project) -> None:
    rows = rows_of(finished_project, SAME + 2)
    one, two = rows[0], rows[1]

    def alike(output: features.Floats) -> features.Floats:
        return np.full(output.shape, 0.25)

    with served(loaded(finished_project, "repeated", alike)) as port, httpx.Client() as client:
        for sent in ([one] * 100, *([[one], [two]] * 60), [one, two] * 60):
            client.post(f"http://127.0.0.1:{port}/predict", json={"rows": sent})
    assert counted("model_collapsed_total", version="repeated") == 0
    healthy = loaded(finished_project, "healthy")
    different = len(np.unique(healthy.model.score(pq.read_table(finished_project.path / "data/test.parquet")), axis=0))
    if different > SAME:
        with served(healthy) as port:
            httpx.post(f"http://127.0.0.1:{port}/predict", json={"rows": rows})
        assert counted("model_collapsed_total", version="healthy") == 0


def _leaf(value: str) -> Poison:
    """Put another value into the first tree, in a text that is whole otherwise."""

    def poison(folder: Path) -> None:
        path = folder / "model.txt"
        text = path.read_text(encoding="utf-8")
        found = re.search(r"leaf_value=(\S+)", text)
        assert found
        path.write_text(text[: found.start(1)] + value.ljust(len(found[1])) + text[found.end(1) :], encoding="utf-8")

    return poison


def _swap(folder: Path) -> None:
    """Exchange categories, all of them, in the model's contract."""
    path = folder / "contract.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for entry in document["schema"][0]["properties"]:
        if "feature" in entry.get("tags", ()) and "enum" in entry:
            entry["enum"] = entry["enum"][1:] + entry["enum"][:1]
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")


def _exchange(folder: Path) -> None:
    """Put another model's trees in place of these: their signs are the other way round."""
    path = folder / "model.txt"
    text = path.read_text(encoding="utf-8")

    def turn(line: re.Match[str]) -> str:
        values = line[1].split(" ")
        return "leaf_value=" + " ".join(values[1:] + values[:1])  # of the same length

    path.write_text(re.sub(r"leaf_value=(.+)", turn, text), encoding="utf-8")


def _cut(folder: Path) -> None:
    path = folder / "model.txt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _forget(name: str) -> Poison:
    return lambda folder: (folder / name).unlink()


def _write_rubbish(name: str) -> Poison:
    return lambda folder: (folder / name).write_bytes(b'{"a": ')  # type: ignore[return-value]


def _empty(folder: Path) -> None:
    stored = pq.read_table(folder / golden.FILE)
    pq.write_table(stored.slice(0, 0), folder / golden.FILE)


def _drop_a_column(folder: Path) -> None:
    stored = pq.read_table(folder / golden.FILE)
    row = stored["row"].combine_chunks()
    names = [field.name for field in row.type][1:]
    cut = pa.StructArray.from_arrays(row.flatten()[1:], names) if names else pa.array([{"other": 1}] * len(row))
    pq.write_table(stored.set_column(0, "row", cut), folder / golden.FILE)


def _widen(folder: Path) -> None:
    stored = pq.read_table(folder / golden.FILE)
    wide = [[*output, 0.5] for output in stored["output"].to_pylist()]
    pq.write_table(stored.set_column(1, "output", pa.array(wide)), folder / golden.FILE)


POISONS: dict[str, tuple[Poison, str]] = {
    "a leaf is NaN": (_leaf("nan"), "tree 0: its leaves are not all finite numbers"),
    "a leaf is infinite": (_leaf("inf"), "tree 0: its leaves are not all finite numbers"),
    "other trees": (_exchange, "golden rows are answered otherwise than when the model was made"),
    "half a model": (_cut, "no .*LightGBM model"),
    "swapped categories": (_swap, "golden rows are answered otherwise than when the model was made"),
    "no golden rows": (_forget(golden.FILE), "is missing: without it nobody can tell"),
    "empty golden rows": (_empty, "holds no rows"),
    "damaged golden rows": (_write_rubbish(golden.FILE), "golden.parquet cannot be read"),
    "golden rows without a column": (_drop_a_column, "the model cannot answer its golden rows: KeyError"),
    "golden outputs of another shape": (_widen, "outputs of shape .* for the golden rows, they were"),
    "no reference": (_forget(reference.FILE), "reference.json is missing"),
    "damaged reference": (_write_rubbish(reference.FILE), "reference.json cannot be read"),
}


def require_refused(folder: Path, words: str) -> None:
    """Require that a model is not loaded, and that it is said why in one line."""
    try:
        Loaded.read("1", folder)
    except InputError as error:
        if not re.search(words, str(error)) or len(str(error).splitlines()) > 1:
            pytest.fail(f"refused for another reason: {error}", pytrace=False)
    else:
        pytest.fail("a poisoned model is loaded", pytrace=False)


@pytest.mark.ml_test("mon-5")
@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_model_is_not_loaded(finished_project: Project, tmp_path: Path, poison: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(finished_project.path / CANDIDATE, folder)
    if not (folder / "model.txt").is_file():
        does_not_apply("the model is not one of LightGBM")
    spoil, words = POISONS[poison]
    spoil(folder)
    if poison == "swapped categories":
        rows = pq.read_table(finished_project.path / CANDIDATE / golden.FILE)["row"].combine_chunks()
        table = pa.Table.from_arrays(rows.flatten(), [field.name for field in rows.type])
        if np.array_equal(Model.load(folder).score(table), Model.load(finished_project.path / CANDIDATE).score(table)):
            does_not_apply("no listed category moves this model's outputs")
    require_refused(folder, words)


@pytest.mark.sabotage(of=test_a_poisoned_model_is_not_loaded, fault="golden rows that are made anew from what is there")
def test_a_poisoned_model_with_its_own_golden_rows_is_named(finished_project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(finished_project.path / CANDIDATE, folder)
    _exchange(folder)
    golden.write(Model.load(folder), pq.read_table(finished_project.path / "data/valid.parquet"), folder)
    with pytest.raises(pytest.fail.Exception, match="a poisoned model is loaded"):
        require_refused(folder, POISONS["other trees"][1])


@pytest.mark.ml_test("mon-5", twin="plants the fault itself, in a healthy model")
def test_the_gate_refuses_unsound_outputs_too(finished_project: Project) -> None:
    model, contract = Model.load(finished_project.path / CANDIDATE), finished_project.contract
    test = finished_project.path / "data/test.parquet"
    assert gate.is_sound(model, contract, test).passed
    for change in (*SPOILED.values(), lambda output: output * 0 + output[:1]):
        assert not gate.is_sound(replace(model, predictor=Spoiled(model, change)), contract, test).passed


def test_a_healthy_model_is_loaded_with_its_golden_rows_and_bins(finished_project: Project) -> None:
    folder = finished_project.path / CANDIDATE
    model = Model.load(folder)
    rows = golden.check(model, folder)
    assert 1 < rows.num_rows <= golden.ROWS
    assert rows.schema.equals(model.contract.schema(model.contract.features))


def test_a_model_that_answers_its_golden_rows_alike_is_not_loaded(finished_project: Project, tmp_path: Path) -> None:
    model = Model.load(finished_project.path / CANDIDATE)
    flat = replace(model, predictor=Spoiled(model, lambda output: output * 0 + output[:1]))
    rows = pq.read_table(finished_project.path / "data/valid.parquet")
    golden.write(flat, rows, tmp_path)
    with pytest.raises(InputError, match="gives every golden row the same output"):
        golden.check(flat, tmp_path)
    golden.write(flat, rows.take([3] * 5), tmp_path)
    assert golden.check(flat, tmp_path).num_rows == 5  # alike rows are answered alike
    golden.write(flat, rows.slice(0, 1), tmp_path)
    assert golden.check(flat, tmp_path).num_rows == 1


def test_the_reference_of_the_model_is_that_of_its_data(finished_project: Project) -> None:
    bins, output = reference.read(finished_project.path / CANDIDATE)
    contract = finished_project.contract
    assert list(bins) == [feature.name for feature in features.features(contract)]
    X, _ = features.load(finished_project.path / "data/train.parquet", contract)
    for place, one in enumerate(bins.values()):
        np.testing.assert_allclose(one.count(X[:, place]) / len(X), one.shares, atol=1e-8)
    for one in (*bins.values(), output):
        assert sum(one.shares) == pytest.approx(1, abs=1e-6)
        assert one.names[0] == reference.NULL
        assert len(set(one.names)) == len(one.names) == len(one.edges) + 2
        assert list(one.edges) == sorted(one.edges)


@given(data=st.data())
def test_each_value_is_counted_in_the_bin_whose_edges_are_around_it(data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.floats(allow_nan=False, allow_infinity=False), max_size=9)))
    bins = Bins(tuple(edges), tuple(map(str, range(len(edges) + 2))), ())
    some = st.floats(allow_infinity=False) | (st.sampled_from(edges) if edges else st.just(0.0))
    values = np.array(data.draw(st.lists(some, min_size=1, max_size=20)))
    counts = [0] * len(bins.names)
    for value in values.tolist():
        counts[0 if math.isnan(value) else 1 + sum(edge <= value for edge in edges)] += 1
    assert bins.count(values).tolist() == counts


COLUMNS = st.lists(st.none() | st.integers(0, 3).map(float) | st.floats(-1e9, 1e9), min_size=1, max_size=60)


@given(values=COLUMNS, outputs=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_any_values_have_bins_that_hold_all_of_them(
    contract: Contract, tmp_path_factory: pytest.TempPathFactory, values: list[float | None], outputs: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("reference")
    number = plain(contract.features[0], "number")
    one = replace(contract, columns=(number, replace(number, name="y", roles=frozenset({"target"}))), task="regression")
    X = np.array([np.nan if value is None else value for value in values]).reshape(-1, 1)
    reference.write(one, X, np.array(outputs), folder)
    bins, output = reference.read(folder)
    for found, given_ in ((bins["x"], X[:, 0]), (output, np.array(outputs))):
        assert sum(found.shares) == pytest.approx(1, abs=1e-6)
        assert len(set(found.names)) == len(found.names)
        np.testing.assert_allclose(found.count(given_) / len(given_), found.shares, atol=1e-8)


def plain(column: Column, kind: str, **given_: Any) -> Column:
    """Make a feature `x` of a type."""
    neutral: dict[str, Any] = {"roles": frozenset({"feature"}), "values": (), "options": {}, "custom": {}}
    return replace(column, name="x", type=kind, **(neutral | given_))


def test_each_category_and_null_have_a_bin_of_their_own(contract: Contract, tmp_path: Path) -> None:
    words = ("null", "a", "b")
    column = plain(contract.features[0], "string", values=words)
    target = replace(column, name="y", roles=frozenset({"target"}), values=("no", "maybe", "yes"))
    one = replace(contract, columns=(column, target), task="multiclass")
    X = np.array([[0.0], [1.0], [1.0], [np.nan]])
    reference.write(one, X, np.eye(3)[[0, 1, 1]], tmp_path)
    bins, output = reference.read(tmp_path)
    assert bins["x"].names == ("null", "'null'", "a", "b")
    assert bins["x"].shares == (0.25, 0.25, 0.5, 0.0)
    assert (output.names, output.count(np.array([0.0, 2.0])).tolist()) == (("null", "no", "maybe", "yes"), [0, 1, 0, 1])
    flag = replace(one, columns=(plain(column, "boolean"), target))
    reference.write(flag, np.array([[0.0], [1.0]]), np.eye(3), tmp_path)
    assert reference.read(tmp_path)[0]["x"].names == ("null", "false", "true")
    many = replace(one, columns=(plain(column, "string", values=tuple(map(str, range(60)))), target))
    reference.write(many, np.arange(60.0).reshape(-1, 1), np.eye(3), tmp_path)
    assert len(reference.read(tmp_path)[0]["x"].names) == 11
    nothing = replace(one, columns=(plain(column, "number"), target))
    reference.write(nothing, np.array([[np.nan]]), np.eye(3), tmp_path)
    assert reference.read(tmp_path)[0]["x"].names == ("null", "any")
    near = np.array([[1e6 + place / 1000] for place in range(100)])
    reference.write(nothing, near, np.eye(3), tmp_path)
    assert len(set(reference.read(tmp_path)[0]["x"].names)) == 11


def test_a_feature_may_stray_as_far_as_its_weeks_did(contract: Contract, tmp_path: Path) -> None:
    draw, (weeks, rows) = np.random.default_rng(0), (10, 2_000)
    number = plain(contract.features[0], "number")
    one = replace(contract, columns=(number, replace(number, name="y", roles=frozenset({"target"}))), task="regression")
    start, day = np.datetime64("2024-01-01T00:00:00"), np.timedelta64(1, "D")

    def limits(X: features.Floats, times: reference.Times | None) -> tuple[float, float]:
        fitted = None if times is None else (X[:, 0], times)
        reference.write(one, X, X[:, 0], tmp_path, times, fitted)
        bins, output = reference.read(tmp_path)
        return bins["x"].limit, output.limit

    calm = draw.normal(size=(weeks * rows, 1))
    times = (
        start + np.repeat(np.arange(weeks), rows) * 7 * day + np.tile(np.arange(rows), weeks) * np.timedelta64(5, "m")
    )
    assert limits(calm, None) == limits(calm, times) == (reference.LIMIT, reference.LIMIT)
    stormy = calm.copy()
    stormy[3 * rows : 4 * rows] += 2
    limit, _ = limits(stormy, times)
    bins, _ = reference.read(tmp_path)
    strayed = reference.psi(np.array(bins["x"].shares), bins["x"].count(stormy[3 * rows : 4 * rows, 0]))
    assert limit == pytest.approx(1.5 * strayed, abs=2e-3)
    assert limits(stormy, times) == (limit, limit)
    few = np.arange(0, weeks * rows, 4)  # 500 rows a week: chance alone strays far
    assert limits(stormy[few], times[few])[0] == reference.LIMIT
    last = stormy.copy()
    last[:] = calm
    last[-300:] += 5  # in a week that is not over
    assert limits(last, times)[0] == reference.LIMIT


def test_the_index_of_alike_populations_is_nothing_and_grows_with_the_difference() -> None:
    even = np.array([25.0, 25.0, 25.0, 25.0])
    assert reference.psi(even, even * 7) == 0
    assert reference.psi(even, np.array([30.0, 20.0, 30.0, 20.0])) == pytest.approx(
        2 * (0.05 * np.log(1.2) - 0.05 * np.log(0.8))
    )
    assert reference.psi(even, np.array([100.0, 0.0, 0.0, 0.0])) > 4
