"""Stage 5: measure the model on the test rows, against its baselines and by slice, with intervals."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flight_delays import baselines, features, report
from flight_delays.contract import Column
from flight_delays.errors import InputError, report_errors
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.pipeline.split import PARTS
from flight_delays.pipeline.train import CANDIDATE, load_training
from flight_delays.scores import Score, interval, resample, resampled, scores
from flight_delays.settings import params

METRICS = Path("reports/metrics.json")
PLOTS = Path("reports/plots")
_FEWEST = 20  # rows of a slice, below which its score says nothing


def evaluate(model: Model, chosen: dict[str, Any]) -> dict[str, Any]:
    """Score a model, a constant and a linear model on the test rows.

    Parameters
    ----------
    model
        The candidate.
    chosen
        The section `evaluate` of `params.yaml`.

    Returns
    -------
    dict
        `score` (the name of the one that decides), `test` ({score: Interval}), `baselines` ({name: Interval} of the
        deciding score), `gain` ({name: Interval} over each baseline, paired; positive is better), `slices` (list),
        `rows`, and the arrays `truth` and `output` that the plots are drawn from.

    Raises
    ------
    InputError
        The test rows cannot be scored, as they hold one class only.
    """
    contract = model.contract
    X, y = features.load(PARTS["test"], contract)
    if contract.classes and len(np.unique(y)) < 2:
        raise InputError(f"the test rows hold one class of {contract.target.name!r} only: enlarge split.test")
    X_train, y_train = load_training(contract, chosen["baseline_rows"])
    outputs = {
        "model": model.predict(X),
        "constant": baselines.constant(contract, y_train, len(y)),
        "linear": baselines.linear(contract, X_train, y_train, X),
    }
    first, *others = scores(contract.task, contract.classes, chosen["costs"])
    draws = resample(y, chosen["resamples"], chosen["seed"], stratified=bool(contract.classes))
    confidence = chosen["confidence"]
    spread = {name: resampled(first, y, output, draws) for name, output in track(outputs.items(), "evaluate")}
    value = {name: first.function(y, output) for name, output in outputs.items()}
    test = {first.name: interval(value["model"], spread["model"], confidence)}
    for score in others:
        found = resampled(score, y, outputs["model"], draws)
        test[score.name] = interval(score.function(y, outputs["model"]), found, confidence)
    simple = ("constant", "linear")
    return {
        "score": first.name,
        "test": test,
        "baselines": {name: interval(value[name], spread[name], confidence) for name in simple},
        "gain": {
            name: interval(
                first.sign * (value["model"] - value[name]), first.sign * (spread["model"] - spread[name]), confidence
            )
            for name in simple
        },
        "slices": [row for column in contract.slices for row in _slices(column, first, y, outputs["model"], chosen)],
        "rows": len(y),
        "truth": y,
        "output": outputs["model"],
    }


def _slices(column: Column, score: Score, y: Floats, output: Floats, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Score each value of one column that has rows enough, and both classes where the score needs them."""
    values = pq.read_table(PARTS["test"], columns=[column.name])[column.name].dictionary_encode().combine_chunks()
    codes = values.indices.fill_null(-1).to_numpy()
    found = []
    for code, name in enumerate(values.dictionary.to_pylist()):
        truth, part = y[codes == code], output[codes == code]
        if len(truth) < _FEWEST or (score.name == "roc_auc" and len(np.unique(truth)) < 2):
            continue
        draws = resample(truth, chosen["resamples"], chosen["seed"], stratified=score.name == "roc_auc")
        spread = interval(score.function(truth, part), resampled(score, truth, part, draws), chosen["confidence"])
        found.append({"slice": f"{column.name} = {name}", "rows": len(truth), "score": spread})
    return sorted(found, key=lambda entry: -entry["rows"])


def write(model: Model, found: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Write the metrics, the tables that DVC plots, the figures and the model card.

    Parameters
    ----------
    model
        The candidate.
    found
        From `evaluate`.
    chosen
        The section `evaluate` of `params.yaml`.
    """
    numbers = ("test", "baselines", "gain")
    metrics = {"score": found["score"], "rows": found["rows"]} | {
        group: {name: asdict(entry) for name, entry in found[group].items()} for group in numbers
    }
    METRICS.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    truth, output = found["truth"], found["output"]
    calibration = report.calibration(model.contract, truth, output)
    errors = report.errors(model, truth, output)
    slices = [
        {"slice": entry["slice"], "rows": entry["rows"]}
        | {"score": entry["score"].value, "low": entry["score"].low, "high": entry["score"].high}
        for entry in found["slices"]
    ]
    for name, rows, header in (
        ("calibration", calibration, ("class", "predicted", "observed", "rows")),
        ("errors", errors, ("actual", "predicted", "rows")),
        ("slices", slices, ("slice", "rows", "score", "low", "high")),
    ):
        with (PLOTS / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    report.draw(model, found, calibration, errors)
    report.write_card(model, found, chosen)


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"test, {found['rows']:,} rows", title_justify="left")
    for name in ("score", "model", "constant", "linear"):
        table.add_column(name)
    for name, entry in found["test"].items():
        simple = found["baselines"].values() if name == found["score"] else ("", "")
        table.add_row(name, *(str(value) for value in (entry, *simple)))
    return table


@report_errors
def main() -> None:
    """Run the stage."""
    chosen, model = params("evaluate"), Model.load(CANDIDATE)
    found = evaluate(model, chosen)
    PLOTS.mkdir(parents=True, exist_ok=True)
    write(model, found, chosen)
    Console(width=100).print(_table(found))
    print(f"evaluate: {METRICS}, {report.CARD}")


if __name__ == "__main__":
    main()
