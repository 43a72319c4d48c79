"""Are the hyperparameters those that a search finds? Runs what is missing of the search, and compares what is set.

The search (`make tune` runs the same one) is kept in `models/tuning.db`. Its best trial is the luckiest of many, so the
bound on its lead over the values in `params.yaml` is shared out over all trials (Bonferroni); the error of the lead is
that of a paired bootstrap over validation rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import baselines
from flight_delays.assess.chance import tidy
from flight_delays.assess.evidence import Evidence
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import make_estimator
from flight_delays.picture import BLUE, GREY, RED, panel
from flight_delays.pipeline.train import load_training, load_validation
from flight_delays.pipeline.tune import tune
from flight_delays.scores import resample, resampled
from flight_delays.settings import params

Json = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a search found; a script may resample the rows and judge again.

    Attributes
    ----------
    trials
        The score of each trial, in their order.
    best
        The place of the best trial, from 0.
    values
        The best trial's hyperparameters.
    truth
        Targets of validation rows.
    outputs
        What a model with the values of `params.yaml`, one with the best trial's and a constant predict for them.
    """

    trials: list[float]
    best: int
    values: Json
    truth: Floats
    outputs: tuple[Floats, Floats, Floats]


def measure(evidence: Evidence, chosen: Json) -> Json:
    """Search, and compare the best values with those of `params.yaml`.

    Parameters
    ----------
    evidence
        The model, for its contract.
    chosen
        The section `assess` of `params.yaml`, with its `search`.

    Returns
    -------
    dict
        `trials` (scores), `shipped` and `best` (`values`, `score`), `lead` of the best with `low`, `problems`.
    """
    training, searching = params("train"), params("tune")
    problems = _undeclared(training, searching)
    if not searching["space"]:
        return {"trials": [], "problems": problems}
    try:
        _refuse_strangers(evidence, training, searching)
        found = fits(evidence)
    except InputError as error:
        return {"trials": [], "problems": [*problems, str(error)]}
    judged = judge(evidence, found, chosen)
    return judged | {"problems": problems + judged["problems"]}


def fits(evidence: Evidence) -> Found:
    """Run the trials that are still missing, and fit the two models that are compared.

    Parameters
    ----------
    evidence
        As for `measure`.
    """
    contract, training, searching = evidence.contract, params("train"), params("tune")
    study = tune(contract, searching, training)
    trials = [trial for trial in study.trials if trial.value is not None]
    train = load_training(contract, searching["max_rows"])
    X, y = load_validation(contract, searching["max_rows"])
    rows = np.linspace(0, len(y) - 1, min(len(y), evidence.max_rows)).astype(np.intp)
    both: tuple[Json, Json] = ({}, study.best_params)
    outputs = [evidence.refit(train, (X, y), **values).predict(X[rows]) for values in both]
    outputs.append(baselines.constant(contract, train[1], len(rows)))
    numbers = [trial.number for trial in trials]
    return Found(
        [float(trial.value or 0) for trial in trials],
        numbers.index(study.best_trial.number),
        study.best_params,
        y[rows],
        (outputs[0], outputs[1], outputs[2]),
    )


def judge(evidence: Evidence, found: Found, chosen: Json) -> Json:
    """Say whether the best trial is surely and notably better than what is set.

    Parameters
    ----------
    evidence
        Says the score.
    found
        From `fits`.
    chosen
        As for `measure`.
    """
    from scipy.stats import norm

    score = evidence.score
    draws = resample(found.truth, chosen["resamples"], chosen["seed"], bool(evidence.contract.classes))
    shipped, best, constant = (score.function(found.truth, output) for output in found.outputs)
    spread = resampled(score, found.truth, found.outputs[1], draws) - resampled(
        score, found.truth, found.outputs[0], draws
    )
    lead = score.sign * (best - shipped)
    sure = norm.ppf(1 - (1 - chosen["confidence"]) / 2 / len(found.trials)) * float(spread.std())
    advantage = score.sign * (best - constant)
    allowed = chosen["tolerance"] * max(advantage, 0.0)
    lags = bool(lead - sure > allowed and advantage > 0)  # of what is worth nothing, no values are better
    values = params("train")["hyperparameters"]
    judged = {
        "score": score.name,
        "greater_is_better": score.greater_is_better,
        "rows": len(found.truth),
        "trials": [tidy(value) for value in found.trials],
        "best_trial": found.best,
        "shipped": {"values": {name: values.get(name) for name in found.values}, "score": tidy(shipped)},
        "best": {"values": {name: _rounded(value) for name, value in found.values.items()}, "score": tidy(best)},
        "constant": tidy(constant),
        "lead": {"value": tidy(lead), "low": tidy(lead - sure), "high": tidy(lead + sure)},
        "tolerance": chosen["tolerance"],
        "allowed": tidy(allowed),
        "lags": lags,
    }
    return judged | {"problems": [_lagging(judged)] if lags else []}


def _undeclared(training: Json, searching: Json) -> list[str]:
    """Name the hyperparameters that are neither searched nor excused."""
    excused = searching.get("excused") or {}
    problems = [
        f"hyperparameter {name} is set to {value} and was never searched: give its range in tune.space of params.yaml, "
        f"or the reason why not in tune.excused"
        for name, value in training["hyperparameters"].items()
        if name not in searching["space"] and not excused.get(name)
    ]
    if not searching["space"]:
        problems.append(
            "tune.space in params.yaml is empty: name the hyperparameters of train.estimator and their ranges"
        )
    return problems


def _refuse_strangers(evidence: Evidence, training: Json, searching: Json) -> None:
    """Refuse a space with names that the estimator does not know, such as that of the estimator before it."""
    values = {name: (entry.get("choices") or [entry.get("low")])[0] for name, entry in searching["space"].items()}
    try:
        make_estimator(training["estimator"], evidence.contract.task, training["hyperparameters"] | values, 0)
    except InputError as error:
        raise InputError(
            f"tune.space in params.yaml ({', '.join(values)}) is not that of train.estimator {training['estimator']}: "
            f"name its own hyperparameters there ({error})"
        ) from None


def _lagging(judged: Json) -> str:
    was, best = judged["shipped"], judged["best"]
    values = ", ".join(f"{name} {value} → {best['values'][name]}" for name, value in was["values"].items())
    return (
        f"the search found better hyperparameters: {judged['score']} {best['score']:.4g} against {was['score']:.4g} on "
        f"the validation rows (lead {judged['lead']['value']:.4g}, surely {judged['lead']['low']:.4g}; "
        f"{judged['allowed']:.4g} is allowed) with {values}: run `make tune`, which writes them to params.yaml"
    )


def _rounded(value: Any) -> Any:
    return tidy(value) if isinstance(value, float) else value


def draw(found: Json, path: Path) -> None:
    """Draw the score of each trial, and where the values of `params.yaml` stand.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    with panel(path, "" if found["trials"] else "nothing could be searched") as axes:
        if found["trials"]:
            _draw_trials(axes, found)


def _draw_trials(axes: Any, found: Json) -> None:
    from matplotlib.ticker import MaxNLocator

    trials = np.array(found["trials"])
    numbers = np.arange(1, len(trials) + 1)
    running = np.maximum.accumulate(trials) if found["greater_is_better"] else np.minimum.accumulate(trials)
    lags = found["lags"]
    axes.plot(numbers, trials, "o", color=GREY, ms=4, label="trials")
    axes.plot(numbers, running, color=BLUE, lw=2, drawstyle="steps-post", label="best so far")
    axes.axhline(found["shipped"]["score"], color=RED if lags else BLUE, lw=1.2, ls="--", label="params.yaml")
    allowed = found["shipped"]["score"] + found["allowed"] * (1 if found["greater_is_better"] else -1)
    axes.axhspan(found["shipped"]["score"], allowed, color=GREY, alpha=0.2, lw=0, label="allowed lead")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = (
        "The search found better values than params.yaml has" if lags else "No trial is surely better than params.yaml"
    )
    side = "higher" if found["greater_is_better"] else "lower"
    axes.set(xlabel="trial", ylabel=f"{found['score']} on the validation rows,\n{side} is better", title=title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def say(found: Json) -> str:
    """Say what was searched, and how what is set compares.

    Parameters
    ----------
    found
        From `measure`.
    """
    if not found["trials"]:
        return "Nothing could be searched."
    was, best, lead = found["shipped"], found["best"], found["lead"]
    finding = (
        f"The best of {len(found['trials'])} trials has {found['score']} {best['score']:.4g} on {found['rows']:,} "
        f"validation rows, the values in `params.yaml` have {was['score']:.4g}: a lead of {lead['value']:.2g} "
        f"({lead['low']:.2g} to {lead['high']:.2g}). Allowed is {found['allowed']:.2g}, {found['tolerance']:.0%} of "
        "the best trial's advantage over a constant."
    )
    lines = [
        finding,
        "",
        "| hyperparameter | in params.yaml | best trial |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {was['values'][name]} | {value} |" for name, value in best["values"].items()]
    return "\n".join(lines)
