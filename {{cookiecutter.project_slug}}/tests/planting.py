"""Faults and features that are planted into a copy of the sample project, and a model that has learned with them.

`plant` gives it rows whose target follows from one feature, so that a fault can be planted in any data set.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays import features
from flight_delays.assess.evidence import Evidence
from flight_delays.contract import Contract
from flight_delays.pipeline import train
from flight_delays.settings import params

from tests.conftest import Project

PARTS = ("train", "valid", "test")
_ROWS = 4_000
_NOISE = 0.15  # standard deviation, beside a feature that spans 0 to 1; with many classes, less


def add_column(project: Project, entry: dict[str, Any], values: Callable[[int], list[Any]]) -> None:
    """Add a column to the contract, and to each file of the pipeline.

    Parameters
    ----------
    project
        A copy that may be changed.
    entry
        As it stands in the contract.
    values
        Gives so many of them.
    """
    project.edit("contract.yaml", lambda document: document["schema"][0]["properties"].append(entry))
    column = next(column for column in project.contract.columns if column.name == entry["name"])
    for name in ("rows", *PARTS):
        rows = pq.read_table(file(project, name))
        added = pa.array(values(len(rows)), column.arrow_type)
        pq.write_table(rows.append_column(column.name, added), file(project, name))


def file(project: Project, name: str) -> Path:
    """Name a file of the pipeline."""
    return project.path / f"data/{name}.parquet"


def learn() -> Evidence:
    """Train the project in the current folder, and look at what it learned."""
    train.main()
    return Evidence.load(params("assess")["rows"])


def asked(question: str, **changed: Any) -> dict[str, Any]:
    """Give what a question of the assessment is asked with in the current folder."""
    chosen: dict[str, Any] = params("assess")
    return {**chosen, **chosen[question], **changed}


def plant(project: Project, turned: float = 0.0) -> None:
    """Rewrite the project's parts: real rows drawn anew, in time's order, their targets in the order of one feature.

    Parameters
    ----------
    project
        A copy that may be changed.
    turned
        Share of the rows, the oldest, whose targets stand in the opposite order.
    """
    contract = project.contract
    real = pa.concat_tables(pq.read_table(file(project, part)) for part in PARTS)
    rows = real.take(pa.array(_draw(real, contract)))
    if contract.time:
        rows = rows.sort_by(contract.time.name)
    signal = _signal(features.encode(rows, contract), _NOISE / max(1, len(contract.classes) - 1))
    y = np.sort(features.encode_target(rows, contract))
    target = np.empty(len(y))
    old = np.arange(len(y)) < turned * len(y)
    target[np.argsort(np.where(old, 1 - signal, signal))] = y
    ends = (0, int(0.7 * len(y)), int(0.85 * len(y)), len(y))
    for part, first, last in zip(PARTS, ends, ends[1:], strict=False):
        _write(project, part, rows.slice(first, last - first), target[first:last])


def shuffle(project: Project, *parts: str) -> None:
    """Deal the targets of some parts out anew, so that they follow from nothing.

    Parameters
    ----------
    project
        A copy that may be changed.
    *parts
        Of `PARTS`.
    """
    for part in parts:
        rows = pq.read_table(file(project, part))
        y = features.encode_target(rows, project.contract)
        _write(project, part, rows, np.random.default_rng(0).permutation(y))


def _draw(rows: pa.Table, contract: Contract) -> Any:
    """Draw rows, equally many of each class."""
    random = np.random.default_rng(0)
    y = features.encode_target(rows, contract)
    groups = [np.flatnonzero(y == index) for index in range(len(contract.classes))] or [np.arange(len(y))]
    return np.concatenate([random.choice(group, _ROWS // len(groups)) for group in groups if len(group)])


def _signal(X: features.Floats, scale: float) -> features.Floats:
    """Give the ranks, from 0 to 1, of the feature with the most different values, with noise."""
    column = max(np.nan_to_num(X).T, key=lambda values: len(np.unique(values)))
    _, ranks = np.unique(column, return_inverse=True)
    noise = np.random.default_rng(1).normal(scale=scale, size=len(ranks))
    return np.asarray(ranks / max(ranks.max(), 1) + noise)


def _write(project: Project, part: str, rows: pa.Table, y: features.Floats) -> None:
    contract = project.contract
    target = contract.target
    values = (
        [contract.classes[int(index)] for index in y]
        if contract.classes
        else np.round(y)
        if target.type == "integer"
        else y
    )
    place = rows.schema.get_field_index(target.name)
    pq.write_table(rows.set_column(place, target.name, pa.array(values).cast(target.arrow_type)), file(project, part))
