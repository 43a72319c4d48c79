"""What does each feature cost, and is it worth that? Time, storage, holes and sources, set against the gain.

A feature costs time in every request and every batch, storage in every row, holes where it is missing, and another
source that must be there when the service answers. Each cost has a bound, and what gives little may cost little only.

Times differ from run to run and from machine to machine, and the report must not: it says which bound a time is under.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays import features, picture
from flight_delays.assess import values
from flight_delays.assess.chance import tidy
from flight_delays.assess.evidence import Evidence
from flight_delays.contract import Column, Contract
from flight_delays.picture import BLUE, GREY, RED
from flight_delays.pipeline.ingest import ROWS
from flight_delays.settings import params

_COSTS = {
    "one_row": "takes more than {bound:,g} µs to encode the row of a request",
    "batch_row": "takes more than {bound:,g} µs to encode a row of a batch",
    "bytes": "takes {cost:,.0f} bytes to store a row, where {bound:,g} are allowed",
    "nulls": "has no value in {cost:.1%} of the rows, where {bound:.0%} are allowed",
    "source": "needs the source {cost!r} besides the contract's first",
}
_TIMES = ("one_row", "batch_row")
_SAMPLES = 10  # rows that are encoded one by one, evenly over the file
_REPEATS = 7  # of which the shortest counts: the others were disturbed
_BATCH_ROWS, _BATCH_BYTES = 1_000, 10_000_000


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Measure each feature's costs, and name those that cost too much for what they give.

    Parameters
    ----------
    evidence
        The model and its rows.
    chosen
        The bounds `one_row` and `batch_row` (microseconds of CPU time), `bytes` (a row, as stored) and `nulls` (a
        share); `little`, the share of all gain below which a feature gives little; `allowed`, the share of the bounds
        of time and storage that such a feature may cost.

    Returns
    -------
    dict
        `features` (`column`, `share` of all gain, `bytes`, `nulls`, `source`, the bound that `one_row` and `batch_row`
        are under or `None`, what is `allowed`, and which of them are `wrong`), by gain; `little`, `problems`.
    """
    worth = params("assess")["values"]
    looked, gain = values.gains(evidence, worth["repeats"], worth["visits"], chosen["seed"])
    stored, main = _stored_bytes(ROWS), evidence.contract.server.server
    columns = {column.name: column for column in evidence.contract.features}
    entries, problems = [], []
    for found in values.judge(looked, gain, worth.get("confidence", chosen["confidence"]))["features"]:
        column, little = columns[found["column"]], found["share"] < chosen["little"]
        lowered = {name: chosen[name] * chosen["allowed"] for name in (*_TIMES, "bytes")}
        allowed = {name: chosen[name] for name in (*lowered, "nulls")} | (lowered if little else {})
        taken = _times(evidence, column)
        source = column.custom.get("source", main)
        costs: dict[str, Any] = {
            "one_row": taken["one_row"],
            "batch_row": taken["batch_row"],
            "bytes": stored[column.name],
            "nulls": evidence.rows[column.name].null_count / len(evidence.y),
        }
        wrong = [name for name, bound in allowed.items() if costs[name] > bound]
        wrong += ["source"] if little and source != main else []
        costs |= {name: _bound_over(taken[name], (lowered[name], chosen[name])) for name in _TIMES}
        costs |= {
            "bytes": tidy(costs["bytes"]),
            "nulls": tidy(costs["nulls"]),
            "source": source if source != main else "",
        }
        entry = {"column": column.name, "share": found["share"], **costs, "allowed": allowed, "wrong": wrong}
        entries.append(entry)
        problems += [_problem(entry, name, little) for name in wrong]
    return {"little": chosen["little"], "features": entries, "problems": problems}


def _problem(entry: dict[str, Any], name: str, little: bool) -> str:
    cost = _COSTS[name].format(cost=entry[name], bound=entry["allowed"].get(name))
    bound = ", or raise assess.costs in params.yaml" if name != "source" else ", or bring it with the main source"
    least = ", so little that it may cost little only" if little and name != "nulls" else ""
    return (
        f"column {entry['column']!r}: {cost}; it gives {max(entry['share'], 0):.2%} of all gain{least}: "
        f"drop its tag `feature` in contract.yaml, shorten it{bound}"
    )


def _bound_over(amount: float, bounds: tuple[float, ...]) -> float | None:
    return next((bound for bound in bounds if amount <= bound), None)


def _stored_bytes(path: Path) -> dict[str, float]:
    """Read how many bytes a row of each column takes, compressed, from the description of a Parquet file."""
    description = pq.ParquetFile(path).metadata
    total: dict[str, float] = {}
    for group in range(description.num_row_groups):
        for place in range(description.num_columns):
            chunk = description.row_group(group).column(place)
            name = chunk.path_in_schema
            total[name] = total.get(name, 0) + chunk.total_compressed_size / description.num_rows
    return total


def _times(evidence: Evidence, column: Column) -> dict[str, float]:
    """Measure the microseconds of CPU time to encode one column: of a single row, and of a row among many."""
    contract = replace(evidence.contract, columns=(column,))
    rows = evidence.rows.select([column.name]).combine_chunks()
    single = [rows.slice(place, 1) for place in np.linspace(0, len(rows) - 1, _SAMPLES).astype(int)]
    heavy = max(1, rows.nbytes / len(rows))
    count = int(np.clip(_BATCH_BYTES / heavy, 1, _BATCH_ROWS))
    batch = rows.take(pa.array(np.resize(np.arange(len(rows)), count)))
    return {
        "one_row": float(np.mean([_shortest(row, contract) for row in single])),
        "batch_row": _shortest(batch, contract) / count,
    }


def _shortest(rows: pa.Table, contract: Contract) -> float:
    found = []
    for _ in range(_REPEATS):
        start = time.process_time_ns()
        features.encode(rows, contract)
        found.append(time.process_time_ns() - start)
    return min(found) / 1_000


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw what each feature gives beside what it costs.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    shown = picture.worst_first(found["features"], lambda entry: bool(entry["wrong"]))
    wrong = [entry["column"] for entry in found["features"] if entry["wrong"]]
    title = f"{len(wrong)} of {len(found['features'])} features cost too much" if wrong else "No feature costs too much"
    figure, (axes,) = picture.start(title, len(shown))
    for line, entry in enumerate(shown):
        used, words = _dearest(entry)
        axes.barh(line, -100 * min(used, 1), color=RED if entry["wrong"] else GREY, height=0.7)
        axes.barh(line, 100 * entry["share"], color=BLUE, height=0.7)
        axes.text(-100 * min(used, 1) - 2, line, words, ha="right", va="center", fontsize=8)
    axes.axvline(0, color=GREY, lw=1)
    ticks = range(-100, 101, 50)
    axes.set_xticks(ticks, [f"{abs(tick)}" for tick in ticks])
    axes.set(xlim=(-155, 105), xlabel="← dearest cost, in % of its bound        share of all gain, in % →")
    picture.name_lines(axes, [entry["column"] for entry in shown])
    picture.finish(figure, path)


def _dearest(entry: dict[str, Any]) -> tuple[float, str]:
    """Find the cost that is nearest to its bound, or the first beyond it, with its words."""
    first = next(iter(entry["wrong"]), "")
    if first in _TIMES:
        return 1.0, "slow"
    if first == "source":
        return 1.0, f"from {entry['source']}"
    nulls, size = (entry[name] / entry["allowed"][name] for name in ("nulls", "bytes"))
    return (nulls, f"{entry['nulls']:.0%} missing") if nulls > size else (size, f"{entry['bytes']:.3g} bytes")


def say(found: dict[str, Any]) -> str:
    """Say in a table what each feature gives and costs.

    Parameters
    ----------
    found
        From `measure`.
    """
    lines = [
        (
            f"What gives less than {found['little']:.1%} of all gain may cost little only. Times are in microseconds "
            "of CPU time, as the bound that they are under."
        ),
        "",
        "| feature | gives | one row | a row of a batch | bytes a row | without a value | another source |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in found["features"]:
        times = [f"under {entry[name]:,g}" if entry[name] is not None else "**too long**" for name in _TIMES]
        amounts = [f"{entry['bytes']:.3g}", f"{entry['nulls']:.1%}", entry["source"]]
        lines.append(f"| `{entry['column']}` | {entry['share']:.1%} | {' | '.join(times + amounts)} |")
    return "\n".join(lines)
