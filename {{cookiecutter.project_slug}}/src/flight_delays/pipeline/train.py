"""Stage 4: fit the model. The only stage that must hold its rows in memory, and says so before it starts."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flight_delays import features, golden, reference, scores
from flight_delays.contract import PATH as CONTRACT
from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.features import Floats
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline.split import PARTS
from flight_delays.settings import params

CANDIDATE = Path("models/candidate")
LEARNING_CURVE = Path("reports/plots/learning_curve.csv")
_WEEKLY = 200_000  # rows whose outputs are looked at week by week
_COPIES = 3  # the matrix, the estimator's own form of it, and what fitting adds


def load_training(contract: Contract, max_rows: int) -> tuple[Floats, Floats]:
    """Read the training rows, all or an even sample, if the memory can hold the fit.

    Parameters
    ----------
    contract
        The contract.
    max_rows
        At most so many rows; 0 for all.

    Raises
    ------
    InputError
        The fit would not fit into memory, or a class has no rows.
    """
    rows, count = _evenly("train", max_rows)
    width = len(features.features(contract))
    refuse_too_large(count, width)
    X, y = features.load(PARTS["train"], contract, rows)
    for index, name in enumerate(contract.classes):
        if not (y == index).any():
            raise InputError(
                f"class {name!r} of {contract.target.name!r} has no training row: bring more data or drop the class"
            )
    return X, y


def load_validation(contract: Contract, max_rows: int = 0) -> tuple[Floats, Floats]:
    """Read the validation rows, all or an even sample.

    Parameters
    ----------
    contract
        The contract.
    max_rows
        At most so many rows; 0 for all.
    """
    return features.load(PARTS["valid"], contract, _evenly("valid", max_rows)[0])


def _evenly(part: str, max_rows: int) -> tuple[NDArray[np.intp] | None, int]:
    """Give the positions of the rows to read, None for all, and how many they are."""
    total = pq.ParquetFile(PARTS[part]).metadata.num_rows
    if 0 < max_rows < total:
        return np.linspace(0, total - 1, max_rows).astype(np.intp), max_rows
    return None, total


def _times(contract: Contract, max_rows: int) -> NDArray[np.datetime64] | None:
    """Read when the training rows happened, where the contract has a time."""
    if contract.time is None:
        return None
    rows, _ = _evenly("train", max_rows)
    times = pq.read_table(PARTS["train"], columns=[contract.time.name])[contract.time.name].to_numpy()
    return times if rows is None else times[rows]


def refuse_too_large(rows: int, width: int) -> None:
    """Refuse a fit that the free memory cannot hold, before it starts.

    Parameters
    ----------
    rows, width
        Of the matrix.

    Raises
    ------
    InputError
        With the number of rows that would fit.
    """
    need, free = rows * width * 8 * _COPIES, psutil.virtual_memory().available
    if need > free:
        possible = int(rows * free / need * 0.9)
        raise InputError(
            f"fitting {rows:,} rows × {width} features needs about {need / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} are free: set train.max_rows in params.yaml to {possible:,}, or use a larger machine"
        )


@report_errors
def main() -> None:
    """Run the stage."""
    contract, chosen = Contract.read(), params("train")
    max_rows = chosen["max_rows"]
    train, valid = load_training(contract, max_rows), load_validation(contract)
    estimator = make_estimator(chosen["estimator"], contract.task, chosen["hyperparameters"], chosen["seed"])
    rounds = int(chosen["hyperparameters"].get("n_estimators", 0)) or None
    curve: list[tuple[Any, ...]] = []
    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=rounds)

        def on_round(state: Any) -> None:
            curve.append((state.iteration + 1, *(round(entry[2], 9) for entry in state.evaluation_result_list)))
            progress.update(bar, advance=1, description=f"{state.evaluation_result_list[-1][1]} {curve[-1][-1]:.4f}")

        predictor = fit(estimator, contract, train, valid, chosen["early_stopping"], on_round)
    decided = scores.threshold(params("evaluate")["costs"]) if contract.task == "binary" else 0.5
    model = Model(contract, predictor, decided)
    model.save(CANDIDATE, CONTRACT)
    golden.write(model, pq.ParquetFile(PARTS["valid"]).read_row_group(0), CANDIDATE)
    times, X = _times(contract, max_rows), train[0]
    some = np.linspace(0, len(X) - 1, min(len(X), _WEEKLY)).astype(np.intp)
    fitted = None if times is None else (model.predict(X[some]), times[some])
    reference.write(contract, X, model.predict(valid[0]), CANDIDATE, times, fitted)
    LEARNING_CURVE.parent.mkdir(parents=True, exist_ok=True)
    with LEARNING_CURVE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("round", "train", "valid"), *curve])
    print(f"train: {len(train[1]):,} rows × {train[0].shape[1]} features → {CANDIDATE}")


if __name__ == "__main__":
    main()
