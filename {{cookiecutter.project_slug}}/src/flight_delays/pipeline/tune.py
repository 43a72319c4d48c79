"""Beside the stages: search for better hyperparameters, and write the best into `params.yaml`.

A search is kept in `models/tuning.db` and goes on where it was stopped; each trial has its own seed, so a search that
was interrupted ends like one that was not. It is no stage of dvc.yaml, since it writes what the stages read.
"""

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from ruamel.yaml import YAML

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline.split import PARTS
from flight_delays.pipeline.train import load_training, load_validation
from flight_delays.scores import scores
from flight_delays.settings import PARAMS, params
from flight_delays.tracking import Registry

STORE = Path("models/tuning.db")


def suggest(trial: optuna.Trial, space: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Draw one value for each hyperparameter.

    Parameters
    ----------
    trial
        Optuna's.
    space
        `{name: {low, high, log}}` for numbers (whole where both ends are whole), `{name: {choices}}` for others.

    Raises
    ------
    InputError
        An entry is neither.
    """
    drawn: dict[str, Any] = {}
    for name, entry in space.items():
        try:
            if "choices" in entry:
                drawn[name] = trial.suggest_categorical(name, entry["choices"])
            elif isinstance(entry["low"], int) and isinstance(entry["high"], int):
                drawn[name] = trial.suggest_int(name, entry["low"], entry["high"], log=entry.get("log", False))
            else:
                drawn[name] = trial.suggest_float(name, entry["low"], entry["high"], log=entry.get("log", False))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"params.yaml: tune.space.{name} needs low and high, or choices: {error}") from None
    return drawn


def tune(contract: Contract, chosen: dict[str, Any], training: dict[str, Any]) -> optuna.Study:
    """Run the trials that are still missing, and give the search.

    Parameters
    ----------
    contract
        The contract.
    chosen
        The section `tune` of `params.yaml`.
    training
        The section `train`; its own values are the first trial.
    """
    train = load_training(contract, chosen["max_rows"])
    valid = load_validation(contract, chosen["max_rows"])
    score = scores(contract.task, contract.classes, params("evaluate")["costs"])[0]
    fixed = {name: value for name, value in training["hyperparameters"].items() if name not in chosen["space"]}

    def objective(trial: optuna.Trial) -> float:
        values = fixed | suggest(trial, chosen["space"])
        estimator = make_estimator(training["estimator"], contract.task, values, training["seed"])
        predictor = fit(estimator, contract, train, valid, training["early_stopping"])
        return score.function(valid[1], Model(contract, predictor).predict(valid[0]))

    study = _study(contract, chosen, training, score.greater_is_better)
    registry = Registry(contract.id)
    columns = (
        TextColumn("tune"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        done = len(_finished(study))
        bar = progress.add_task("", total=chosen["trials"], completed=done)
        parent = registry.find_run("study", study.study_name) if done else None
        for number in range(done, chosen["trials"]):
            study.sampler = optuna.samplers.TPESampler(seed=chosen["seed"] + number)
            with warnings.catch_warnings():  # the first trial is what is set, even out of the space
                warnings.filterwarnings("ignore", "Fixed parameter .* is out of range")
                study.optimize(objective, n_trials=1)
            last = _finished(study)[-1]
            if parent is None:
                with registry.run("tune", {"study": study.study_name}) as parent:
                    pass
            with registry.run(f"trial {number + 1}", {"study.trial": str(number)}, parent=parent) as run:
                registry.log(run, fixed | last.params, {score.name: float(last.value or 0)})
            progress.update(bar, advance=1, description=f"best {score.name} {study.best_value:.4f}")
    return study


def _study(contract: Contract, chosen: dict[str, Any], training: dict[str, Any], maximize: bool) -> optuna.Study:
    """Open the search of exactly this data, contract and space, so that another one starts anew."""
    data = hashlib.sha256(PARTS["train"].read_bytes()).hexdigest()
    current = {name: value for name, value in training["hyperparameters"].items() if name in chosen["space"]}
    fixed = {name: value for name, value in training["hyperparameters"].items() if name not in chosen["space"]}
    kept = {key: chosen[key] for key in ("seed", "max_rows", "space")} | training | {"hyperparameters": fixed}
    name = hashlib.sha256(json.dumps([contract.digest, data, kept], sort_keys=True).encode()).hexdigest()[:16]
    STORE.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{STORE}",
        study_name=name,
        direction="maximize" if maximize else "minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # killed in the middle
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if not _finished(study):
        study.enqueue_trial(current)  # the first trial is what params.yaml has
    return study


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def write_best(values: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Put values into `train.hyperparameters` of `params.yaml`, leaving its comments and all else alone.

    Parameters
    ----------
    values
        By name.

    Returns
    -------
    list of tuple
        Name, old and new value of what changed.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    document = yaml.load(PARAMS)
    current = document["train"]["hyperparameters"]
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
    changes = [(name, current.get(name), value) for name, value in rounded.items() if current.get(name) != value]
    current.update({name: value for name, _, value in changes})
    unfinished = PARAMS.with_suffix(".unfinished")
    yaml.dump(document, unfinished)
    unfinished.replace(PARAMS)
    return changes


@report_errors
def main() -> None:
    """Run the search."""
    contract, chosen = Contract.read(), params("tune")
    study = tune(contract, chosen, params("train"))
    first, best = _finished(study)[0], study.best_trial
    print(
        f"tune: {len(_finished(study))} trials; on the validation rows "
        f"the first has {first.value:.5g}, the best {best.value:.5g}"
    )
    changes = write_best(best.params)
    if not changes:
        print("tune: params.yaml has the best values already")
        return
    table = Table("train.hyperparameters", "was", "now", title="params.yaml", title_justify="left")
    for name, old, new in changes:
        table.add_row(name, str(old), str(new))
    Console(width=100).print(table)
    print("tune: look with `git diff params.yaml`, then run `make pipeline`")


if __name__ == "__main__":
    main()
