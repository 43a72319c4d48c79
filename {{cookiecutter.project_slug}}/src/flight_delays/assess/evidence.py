"""What do the assessments look at? The model, the test rows as it sees them, and fits of the same kind to compare."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flight_delays import features, scores
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline.split import PARTS
from flight_delays.pipeline.train import CANDIDATE, load_training, load_validation
from flight_delays.scores import Score
from flight_delays.settings import params

_STOPPING = 6
_FEW = 50  # rows of a class: with fewer, they and not all rows limit what can be told


def count(contract: Contract, y: Floats) -> str:
    """Say how many rows there are, and how few of the rarest class, where that is what counts.

    Parameters
    ----------
    contract
        Names the classes of the target.
    y
        The encoded target of the rows.
    """
    found = np.bincount(y.astype(int), minlength=len(contract.classes)) if contract.classes else np.array([len(y)])
    place = int(found.argmin())
    if found[place] >= min(_FEW, len(y)):
        return f"{len(y):,}"
    return f"{len(y):,} (only {found[place]} with {contract.target.name} = {contract.classes[place]})"


@dataclass(frozen=True, eq=False)
class Evidence:
    """A model and the held-out rows on which it is assessed.

    Attributes
    ----------
    model
        The candidate.
    rows
        Test rows with all columns of the contract, evenly taken from the file, in its order.
    X, y, output
        The same rows encoded, of shape (rows, features); their target, of shape (rows,); what the model predicts.
    max_rows
        How many rows of a part are looked at, and learned from by a fit for comparison.
    """

    model: Model
    rows: pa.Table
    X: Floats
    y: Floats
    output: Floats
    max_rows: int

    @classmethod
    def load(cls, max_rows: int) -> "Evidence":
        """Read the candidate and the test rows of the project in the current folder.

        Parameters
        ----------
        max_rows
            As the attribute.
        """
        model = Model.load(CANDIDATE)
        rows = pq.read_table(PARTS["test"])
        if rows.num_rows > max_rows:
            rows = rows.take(pa.array(np.linspace(0, rows.num_rows - 1, max_rows).astype(np.intp)))
        X, y = features.encode(rows, model.contract), features.encode_target(rows, model.contract)
        return cls(model, rows, X, y, model.predict(X), max_rows)

    @property
    def contract(self) -> Contract:
        """The contract that the model was trained under."""
        return self.model.contract

    @property
    def score(self) -> Score:
        """The score that decides."""
        contract = self.contract
        return scores.scores(contract.task, contract.classes, params("evaluate")["costs"])[0]

    def take(self, chosen: NDArray[Any]) -> "Evidence":
        """Look at some of the rows only, or at some twice.

        Parameters
        ----------
        chosen
            Positions of rows, or a mask.
        """
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        rows = self.rows.take(pa.array(places))
        return replace(self, rows=rows, X=self.X[places], y=self.y[places], output=self.output[places])

    def training(self) -> tuple[Floats, Floats]:
        """Read the training rows, encoded: matrix and target, at most `max_rows` of them."""
        return load_training(self.contract, self.max_rows)

    def validation(self) -> tuple[Floats, Floats]:
        """Read the validation rows, encoded: matrix and target, at most `max_rows` of them."""
        return load_validation(self.contract, self.max_rows)

    def refit(self, train: tuple[Floats, Floats], valid: tuple[Floats, Floats], **changed: Any) -> Model:
        """Fit a model of the same kind on other rows.

        Parameters
        ----------
        train, valid
            Matrix and target, of shapes (rows, features) and (rows,).
        **changed
            Hyperparameters other than those in `params.yaml`.
        """
        chosen = params("train")
        values = chosen["hyperparameters"] | changed
        estimator = make_estimator(chosen["estimator"], self.contract.task, values, chosen["seed"])
        return replace(self.model, predictor=fit(estimator, self.contract, train, valid, chosen["early_stopping"]))

    def fit_alone(self, X: Floats, y: Floats) -> Model:
        """Fit a model of the same kind on rows of which every sixth only says when to stop.

        Parameters
        ----------
        X, y
            Matrix and target, of shapes (rows, features) and (rows,).

        Raises
        ------
        InputError
            A class of the target has no row to learn from.
        """
        stopping = np.arange(len(y)) % _STOPPING == _STOPPING - 1
        classes = self.contract.classes
        if missing := set(range(len(classes))).difference(np.unique(y[~stopping]).astype(int)):
            raise InputError(f"{self.contract.target.name} = {classes[min(missing)]} has no row to learn from")
        return self.refit((X[~stopping], y[~stopping]), (X[stopping], y[stopping]))
