"""Does the model's specification learn, leave order aside, take what is missing, keep what it learned, and go on?"""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays import features, model
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline import train
from flight_delays.serving.release import digest

from tests.conftest import Project

Copy = Callable[[Project], Project]
ROWS = 2_000
HANDFUL = 24  # rows, or two of each class
# With so few rows all that keeps LightGBM from learning by heart has to be off; its own values are meant for many.
BY_HEART: dict[str, Any] = {
    "n_estimators": 200, "learning_rate": 0.1, "min_child_samples": 1, "min_data_in_bin": 1,
    "min_data_per_group": 1, "cat_smooth": 0, "cat_l2": 0,
}  # fmt: skip
LINEAR = {
    "binary": "sklearn.naive_bayes.GaussianNB",
    "multiclass": "sklearn.naive_bayes.GaussianNB",
    "regression": "sklearn.linear_model.Ridge",
}


def candidate(project: Project) -> tuple[Model, pa.Table]:
    """Give the trained model, and test rows."""
    rows = pq.read_table(project.path / "data/test.parquet")
    return Model.load(project.path / "models/candidate"), rows.slice(0, ROWS)


def learn(contract: Contract, train: tuple[Floats, Floats], path: str = "auto", **hyperparameters: Any) -> Model:
    return Model(contract, fit(make_estimator(path, contract.task, hyperparameters, 0), contract, train, train))


def same(left: Floats, right: Floats) -> Any:
    """Compare predictions row by row; an estimator that multiplies matrices may differ in the last bits."""
    return np.isclose(left, right, rtol=1e-9, atol=1e-12).reshape(len(left), -1).all(axis=1)


@pytest.mark.ml_test("infra-2")
def test_a_handful_of_rows_is_learned_by_heart(finished_project: Project) -> None:
    contract = finished_project.contract
    X, y = features.load(finished_project.path / "data/train.parquet", contract)
    _, different = np.unique(np.nan_to_num(X, nan=-1e300), axis=0, return_index=True)
    classes = range(len(contract.classes)) or [None]
    groups = [[place for place in different if code is None or y[place] == code] for code in classes]
    few = np.concatenate([group[: max(2, HANDFUL // len(groups))] for group in groups]).astype(int)
    learned = learn(contract, (X[few], y[few]), **BY_HEART)
    output = learned.predict(X[few])
    if contract.classes:
        answers = [contract.classes[int(code)] for code in y[few]]
        wrong = sum(decided != answer for decided, answer in zip(learned.decide(output), answers, strict=True))
    else:
        wrong = int((np.abs(output - y[few]) > 0.01 * max(y[few].std(), 1e-9)).sum())
    if wrong:
        where = "see `fit` and `make_estimator` in model.py"
        pytest.fail(f"{wrong} of {len(few)} rows are not learned by heart: {where}", pytrace=False)


@pytest.mark.ml_test("infra-2")
def test_a_row_is_predicted_alike_in_any_company_and_order(project: Project) -> None:
    learned, rows = candidate(project)
    X = features.encode(rows, learned.contract)
    order = np.random.default_rng(0).permutation(len(X))
    whole = learned.predict(X)
    alone = np.concatenate([learned.predict(X[[place]]) for place in range(min(5, len(X)))])
    agree = same(learned.predict(X[order]), whole[order])
    if not (agree.all() and same(alone, whole[: len(alone)]).all()):
        pytest.fail(
            f"the order of rows or their company changes predictions ({(~agree).sum():,} of {len(X):,} by order): "
            f"`Model.predict` must look at each row by itself",
            pytrace=False,
        )


@pytest.mark.ml_test("infra-2")
def test_the_order_of_the_training_rows_changes_nothing(finished_project: Project) -> None:
    """Of the default estimator, and up to 200,000 rows: with more, LightGBM takes its bins from rows by their place."""
    contract = finished_project.contract
    X, y = features.load(finished_project.path / "data/train.parquet", contract)
    order = np.random.default_rng(0).permutation(len(y))
    ours, theirs = (learn(contract, rows, n_estimators=30).predict(X) for rows in ((X, y), (X[order], y[order])))
    if different := int((~same(ours, theirs)).sum()):
        pytest.fail(
            f"the order of the training rows changes {different:,} of {len(y):,} predictions: "
            f"something draws rows by their place, see `make_estimator` in model.py",
            pytrace=False,
        )


@pytest.mark.ml_test("infra-2")
def test_what_is_missing_or_was_never_seen_is_predicted(project: Project) -> None:
    learned, rows = candidate(project)
    lines = []
    for name, what, changed in spoiled(rows.slice(0, 50), learned.contract):
        output = learned.score(changed)
        if not np.isfinite(output).all():
            lines.append(
                f"column {name!r}: where it is {what}, the prediction is no finite number: see `Model.predict`"
            )
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def spoiled(rows: pa.Table, contract: Contract) -> Iterator[tuple[str, str, pa.Table]]:
    """Put nulls, and text that was never seen, into each feature in turn, and at last nulls into all of them."""
    empty = rows
    for column in contract.features:
        place, nulls = rows.schema.get_field_index(column.name), pa.nulls(rows.num_rows, column.arrow_type)
        empty = empty.set_column(place, column.name, nulls)
        yield column.name, "missing", rows.set_column(place, column.name, nulls)
        if column.type == "string":
            unseen = pa.array(["never seen before ⚡"] * rows.num_rows)
            yield column.name, "a text never seen", rows.set_column(place, column.name, unseen)
    yield "all features", "missing", empty


@pytest.mark.ml_test("infra-2")
def test_a_constant_and_an_empty_column_do_not_stop_a_fit(finished_project: Project) -> None:
    contract = finished_project.contract
    chosen = yaml.safe_load((finished_project.path / "params.yaml").read_text(encoding="utf-8"))["train"]
    X, y = features.load(finished_project.path / "data/train.parquet", contract)
    X = np.column_stack([X[:, :-1], np.full(len(X), np.nan)])
    X[:, 0] = 1.0
    for path, hyperparameters in ((chosen["estimator"], chosen["hyperparameters"]), (LINEAR[contract.task], {})):
        try:
            output = learn(contract, (X, y), path, **hyperparameters).predict(X[:50])
        except ValueError as error:
            pytest.fail(f"{path} cannot learn from a constant and an empty column: {error}", pytrace=False)
        if not np.isfinite(output).all():
            pytest.fail(f"{path} predicts no finite number after a constant and an empty column", pytrace=False)


@pytest.mark.ml_test("infra-2")
def test_a_saved_model_is_the_very_same_when_loaded(project: Project, tmp_path: Path) -> None:
    learned, rows = candidate(project)
    learned = replace(learned, threshold=1 / 3)
    learned.save(tmp_path / "model", project.path / "models/candidate/contract.yaml")
    loaded = Model.load(tmp_path / "model")
    lines = []
    if loaded.threshold != learned.threshold:
        lines.append(f"the threshold was {learned.threshold!r} and is {loaded.threshold!r}")
    if different := int((loaded.score(rows) != learned.score(rows)).reshape(rows.num_rows, -1).any(axis=1).sum()):
        lines.append(f"{different:,} of {rows.num_rows:,} predictions differ")
    if lines:
        pytest.fail(f"a model changes when it is saved and loaded: {'; '.join(lines)}: see `Model.save`", pytrace=False)


@pytest.mark.slow
@pytest.mark.ml_test("infra-2")
def test_a_training_that_was_killed_runs_again_to_the_same_model(
    finished_project: Project, copy: Copy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed at the worst moment: the model is written, what describes it is not."""
    project = copy(finished_project)
    folder = project.path / "models/candidate"
    whole = digest(*sorted(folder.iterdir()))
    script = tmp_path_factory.mktemp("killed") / "train_and_be_killed.py"
    kill = f"lambda *_, **__: os.kill(os.getpid(), {int(signal.SIGTERM)})"
    script.write_text(
        f"import os\nimport types\nimport {model.__name__} as model\nfrom {train.__name__} import main\n"
        f"model.json = types.SimpleNamespace(dumps={kill})\nmain()\n",
        encoding="utf-8",
    )
    killed = project.run(sys.executable, str(script))
    assert killed.returncode not in {0, 1}, killed.stdout + killed.stderr
    with pytest.raises(InputError, match="holds no model"):
        Model.load(folder)
    again = project.stage("train")
    assert again.returncode == 0, again.stderr
    if digest(*sorted(folder.iterdir())) != whole:
        pytest.fail(
            "a training that was killed ends in another model when it is run again: see train.py", pytrace=False
        )


def lose(monkeypatch: pytest.MonkeyPatch, **added: Any) -> None:
    """Make each estimator with other hyperparameters than it was asked for."""
    whole = make_estimator
    monkeypatch.setitem(globals(), "make_estimator", lambda path, task, _, seed: whole(path, task, added, seed))


@pytest.mark.sabotage(of=test_a_handful_of_rows_is_learned_by_heart, fault="hyperparameters are lost on their way")
def test_a_model_that_cannot_learn_by_heart_is_seen(finished_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match=r"\d+ of \d+ rows are not learned by heart"):
        test_a_handful_of_rows_is_learned_by_heart(finished_project)


@pytest.mark.sabotage(of=test_a_row_is_predicted_alike_in_any_company_and_order, fault="a row's neighbour counts")
def test_a_prediction_that_depends_on_the_neighbour_is_seen(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Model.predict
    monkeypatch.setattr(Model, "predict", lambda self, X: (predict(self, X) + np.roll(predict(self, X), 1, axis=0)) / 2)
    with pytest.raises(pytest.fail.Exception, match="the order of rows or their company changes predictions"):
        test_a_row_is_predicted_alike_in_any_company_and_order(finished_project)


@pytest.mark.sabotage(of=test_the_order_of_the_training_rows_changes_nothing, fault="each tree draws rows by place")
def test_a_fit_that_depends_on_the_order_is_seen(finished_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, n_estimators=30, subsample=0.5, subsample_freq=1)
    with pytest.raises(pytest.fail.Exception, match="the order of the training rows changes"):
        test_the_order_of_the_training_rows_changes_nothing(finished_project)


@pytest.mark.sabotage(of=test_what_is_missing_or_was_never_seen_is_predicted, fault="NaN in, NaN out")
def test_a_prediction_that_is_lost_with_a_missing_value_is_named(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Model.predict
    monkeypatch.setattr(Model, "predict", lambda self, X: (predict(self, X).T + 0 * X[:, 0]).T)
    name = features.features(finished_project.contract)[0].column.name
    with pytest.raises(pytest.fail.Exception, match=f"^column '{name}': where it is missing"):
        test_what_is_missing_or_was_never_seen_is_predicted(finished_project)


@pytest.mark.sabotage(
    of=test_a_constant_and_an_empty_column_do_not_stop_a_fit, fault="nothing fills in what is missing"
)
def test_an_estimator_that_refuses_an_empty_column_is_named(
    finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_accepting_missing", lambda estimator: estimator)
    with pytest.raises(pytest.fail.Exception, match=r"cannot learn from a constant and an empty column: .*NaN"):
        test_a_constant_and_an_empty_column_do_not_stop_a_fit(finished_project)


@pytest.mark.sabotage(of=test_a_saved_model_is_the_very_same_when_loaded, fault="the threshold is rounded")
def test_a_rounded_threshold_is_named(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Model.save
    monkeypatch.setattr(
        Model, "save", lambda self, *where: save(replace(self, threshold=round(self.threshold, 3)), *where)
    )
    with pytest.raises(pytest.fail.Exception, match=r"the threshold was 0\.33333\d* and is 0\.333: see `Model.save`"):
        test_a_saved_model_is_the_very_same_when_loaded(finished_project, tmp_path)


@pytest.mark.sabotage(of=test_a_saved_model_is_the_very_same_when_loaded, fault="a part of the model is not kept")
def test_a_model_that_is_kept_in_part_is_seen(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = finished_project.contract
    X, y = features.load(finished_project.path / "data/train.parquet", contract)
    other, save = learn(contract, (X[:500], y[:500]), n_estimators=2), Model.save
    monkeypatch.setattr(Model, "save", lambda self, *where: save(replace(other, threshold=self.threshold), *where))
    with pytest.raises(pytest.fail.Exception, match=r"[\d,]+ of [\d,]+ predictions differ: see `Model.save`"):
        test_a_saved_model_is_the_very_same_when_loaded(finished_project, tmp_path)


@pytest.mark.sabotage(
    of=test_a_training_that_was_killed_runs_again_to_the_same_model, fault="training rows are drawn anew each time"
)
def test_a_training_that_draws_its_rows_anew_is_seen(
    finished_project: Project,
    copy: Copy,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path_factory.mktemp("source")
    package = Path(model.__file__).parent
    changed = source / Path(train.__file__).relative_to(package.parent)
    shutil.copytree(package, source / package.name)
    code = changed.read_text(encoding="utf-8")
    assert code.count('chosen["max_rows"]') == 1
    drawn = code.replace('chosen["max_rows"]', "__import__('time').time_ns() % 997 + 500")
    changed.write_text(drawn, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(source))
    with pytest.raises(pytest.fail.Exception, match="ends in another model when it is run again"):
        test_a_training_that_was_killed_runs_again_to_the_same_model(finished_project, copy, tmp_path_factory)
