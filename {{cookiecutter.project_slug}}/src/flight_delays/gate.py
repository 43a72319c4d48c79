"""May this model take over? The quality gate that stands before every move of the champion alias."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.model import Model
from flight_delays.scores import Interval, interval, resample, resampled, scores


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why.

    Attributes
    ----------
    passed
        Whether the candidate may become champion.
    reason
        In one line, with the numbers it rests on.
    """

    passed: bool
    reason: str


def beats_baselines(metrics: dict[str, Any]) -> Verdict:
    """Require that a candidate is surely better than a constant, and not surely worse than a linear model.

    Parameters
    ----------
    metrics
        The content of `reports/metrics.json`.
    """
    constant, linear = (Interval(**metrics["gain"][name]) for name in ("constant", "linear"))
    if constant.low <= 0:
        return Verdict(False, f"not surely better than the constant baseline: {metrics['score']} gain {constant}")
    if linear.high < 0:  # equal is good enough: the candidate may be a linear model itself
        return Verdict(False, f"surely worse than the linear baseline: {metrics['score']} gain {linear}")
    return Verdict(True, f"{metrics['score']} gain over the constant baseline {constant}, over the linear one {linear}")


def holds_against(candidate: Model, champion: Model, test: Path, chosen: dict[str, Any], tolerance: float) -> Verdict:
    """Require that a candidate is surely no more than a tolerance worse than the champion, on the same rows.

    Parameters
    ----------
    candidate, champion
        Each scores the rows through its own contract.
    test
        The Parquet file with the test rows.
    chosen
        The section `evaluate` of `params.yaml`.
    tolerance
        Share of the champion's score, 0 to 1.
    """
    contract = candidate.contract
    if reason := _incomparable(contract, champion.contract):
        return Verdict(True, f"the champion cannot be asked ({reason}), and the candidate beats the baselines")
    X, y = features.load(test, contract)
    theirs = champion.predict(features.load(test, champion.contract)[0])
    ours = candidate.predict(X)
    if not np.isfinite(ours).all():
        return Verdict(False, "the candidate gives outputs that are not finite numbers")
    first, *_ = scores(contract.task, contract.classes, chosen["costs"])
    draws = resample(y, chosen["resamples"], chosen["seed"], stratified=bool(contract.classes))
    value = first.function(y, theirs)
    spread = first.sign * (resampled(first, y, ours, draws) - resampled(first, y, theirs, draws))
    gain = interval(first.sign * (first.function(y, ours) - value), spread, chosen["confidence"])
    allowed = tolerance * abs(value)
    words = f"{first.name} gain over the champion {gain}, at most {allowed:.4g} worse is allowed"
    return Verdict(gain.low >= -allowed, words)


def _incomparable(ours: Contract, theirs: Contract) -> str:
    missing = {column.name for column in theirs.features} - {column.name for column in ours.columns}
    if missing:
        return f"it needs {sorted(missing)}"
    if (ours.task, ours.classes, ours.target.name) != (theirs.task, theirs.classes, theirs.target.name):
        return "it predicts another target"
    return ""
