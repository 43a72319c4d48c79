"""Does a better score mean better decisions? A ladder of models, each scored offline and replayed through the service.

The models differ in how many rows they learned from, and in whether the features that matter most were hidden. The
score is taken on the validation rows; what decisions cost is counted on test rows, which the real service answers over
HTTP. Spearman's rank correlation of the two gets its interval from a bootstrap over the rows on both sides.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flight_delays.assess.chance import tidy
from flight_delays.assess.evidence import Evidence, count
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.picture import BLUE, GREY, RED, panel
from flight_delays.scores import Interval, interval, resample, resampled
from flight_delays.settings import params

_HOST = "127.0.0.1"
_REQUEST_ROWS = 500
_SECONDS = 30  # for the service to start, to answer a request and to end
_RUNGS = 12  # models: with fewer, a rank correlation says little
_FEWEST = 40  # rows of a fit
_COSTS = {
    "binary": "cost of a decision",
    "multiclass": "share of wrong decisions",
    "regression": "mean absolute error of the answers",
}


@dataclass(frozen=True)
class Ladder:
    """Models with what they answered; a script may resample the rows and judge again.

    Attributes
    ----------
    names
        Of the models.
    truth
        Targets of the validation rows, of shape (rows,).
    outputs
        What each model predicts for them, as `Model.predict` gives it.
    costs
        What each served decision cost, of shape (models, replayed rows).
    """

    names: list[str]
    truth: Floats
    outputs: list[Floats]
    costs: Floats


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Set each model's score against what its decisions cost.

    Parameters
    ----------
    evidence
        The model and its test rows.
    chosen
        The section `assess` of `params.yaml`, with its `impact`.

    Returns
    -------
    dict
        `models` (`name`, `score`, `cost`), `correlation` (`value`, `low`, `high`), `problems`.
    """
    rungs = fits(evidence, chosen)
    if len(rungs) < _RUNGS / 2:
        reason = f"the training rows are too few for {_RUNGS} models of different quality, bring more"
        return {"models": [], "problems": [f"whether a better score means better decisions cannot be told: {reason}"]}
    return judge(evidence, climb(evidence, rungs, chosen), chosen)


def fits(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Model]:
    """Fit the ladder's models, worst first.

    Parameters
    ----------
    evidence
        As for `measure`.
    chosen
        As for `measure`.
    """
    X, y = _evenly(evidence.training(), chosen["fit_rows"])
    if len(y) < 2 * _FEWEST:
        return {}
    hidden = _important(evidence, chosen["seed"])
    found: dict[str, Model] = {}
    for without in (hidden, hidden[:0]) if len(hidden) else (hidden,):
        for rows in np.geomspace(_FEWEST, len(y), _RUNGS // (2 if len(hidden) else 1)).astype(int):
            part_X, part_y = _evenly((X, y), rows)
            part_X[:, without] = np.nan  # a model never asks for what it never saw
            with contextlib.suppress(InputError):  # a class is not among so few rows
                name = f"{rows:,} rows, {X.shape[1] - len(without)} features"
                found[name] = evidence.fit_alone(part_X, part_y)
    return found


def climb(evidence: Evidence, rungs: dict[str, Model], chosen: dict[str, Any]) -> Ladder:
    """Score each model offline, and replay test rows through its service.

    Parameters
    ----------
    evidence
        As for `measure`.
    rungs
        From `fits`.
    chosen
        As for `measure`.
    """
    X, truth = _evenly(evidence.validation(), chosen["offline_rows"])
    rows = evidence.rows.num_rows
    replayed = evidence.take(np.linspace(0, rows - 1, min(rows, chosen["replay_rows"])).astype(np.intp))
    costs = [_costs(replayed, replay(model, replayed.rows)) for model in rungs.values()]
    return Ladder(list(rungs), truth, [model.predict(X) for model in rungs.values()], np.array(costs))


def judge(evidence: Evidence, ladder: Ladder, chosen: dict[str, Any]) -> dict[str, Any]:
    """Say how well the order of the scores is the order of the costs.

    Parameters
    ----------
    evidence
        Says the task and the score.
    ladder
        From `climb`.
    chosen
        As for `measure`.
    """
    score, seed = evidence.score, chosen["seed"]
    offline = np.array([score.function(ladder.truth, output) for output in ladder.outputs])
    stratified = bool(evidence.contract.classes)
    draws = resample(ladder.truth, chosen["resamples"], seed, stratified)
    drawn = np.array([resampled(score, ladder.truth, output, draws) for output in ladder.outputs])
    rows = ladder.costs.shape[1]
    counts = np.random.default_rng(seed + 1).multinomial(rows, np.full(rows, 1 / rows), chosen["resamples"])
    drawn_costs = ladder.costs @ counts.T / rows
    costs = ladder.costs.mean(axis=1)
    value = _correlation(score.sign * offline, costs)
    spread = [_correlation(score.sign * one, other) for one, other in zip(drawn.T, drawn_costs.T, strict=True)]
    found = interval(value, np.array(spread), chosen["confidence"])
    models: list[dict[str, Any]] = [
        {"name": name}
        | _spread("score", interval(offline[place], drawn[place], chosen["confidence"]))
        | _spread("cost", interval(costs[place], drawn_costs[place], chosen["confidence"]))
        for place, name in enumerate(ladder.names)
    ]
    seen = f"{count(evidence.contract, ladder.truth)} validation and {rows:,} test rows"
    problem = _problem(score.name, found, chosen["correlation"], seen)
    return {
        "score": score.name,
        "greater_is_better": score.greater_is_better,
        "cost": _COSTS[evidence.contract.task],
        "offline_rows": len(ladder.truth),
        "replayed_rows": rows,
        "bound": chosen["correlation"],
        "models": models,
        "correlation": {"value": tidy(found.value), "low": tidy(found.low), "high": tidy(found.high)},
        "problems": [problem] if problem else [],
    }


def replay(model: Model, rows: pa.Table) -> list[Any]:
    """Send rows to a service of their own, and give its decisions.

    Parameters
    ----------
    model
        Served over HTTP on a free port of this machine, for as long as it takes.
    rows
        In the contract's types.

    Raises
    ------
    InputError
        The service does not answer a row.
    """
    from flight_delays.serving import door

    decided: list[Any] = []
    with _serve(model) as port:
        connection = http.client.HTTPConnection(_HOST, port, timeout=_SECONDS)
        for first in range(0, rows.num_rows, _REQUEST_ROWS):
            body = json.dumps({"rows": door.to_json(rows.slice(first, _REQUEST_ROWS), model.contract)})
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                fault = next((entry["message"] for entry in answer.get("violations", ())), "")
                raise InputError(
                    f"the service refuses test rows ({response.status}): {answer['detail']} {fault}".rstrip()
                )
            decided += [entry["prediction"] for entry in answer["predictions"]]
        connection.close()
    return decided


@contextlib.contextmanager
def _serve(model: Model) -> Iterator[int]:
    import uvicorn

    from flight_delays.serving.app import create_app

    with socket.create_server((_HOST, 0)) as opened:
        server = uvicorn.Server(uvicorn.Config(create_app(model), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        end = time.monotonic() + _SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        try:
            yield opened.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(_SECONDS)


def _costs(evidence: Evidence, decided: list[Any]) -> Floats:
    """Count what each decision cost: what params.yaml says of an error, 1 for a wrong class, or the error itself."""
    from flight_delays.serving import door

    contract, truth = evidence.contract, evidence.y
    if contract.task == "regression":
        return np.abs(np.array(decided, np.float64) - truth)
    places = {door.plain(name): place for place, name in enumerate(contract.classes)}
    wrong = np.array([places[answer] for answer in decided]) != truth
    if contract.task == "multiclass":
        return wrong.astype(np.float64)
    costs = params("evaluate")["costs"]
    return wrong * np.where(truth == 1, costs["false_negative"], costs["false_positive"])


def _evenly(rows: tuple[Floats, Floats], count: int) -> tuple[Floats, Floats]:
    places = np.linspace(0, len(rows[1]) - 1, min(count, len(rows[1]))).astype(np.intp)
    return rows[0][places], rows[1][places]


def _important(evidence: Evidence, seed: int) -> NDArray[np.intp]:
    """List the more important half of the features; by chance where the model does not say."""
    importance = evidence.model.importance()
    if not np.isfinite(importance).all():
        importance = np.random.default_rng(seed).random(len(importance))
    return np.argsort(-importance, kind="stable")[: len(importance) // 2]


def _correlation(scores: Floats, costs: Floats) -> float:
    """Give Spearman's rank correlation of score and benefit; 0 where one of them is the same for all models."""
    from scipy.stats import spearmanr

    if np.ptp(scores) == 0 or np.ptp(costs) == 0:
        return 0.0
    return float(spearmanr(scores, -costs).statistic)


def _problem(score: str, found: Interval, bound: float, seen: str) -> str:
    words = f"rank correlation {found}, surely above {bound} is asked"
    if found.low > bound:
        return ""
    if found.high > bound:
        return (
            f"whether a better {score} means better decisions cannot be told ({words}): "
            f"{seen} are too few, bring more, or they are not labelled alike"
        )
    return (
        f"a better {score} does not mean better decisions ({words}): look whether validation and test rows are "
        "labelled alike, and whether evaluate.costs in params.yaml says what errors cost"
    )


def _spread(name: str, found: Interval) -> dict[str, Any]:
    return {name: tidy(found.value), f"{name}_low": tidy(found.low), f"{name}_high": tidy(found.high)}


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw each model's score against what its decisions cost.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    with panel(path, "" if found["models"] else "too few rows to tell") as axes:
        if found["models"]:
            _draw_models(axes, found)


def _draw_models(axes: Any, found: dict[str, Any]) -> None:
    color = RED if found["problems"] else BLUE
    places, errors = [], []
    for name in ("score", "cost"):
        value, low, high = (
            np.array([model[key] for model in found["models"]]) for key in (name, f"{name}_low", f"{name}_high")
        )
        places.append(value)
        errors.append(np.maximum([value - low, high - value], 0))
    axes.errorbar(*places, yerr=errors[1], xerr=errors[0], fmt="o", color=color, ms=4, elinewidth=1, ecolor=GREY)
    side = "further right" if found["greater_is_better"] else "further left"
    value = found["correlation"]
    finding = "Scores do not tell what decisions cost" if found["problems"] else "Better scores mean better decisions"
    axes.set(
        xlabel=f"{found['score']} on the validation rows, {side} is better",
        ylabel=found["cost"],
        title=f"{finding}:\nrank correlation {value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})",
    )


def say(found: dict[str, Any]) -> str:
    """Say how well the score tells what decisions cost.

    Parameters
    ----------
    found
        From `measure`.
    """
    if not found["models"]:
        return "This cannot be told yet."
    value = found["correlation"]
    finding = (
        f"The rank correlation of {found['score']} with the benefit of decisions is **{value['value']:.2f}** "
        f"({value['low']:.2f} to {value['high']:.2f}; surely above {found['bound']} is asked) over "
        f"{len(found['models'])} models, each scored on {found['offline_rows']:,} validation rows and asked about "
        f"{found['replayed_rows']:,} test rows through the service."
    )
    lines = [
        finding,
        "",
        f"| learned from | {found['score']} | {found['cost']} |",
        "|---|---:|---:|",
    ]
    lines += [f"| {model['name']} | {model['score']:.4g} | {model['cost']:.4g} |" for model in found["models"]]
    return "\n".join(lines)
