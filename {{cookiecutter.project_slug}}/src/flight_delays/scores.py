"""How good are predictions? The scores of each task, with bootstrap intervals.

Intervals are percentiles over resampled rows (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
Models that are compared are scored on the same resamples, so what they share cancels out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context, metrics

from flight_delays.errors import InputError

Floats = NDArray[np.float64]
_SMALLEST = 1e-7  # probability of what happened, else one surprise would outweigh all other rows


@dataclass(frozen=True)
class Score:
    """One way to score predictions.

    Attributes
    ----------
    name
        As it stands in `reports/metrics.json`.
    function
        Takes the truth and the outputs of `Model.predict`, gives a number.
    greater_is_better
        Which way is better.
    """

    name: str
    function: Callable[[Floats, Floats], float]
    greater_is_better: bool

    @property
    def sign(self) -> int:
        """What a difference is multiplied with, so that positive is better."""
        return 1 if self.greater_is_better else -1


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as people read it: 0.713 (0.708 to 0.718)."""
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def scores(task: str, classes: Sequence[Any] = (), costs: dict[str, float] | None = None) -> tuple[Score, ...]:
    """List a task's scores; the first one is the one that decides.

    Parameters
    ----------
    task
        `binary`, `multiclass` or `regression`.
    classes
        The target's classes.
    costs
        In binary classification, the costs `false_negative` and `false_positive`.
    """
    if task == "regression":
        return (
            Score("rmse", metrics.root_mean_squared_error, False),
            Score("mae", metrics.mean_absolute_error, False),
            Score("r2", metrics.r2_score, True),
        )
    labels = list(range(len(classes)))
    if task == "binary":
        return (
            Score("roc_auc", metrics.roc_auc_score, True),
            Score("average_precision", metrics.average_precision_score, True),
            Score("log_loss", partial(metrics.log_loss, labels=labels), False),
            Score("brier", metrics.brier_score_loss, False),
            Score("cost", partial(_cost, costs=costs or {}), False),
        )
    return (
        Score("log_loss", partial(_multiclass_log_loss, labels=labels), False),
        Score("accuracy", lambda truth, output: metrics.accuracy_score(truth, output.argmax(axis=1)), True),
        Score(
            "macro_f1",
            lambda truth, output: metrics.f1_score(
                truth, output.argmax(axis=1), average="macro", labels=labels, zero_division=0
            ),
            True,
        ),
    )


def threshold(costs: dict[str, float]) -> float:
    """Find the probability from which deciding for the positive class costs less (Elkan, IJCAI 2001, eq. 2).

    Parameters
    ----------
    costs
        `false_negative` and `false_positive`, both above 0, in one unit.

    Raises
    ------
    InputError
        A cost is missing or not positive.
    """
    negative, positive = costs.get("false_negative", 0), costs.get("false_positive", 0)
    if not (negative > 0 and positive > 0):
        raise InputError("params.yaml: evaluate.costs needs false_negative and false_positive, both above 0")
    return positive / (positive + negative)


def resample(truth: Floats, count: int, seed: int, stratified: bool) -> list[NDArray[np.intp]]:
    """Draw bootstrap resamples, as positions of rows.

    Parameters
    ----------
    truth
        The target, of shape (rows,).
    count
        How many resamples.
    seed
        Of the generator.
    stratified
        Whether each resample keeps the number of rows of each class, so that no class is ever left without one.
    """
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(truth == value) for value in np.unique(truth)] if stratified else [np.arange(len(truth))]
    return [np.concatenate([random.choice(group, len(group)) for group in groups]) for _ in range(count)]


def interval(value: float, resampled: Floats, confidence: float) -> Interval:
    """Put the percentile interval around a value.

    Parameters
    ----------
    value
        On all rows.
    resampled
        The same on each resample.
    confidence
        0 to 1.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def resampled(score: Score, truth: Floats, output: Floats, draws: list[NDArray[np.intp]]) -> Floats:
    """Score each resample.

    Parameters
    ----------
    score
        The score.
    truth, output
        The target and the predictions, rows first.
    draws
        From `resample`.
    """
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checked once, not once a resample
        return np.array([score.function(truth[draw], output[draw]) for draw in draws])


def losses(task: str, truth: Floats, output: Floats) -> Floats:
    """Give the loss of each row: log loss of the true class, or the squared error.

    Parameters
    ----------
    task
        `binary`, `multiclass` or `regression`.
    truth, output
        The target and what `Model.predict` gave, rows first.

    Returns
    -------
    ndarray of float64, shape (rows,)
    """
    if task == "regression":
        return (truth - output) ** 2
    if task == "binary":
        right = np.where(truth == 1, output, 1 - output)
    else:
        right = output[np.arange(len(truth)), truth.astype(int)] / output.sum(axis=1)
    return -np.log(np.clip(right, _SMALLEST, 1))


def _cost(truth: Floats, output: Floats, costs: dict[str, float]) -> float:
    decided = output >= threshold(costs)
    wrong = np.where(truth == 1, costs["false_negative"] * ~decided, costs["false_positive"] * decided)
    return float(wrong.mean())


def _multiclass_log_loss(truth: Floats, output: Floats, labels: list[int]) -> float:
    return metrics.log_loss(truth, output / output.sum(axis=1, keepdims=True), labels=labels)
