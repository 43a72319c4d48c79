"""Are the served predictions still good? Scores them against the labels that have come: `make quality`.

A window reaches back from the newest prediction that has a label. What is expected is what the model scored on its
test rows; the predictions have become worse when, whatever chance may have done, less than `monitor.quality.floor` is
left of the model's advantage over a constant. In `reports/quality.json`:

    at, score        when, and which score
    expected         of each version, on its test rows: `value`, `low`, `high`, the `constant`'s, and the `floor`
    windows          `version`, `days`, `rows`, `value`, `low`, `high`, and whether it is `worse`
    daily            the same by day, for the picture `reports/quality.png`
    waiting, missing predictions without a label: younger and older than `monitor.label_days`
    due              of those whose label was due within the last `monitor.label_days`: `missing` and `labelled`
    problems         what to do something about, in words
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flight_delays import features, picture, scores
from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.features import Floats
from flight_delays.monitoring import labels
from flight_delays.scores import Interval, Score
from flight_delays.serving.log import read
from flight_delays.serving.release import Store
from flight_delays.settings import params

REPORT, FIGURE = Path("reports/quality.json"), Path("reports/quality.png")
_DAYS_SHOWN = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """The outputs of one version whose truth is known.

    Attributes
    ----------
    at
        When each was given, of shape (rows,).
    truth
        The encoded target, of shape (rows,).
    output
        Of `Model.predict`.
    """

    at: NDArray[np.datetime64]
    truth: Floats
    output: Floats

    def between(self, start: np.datetime64, end: np.datetime64) -> "Labelled":
        """Take those after a time and up to another."""
        chosen = (self.at > start) & (self.at <= end)
        return Labelled(self.at[chosen], self.truth[chosen], self.output[chosen])


def measure(store: Store, chosen: Json, expected: dict[str, Json], now: datetime | None = None) -> Json:
    """Score what was served.

    Parameters
    ----------
    store
        Of the service.
    chosen
        The section `monitor` of `params.yaml`.
    expected
        By version, what it scored on its test rows: `value`, `low`, `high` and the `constant`'s.
    now
        When this happens.

    Returns
    -------
    dict
        As `reports/quality.json` has it.

    Raises
    ------
    InputError
        There are no predictions.
    """
    now = now or datetime.now(UTC)
    found, without = _join(store, now, timedelta(days=chosen["label_days"]))
    contract = Contract.read(store.model(next(iter(found))) / "contract.yaml") if found else Contract.read()
    score, *_ = scores.scores(contract.task, contract.classes, params("evaluate")["costs"])
    newest = max((one.at.max() for one in found.values()), default=np.datetime64("now"))
    kept = chosen["quality"]
    bounds = {version: entry | {"floor": _floor(entry, kept["floor"])} for version, entry in expected.items()}
    windows, daily = [], []
    for version, one in sorted(found.items()):
        floor = bounds.get(version, {}).get("floor")
        for days in kept["windows"]:
            part = one.between(newest - np.timedelta64(int(days * 86_400), "s"), newest)
            if entry := _scored(score, contract, part, kept["few"]):
                worse = floor is not None and _worse(score, entry, floor)
                windows.append({"version": version, "days": days} | entry | {"worse": worse})
        for back in range(_DAYS_SHOWN):
            end = newest - np.timedelta64(back, "D")
            if entry := _scored(score, contract, one.between(end - np.timedelta64(1, "D"), end), kept["few"]):
                daily.append({"version": version, "until": str(end.astype("datetime64[s]"))} | entry)
    return {
        "at": now.isoformat(timespec="seconds"),
        "score": score.name,
        "expected": bounds,
        "windows": windows,
        "daily": daily,
        **without,
        "problems": [_problem(score, entry, bounds[entry["version"]]) for entry in windows if entry["worse"]],
    }


def _join(store: Store, now: datetime, wait: timedelta) -> tuple[dict[str, Labelled], Json]:
    """Put outputs and labels together, by version; count what has no label."""
    truths = labels.known(store)
    parts: dict[str, list[tuple[str, Any, Any]]] = defaultdict(list)
    limit, before = (f"{now.astimezone(UTC) - times * wait:%Y-%m-%dT%H:%M:%S.%fZ}" for times in (1, 2))
    waiting = missing = 0
    due = {"missing": 0, "labelled": 0}
    for record in track(read(store.predictions), "quality", transient=True):
        if record["output"] is None:
            continue
        for row, output in enumerate(record["output"]):
            truth = truths.get((record["id"], row))
            if record["kind"] == "answer" and before <= record["at"] < limit:
                due["missing" if truth is None else "labelled"] += 1
            if truth is not None:
                parts[record["version"]].append((record["at"], truth, output))
            elif record["kind"] == "answer":
                waiting += record["at"] >= limit
                missing += record["at"] < limit
    found = {}
    for version, entries in parts.items():
        if not store.model(version).is_dir():  # of a model that is gone nobody asks
            continue
        contract = Contract.read(store.model(version) / "contract.yaml")
        times, truth, output = zip(*entries, strict=True)
        at = np.array([time.rstrip("Z") for time in times], "datetime64[us]")
        found[version] = Labelled(at, _encode(truth, contract), np.array(output, np.float64))
    return found, {"waiting": waiting, "missing": missing, "due": due}


def _encode(truths: tuple[Any, ...], contract: Contract) -> Floats:
    target = contract.target
    values = pa.array(truths)
    if not values.type.equals(target.arrow_type):
        values = values.cast(target.arrow_type)  # dates stand in JSON as text
    return features.encode_target(pa.table({target.name: values}), contract)


def _scored(score: Score, contract: Contract, part: Labelled, few: int) -> Json | None:
    """Score some predictions with an interval; nothing where they are too few to say anything."""
    rows = len(part.truth)
    if rows < few or (contract.task == "binary" and len(np.unique(part.truth)) < 2):
        return None
    chosen = params("evaluate")
    draws = scores.resample(part.truth, chosen["resamples"], chosen["seed"], stratified=bool(contract.classes))
    spread = scores.resampled(score, part.truth, part.output, draws)
    value = scores.interval(score.function(part.truth, part.output), spread, chosen["confidence"])
    return {"rows": rows, **asdict(value)}


def _floor(entry: Json, share: float) -> float:
    return float(entry["constant"] + share * (entry["value"] - entry["constant"]))


def _worse(score: Score, entry: Json, floor: float) -> bool:
    return bool(entry["high"] < floor if score.greater_is_better else entry["low"] > floor)


def _problem(score: Score, entry: Json, expected: Json) -> str:
    return (
        f"version {entry['version']}: {score.name} of the last {entry['days']} days is {entry['value']:.4g} "
        f"({entry['low']:.4g} to {entry['high']:.4g}, {entry['rows']:,} rows), expected {expected['value']:.4g}, "
        f"at worst {expected['floor']:.4g}: train again, or `make rollback`"
    )


def expected(store: Store, score: str) -> dict[str, Json]:
    """Ask the registry what the versions in the store scored on their test rows; of one it does not know, nothing.

    Parameters
    ----------
    store
        Of the service.
    score
        The name of the one that decides.
    """
    from flight_delays.serving.control import registry

    found: dict[str, Json] = {}
    numbers = [path.name for path in store.model("").iterdir() if path.name.isdecimal()]
    try:
        known = registry()
        for number in numbers:
            metrics = known.metrics(known.version(number))
            parts = {part: metrics.get(f"test.{score}.{part}") for part in ("value", "low", "high")}
            parts["constant"] = metrics.get("baselines.constant.value")
            if None not in parts.values():
                found[number] = parts
    except InputError as error:  # the registry is away: what was known the last time still holds
        print(f"quality: {error}; compared with what was known the last time")
        before = json.loads(REPORT.read_text(encoding="utf-8"))["expected"] if REPORT.is_file() else {}
        return before | found
    return found


def draw(found: Json) -> None:
    """Draw the days of each version, with what is expected of it.

    Parameters
    ----------
    found
        From `measure`.
    """
    with picture.panel(FIGURE, "" if found["daily"] else "too few labels for a day of its own") as axes:
        if not found["daily"]:
            return
        for number, version in enumerate(sorted({entry["version"] for entry in found["daily"]})):
            days = [entry for entry in reversed(found["daily"]) if entry["version"] == version]
            when = np.array([entry["until"] for entry in days], "datetime64[s]")
            value, low, high = (np.array([entry[key] for entry in days]) for key in ("value", "low", "high"))
            colour = (picture.BLUE, picture.GREY)[number % 2]
            axes.errorbar(when, value, [value - low, high - value], fmt="o-", color=colour, label=f"version {version}")
            if entry := found["expected"].get(version):
                axes.axhline(entry["value"], color=colour, linewidth=0.8, linestyle="--")
                axes.axhline(entry["floor"], color=picture.RED, linewidth=0.8)
        axes.set_ylabel(found["score"])
        axes.legend(frameon=False)
        axes.figure.autofmt_xdate()


def write(found: Json) -> None:
    """Write what was found, as data and as a picture.

    Parameters
    ----------
    found
        From `measure`.
    """
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found)


@report_errors
def main() -> None:
    """Measure, and say."""
    argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.quality",
        description="Score the served predictions against the labels that have come.",
    ).parse_args()
    store, contract = Store(), Contract.read()
    score, *_ = scores.scores(contract.task, contract.classes, params("evaluate")["costs"])
    found = measure(store, params("monitor"), expected(store, score.name))
    write(found)
    table = Table("version", "days", "rows", score.name, "expected", "at worst", "")
    for entry in found["windows"]:
        bounds = found["expected"].get(entry["version"])
        told = (f"{bounds['value']:.4g}", f"{bounds['floor']:.4g}") if bounds else ("not known", "")
        shown = Interval(entry["value"], entry["low"], entry["high"])
        table.add_row(
            entry["version"],
            str(entry["days"]),
            f"{entry['rows']:,}",
            str(shown),
            *told,
            "WORSE" if entry["worse"] else "ok",
        )
    Console(width=110).print(table)
    print(f"quality: {found['waiting']:,} predictions wait for a label, {found['missing']:,} should have one by now")
    if found["problems"]:
        raise InputError("; ".join(found["problems"]))
    if not found["windows"] and not labels.known(store):
        raise InputError("no prediction has a label yet: `make labels INPUT=…` takes them in")
    print(f"quality: {REPORT}, {FIGURE}")


if __name__ == "__main__":
    main()
