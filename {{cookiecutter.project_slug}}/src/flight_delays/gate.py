"""May this model take over? The quality gate that stands before every move of the champion alias.

Each check gives a verdict with its reason; the first refusal decides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flight_delays import features, leakage
from flight_delays.contract import Contract
from flight_delays.model import Model
from flight_delays.scores import Interval, interval, resample, resampled, scores
from flight_delays.settings import insists


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


def is_traceable(tags: dict[str, str], tier: str) -> Verdict:
    """Require, where the tier insists on it, that the model was made from what is committed.

    Parameters
    ----------
    tags
        Where the model comes from: `git.commit` and `git.dirty`.
    tier
        `development`, `integration` or `production`.
    """
    if insists("sources", tier) and tags["git.dirty"] != "false":
        return Verdict(False, f"not made from a clean commit, as {tier} requires: commit, then `make register`")
    return Verdict(True, f"made from commit {tags['git.commit'][:7]}")


def is_of_this_tier(tags: dict[str, str], contract: Contract, tier: str) -> Verdict:
    """Require that the model was made from the rows that this tier reads, where the contract names several servers.

    Parameters
    ----------
    tags
        Where the model comes from: `server`.
    contract
        The project's contract, as this tier reads it.
    tier
        `development`, `integration` or `production`.
    """
    wanted = str(contract.server.server)
    if tags.get("server", "") not in {"", wanted}:
        again = f"`make pipeline TIER={tier}` reads them anew"
        return Verdict(
            False, f"made from the rows of server {tags['server']}, and {tier} has those of {wanted}: {again}"
        )
    return Verdict(True, f"made from the rows of server {wanted}")


def is_sound(candidate: Model, contract: Contract, test: Path) -> Verdict:
    """Require that a candidate is made for today's contract, and answers the test rows with outputs that make sense.

    Parameters
    ----------
    candidate
        The model that would take over.
    contract
        The project's contract as it stands today.
    test
        The Parquet file with the test rows.
    """
    if candidate.contract.digest != contract.digest:
        return Verdict(False, "made for another contract than contract.yaml: run `make pipeline` to train it again")
    X, y = features.load(test, contract)
    try:
        output = candidate.predict(X)
    except Exception as error:  # whatever a broken predictor raises
        return Verdict(False, f"it cannot answer the test rows: {' '.join(str(error).split())[:200]}")
    wanted = (len(y), len(contract.classes)) if contract.task == "multiclass" else (len(y),)
    if output.shape != wanted:
        return Verdict(False, f"it gives outputs of shape {output.shape}, and {contract.task} needs {wanted}")
    if bad := int((~np.isfinite(output)).reshape(len(y), -1).any(axis=1).sum()):
        return Verdict(False, f"it gives outputs that are not finite numbers for {bad:,} of {len(y):,} test rows")
    if contract.classes and not ((output >= 0) & (output <= 1)).all():
        return Verdict(
            False, f"it gives probabilities from {output.min():.4g} to {output.max():.4g}, not within 0 and 1"
        )
    if (output == output[0]).all():
        return Verdict(False, "it gives every test row the same output")
    return Verdict(True, f"sound outputs for {len(y):,} test rows")


def has_no_leak(contract: Contract, train: Path) -> Verdict:
    """Require that no feature gives the target away: such a model is worth nothing where the target is not known.

    Parameters
    ----------
    contract
        The contract.
    train
        The Parquet file with the training rows.
    """
    names = list(dict.fromkeys([column.name for column in contract.features] + [contract.target.name]))
    rows = pq.read_table(train, columns=names)
    found = leakage.leaks(rows, contract)
    few = f"; among {rows.num_rows} rows none could be seen" if rows.num_rows < leakage.FEWEST_ROWS else ""
    return Verdict(not found, "; ".join(found) or f"no feature gives the target away{few}")


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
