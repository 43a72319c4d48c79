"""What would a simpler model do? A constant and a linear model, on the same encoded rows."""

from typing import Any

import numpy as np

from flight_delays.contract import Contract
from flight_delays.features import Floats, features


def constant(contract: Contract, y: Floats, rows: int) -> Floats:
    """Predict what the training rows do on average: the mean, or the share of each class.

    Parameters
    ----------
    contract
        Says the task.
    y
        The training target, of shape (training rows,).
    rows
        How many predictions to give.

    Returns
    -------
    ndarray of float64
        As `Model.predict` gives them.
    """
    if contract.task == "multiclass":
        shares = np.bincount(y.astype(int), minlength=len(contract.classes)) / len(y)
        return np.tile(shares, (rows, 1))
    return np.full(rows, y.mean())


def linear(contract: Contract, X: Floats, y: Floats, X_test: Floats) -> Floats:
    """Fit a logistic or a ridge regression with scikit-learn's defaults, and predict.

    Parameters
    ----------
    contract
        Says the task, and which features are categories (one-hot encoded here).
    X, y
        The training matrix and target.
    X_test
        The rows to predict.

    Returns
    -------
    ndarray of float64
        As `Model.predict` gives them.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    final: Any = Ridge() if contract.task == "regression" else LogisticRegression(max_iter=300)
    model = make_pipeline(_preparation(contract), final)
    model.fit(X, y)
    if contract.task == "regression":
        return model.predict(X_test)
    found = model.predict_proba(X_test)
    return found[:, 1] if contract.task == "binary" else found


def _preparation(contract: Contract) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    kinds = features(contract)
    numbers = [index for index, kind in enumerate(kinds) if not kind.categorical]
    codes = [index for index, kind in enumerate(kinds) if kind.categorical]
    return make_column_transformer(
        (
            make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()),
            numbers,
        ),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=5), codes),
    )
