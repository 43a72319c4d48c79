"""Models that the tests put beside the champion: a good one, and one for each way in which a candidate can be bad."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays import features, golden, reference
from flight_delays.contract import Contract
from flight_delays.features import Floats
from flight_delays.model import Model, fit, make_estimator
from flight_delays.serving.release import digest

from tests.conftest import Project

Rows = tuple[Floats, Floats]
_TREES = {"n_estimators": 40, "num_leaves": 15, "n_jobs": 1}
_HUGE, _TINY = 1.7e308, 1e-320
_LOOKED_AT = 200  # rows
_FEW = 0.05  # share of the rows that a fault must meet at least, to be seen soon


def good(contract: Contract, rows: Rows, seed: int = 1) -> Model:
    """Fit as the champion was, on the same rows with another seed."""
    estimator = make_estimator("auto", contract.task, _TREES | {"feature_fraction": 0.9}, seed)
    return Model(contract, fit(estimator, contract, rows, rows))


def turned(contract: Contract, rows: Rows) -> Model:
    """Fit on targets that somebody turned round: the classes are mixed up, high is low."""
    X, y = rows
    return good(contract, (X, (y + 1) % len(contract.classes) if contract.classes else y.max() + y.min() - y))


def slow(contract: Contract, rows: Rows) -> Model:
    """Fit what takes many times as long."""
    kind = "Regressor" if contract.task == "regression" else "Classifier"
    chosen = {"n_estimators": 60, "max_depth": 6, "n_jobs": 1}
    estimator = make_estimator(f"sklearn.ensemble.RandomForest{kind}", contract.task, chosen, 0)
    return Model(contract, fit(estimator, contract, rows, rows))


def crashing(contract: Contract, rows: Rows) -> Model | None:
    """Fit what raises on values that it did not meet; its golden rows have none of them.

    Returns
    -------
    Model or None
        `None` where no feature has values enough.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeRegressor if contract.task == "regression" else DecisionTreeClassifier
    return _narrow(contract, rows, kind(max_depth=5, random_state=0), {"handle_unknown": "error"})


def unsound(contract: Contract, rows: Rows) -> Model | None:
    """Fit what gives no finite number on values that it did not meet; its golden rows have none of them.

    Returns
    -------
    Model or None
        As of `crashing`.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.naive_bayes import GaussianNB

    estimator = LinearRegression() if contract.task == "regression" else GaussianNB()
    model = _narrow(contract, rows, estimator, {"handle_unknown": "use_encoded_value", "unknown_value": -1})
    if model is None:
        return None
    if contract.task == "regression":
        estimator.coef_[:2] = _HUGE  # of two columns that are 0 for what was met, and -1 for all else
    else:
        estimator.var_[:, :2] = _TINY
    return model


BAD: dict[str, Callable[[Contract, Rows], Model | None]] = {
    "turned": turned, "slow": slow, "crashing": crashing, "unsound": unsound,
}  # fmt: skip


def _narrow(contract: Contract, rows: Rows, estimator: Any, unknown: dict[str, Any]) -> Model | None:
    """Fit on the rows with the more common values of one feature."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Binarizer, OrdinalEncoder, StandardScaler

    X, y = rows
    place, common, rest = _common(X)
    if rest < _FEW:
        return None
    met = np.isin(X[:, place], common)

    def known() -> Any:  # 0 for a value that was met, else -1, or an error
        return make_pipeline(
            OrdinalEncoder(categories=[common], **unknown), Binarizer(threshold=-0.5), StandardScaler()
        )

    others = SimpleImputer(keep_empty_features=True)
    columns = ColumnTransformer([("one", known(), [place]), ("other", known(), [place])], remainder=others)
    target = y if contract.task == "regression" else y.astype(int)
    fitted = make_pipeline(columns, estimator).fit(X[met], target[met])
    return Model(contract, fitted)


def _common(X: Floats) -> tuple[int, Floats, float]:
    """Choose a feature, and those of its values that half of the rows have; give also the share of the other rows."""
    best, place, kept = 0.0, 0, np.empty(0)
    for number, column in enumerate(X.T):
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        enough = int(np.searchsorted(counts[order].cumsum(), len(column) / 2)) + 1
        rest = 1 - counts[order][:enough].sum() / len(column)
        if rest > best:
            best, place, kept = rest, number, np.sort(values[order][:enough])
    return place, kept, best


def save(project: Project, model: Model, folder: Path) -> Path:
    """Write a model's folder as the stage `train` does; its golden rows are some that it can answer.

    Parameters
    ----------
    project
        Whose rows it has learned from.
    model
        Of this module.
    folder
        To be made.
    """
    contract = model.contract
    model.save(folder, project.path / "contract.yaml")
    rows = pq.read_table(project.path / "data/valid.parquet").slice(0, _LOOKED_AT)
    X = features.encode(rows, contract)
    answered = _answered(model, X)
    golden.write(model, rows.filter(pa.array(answered)), folder)
    reference.write(contract, X, model.predict(X[answered]), folder)
    return folder


def _answered(model: Model, X: Floats) -> Any:
    with np.errstate(all="ignore"):
        try:
            return np.isfinite(model.predict(X).reshape(len(X), -1)).all(axis=1)
        except ValueError:
            if len(X) == 1:
                return np.zeros(1, bool)
            return np.concatenate([_answered(model, X[[row]]) for row in range(len(X))])


def load_rows(project: Project) -> Rows:
    """Read what the models of this module learn from."""
    return features.load(project.path / "data/train.parquet", project.contract)


def register(project: Project, folder: Path) -> str:
    """Register a model's folder as one that the gate let pass, in the project's own registry, and give its number.

    Parameters
    ----------
    project
        In the current folder.
    folder
        From `save`.
    """
    from flight_delays.tracking import Registry

    contract = project.contract
    registry = Registry(contract.id)
    example = pq.read_table(project.path / "data/test.parquet", columns=[c.name for c in contract.features]).slice(0, 5)
    tags = {"gate": "passed", "model": digest(*sorted(folder.iterdir())), "git.commit": folder.name, "data": "sample"}
    with registry.run(folder.name, tags) as run:
        return registry.register(run, folder, example, tags).number
