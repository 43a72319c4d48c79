"""Why this prediction? Follows one row through contract, encoding, model and decision: `make explain ROW=0`."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.serving import door
from flight_delays.steps import draw, tell

MODEL = Path("models/candidate")
PART = "data/{}.parquet"
PICTURES = Path("reports/explain")
_ORDERS = 16  # in which missing features are filled in, each also backwards

Json = dict[str, Any]


def explain(model: Model, row: pa.Table | pa.RecordBatch) -> Json:
    """Show each step of one prediction, with what goes in and what comes out.

    A contribution says how far a feature moved the score from where the model starts; together they are the score.
    Of LightGBM they are the exact SHAP values of its raw score (Lundberg et al., Nature Machine Intelligence 2, 2020).
    Of any other estimator they are sampled: how the output changes on average as the features are filled in, in random
    orders, from a row in which all are missing (Štrumbelj and Kononenko, Knowledge and Information Systems 41, 2014).

    Parameters
    ----------
    model
        The model.
    row
        One row with at least the feature columns, in the contract's types.

    Returns
    -------
    dict
        Plain data: `columns` ({column, value, rules, ok, message}), `features` ({feature, column, value, number,
        contribution}), `start`, `score`, `scale` (`log-odds`, `probability`, `score` or `value`), `of` (the class
        whose score it is), `output` (of `Model.predict`), `prediction` and `threshold`.
    """
    contract = model.contract
    (sent,) = door.to_json(row, contract)
    faults = {entry.column: entry.message for entry in door.read([sent], contract)[1]}
    X = features.encode(row, contract)
    output = model.predict(X)
    chosen = int(output[0].argmax()) if contract.task == "multiclass" else None
    start, contributions, score, scale = _contributions(model, X, output, chosen)
    steps = zip(features.features(contract), X[0].tolist(), contributions.tolist(), strict=True)
    return {
        "columns": [
            {"column": column.name, "value": sent[column.name], "rules": door.rules(column)}
            | {"ok": column.name not in faults, "message": faults.get(column.name, "")}
            for column in contract.features
        ],
        "features": [
            {"feature": feature.name, "column": feature.column.name, "value": sent[feature.column.name]}
            | {"number": door.plain(number), "contribution": contribution}
            for feature, number, contribution in steps
        ],
        "start": start,
        "score": score,
        "scale": scale,
        "of": door.plain(contract.classes[-1 if chosen is None else chosen]) if contract.classes else None,
        "output": output[0].tolist(),
        "prediction": door.plain(model.decide(output)[0]),
        "threshold": model.threshold if contract.task == "binary" else None,
    }


def _contributions(model: Model, X: Floats, output: Floats, chosen: int | None) -> tuple[float, Floats, float, str]:
    """Give where the score starts, what each feature adds, the score, and what it is."""
    classes = len(model.contract.classes)
    value = float(output[0] if chosen is None else output[0, chosen])
    if not model.boosted:
        return *_sampled(model, X, chosen), value, "probability" if classes else "value"
    parts, raw = model.predictor.predict(X, pred_contrib=True)[0], model.predictor.predict(X, raw_score=True)[0]
    if chosen is not None:  # a block of features and a start for each class
        parts, raw = parts.reshape(classes, -1)[chosen], raw[chosen]
    if classes == 2 and np.isclose(1 / (1 + np.exp(-raw)), value):
        scale = "log-odds"
    else:
        scale = "value" if not classes and np.isclose(raw, value) else "score"
    return float(parts[-1]), parts[:-1], float(raw), scale


def _sampled(model: Model, X: Floats, chosen: int | None) -> tuple[float, Floats]:
    width = X.shape[1]
    random = np.random.default_rng(0)
    orders = [order for _ in range(_ORDERS) for one in [random.permutation(width)] for order in (one, one[::-1])]
    filled = np.full((len(orders), width + 1, width), np.nan)
    for rows, order in zip(filled, orders, strict=True):
        for count in range(1, width + 1):
            rows[count:, order[count - 1]] = X[0, order[count - 1]]
    output = model.predict(filled.reshape(-1, width))
    outputs = (output if chosen is None else output[:, chosen]).reshape(len(orders), width + 1)
    found = np.zeros(width)
    for order, change in zip(orders, np.diff(outputs, axis=1), strict=True):
        found[order] += change / len(orders)
    return float(outputs[0, 0]), found


@dataclass(frozen=True)
class Found:
    """The row that is meant.

    Attributes
    ----------
    row
        The row, in the contract's types.
    title
        What it is, for people.
    name
        Of its picture.
    truth
        Its target as JSON has it; `None` where it is not known.
    """

    row: pa.Table
    title: str
    name: str
    truth: Any = None


def find(row: str, part: str, contract: Contract) -> Found:
    """Find the row that is meant.

    Parameters
    ----------
    row
        Its place in the part of the data, from 0; or a JSON object of the feature columns, as text or in a file.
    part
        `train`, `valid` or `test`.
    contract
        The model's.

    Raises
    ------
    InputError
        There is no such row, or it breaks the contract.
    """
    if row.isdecimal():
        return _stored(int(row), part, contract)
    path, name = Path(row), "request"
    try:
        text, name = (row, name) if row.lstrip().startswith("{") else (path.read_text(encoding="utf-8"), path.stem)
        sent = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{row[:80]!r} is no row: give its place, a JSON object or a file with one: {error}") from None
    rows = sent.get("rows", [sent]) if isinstance(sent, dict) else sent
    if not isinstance(rows, list) or len(rows) != 1:
        raise InputError(f"{name}: give one row, as a JSON object of columns and values")
    table, broken = door.read(rows, contract)
    if broken:
        raise InputError(f"{name} breaks the contract:\n" + "\n".join(f"  {entry}" for entry in broken))
    return Found(table, name, name)


def _stored(place: int, part: str, contract: Contract) -> Found:
    path = Path(PART.format(part))
    if not path.is_file():
        raise InputError(f"{path} is missing: run `make pipeline`")
    names = {column.name for column in (*contract.features, *contract.keys, contract.target) if not column.personal}
    table = pq.read_table(path, columns=sorted(names))
    if place >= table.num_rows:
        raise InputError(f"{path} has the rows 0 to {table.num_rows - 1:,}, no row {place:,}")
    row = table.slice(place, 1)
    (values,) = row.to_pylist()
    keys = [f"{column.name} {values[column.name]}" for column in contract.keys if column.name in names]
    title = f"row {place} of {path}" + (f": {', '.join(keys)}" if keys else "")
    name = str(place) if part == "test" else f"{part}-{place}"
    return Found(row, title, name, door.plain(values[contract.target.name]))


@report_errors
def main() -> None:
    """Explain one row."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.explain",
        description=__doc__,
    )
    parser.add_argument("row", help="its place in the part, from 0; or a JSON object of one row, as text or in a file")
    parser.add_argument("--part", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--model", type=Path, default=MODEL, help=f"a model's folder (default: {MODEL})")
    chosen = parser.parse_args()
    model = Model.load(chosen.model)
    meant = find(chosen.row, chosen.part, model.contract)
    steps = explain(model, meant.row)
    tell(steps, model.contract, meant.title, meant.truth)
    picture = PICTURES / f"{meant.name}.png"
    draw(steps, model.contract, picture, meant.truth)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
