"""Does the service compute what the pipeline computes? Replays the prediction log as a batch: `make skew`.

The rows of many requests at once go through the encoding and the model of the version that answered them, and every
number is compared with what was served: it is equal to the bit, or it is a difference. In `reports/skew.json`:

    at, log, sample    when, in which log, and that one request in so many was looked at
    requests, rows     compared
    versions           of each version, how much was compared and how much of it differs: `version`, `requests`, `rows`,
                       `values`, `values_differing` (of features), `outputs`, `outputs_differing`
    differences        of each feature, and of the output, that differs: `column`, `count`, and the first as `examples`
                       (`version`, `id` of the request, `row` in it, `served`, `batch`)
    missing            requests by version whose model is no longer in the store
    unmatched          outputs of a shadow or canary whose rows do not stand near them in the log
    torn               files whose last line is torn, as a power cut leaves it
"""

import argparse
import json
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flight_delays import features
from flight_delays.errors import InputError, report_errors
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.serving import door
from flight_delays.serving.log import Record, read
from flight_delays.serving.release import STORE
from flight_delays.settings import given

REPORT = Path("reports/skew.json")
_BATCH_ROWS = 8_192
_HELD_ROWS = 100_000  # of requests whose second output may still come
_EXAMPLES = 3  # of each feature
_COUNTS = ("requests", "rows", "values", "values_differing", "outputs", "outputs_differing")

Json = dict[str, Any]


@dataclass(frozen=True)
class _Answer:
    """What one model made of the rows of one request."""

    id: str
    rows: list[Json]
    x: list[list[float | None]] | None  # as served; None where only the output was logged
    output: list[Any]


class _Replay:
    """One version's answers, asked for once more in batches."""

    def __init__(self, version: str, folder: Path) -> None:
        self.model = Model.load(folder)
        contract = self.model.contract
        self.columns = [feature.name for feature in features.features(contract)]
        several = [f"output of {name}" for name in contract.classes]
        self.outputs = several if contract.task == "multiclass" else ["output"]
        self.version = version
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._waiting: list[_Answer] = []
        self._rows = 0

    def add(self, answer: _Answer) -> Iterator[Json]:
        """Take an answer, and give the differences of those that make a batch."""
        self._waiting.append(answer)
        self._rows += len(answer.rows)
        if self._rows >= _BATCH_ROWS:
            yield from self.finish()

    def finish(self) -> Iterator[Json]:
        """Give the differences of all that wait."""
        answers, self._waiting, self._rows = self._waiting, [], 0
        if not answers:
            return
        table, _ = door.read([row for answer in answers for row in answer.rows], self.model.contract)
        X = features.encode(table, self.model.contract)
        output = self.model.predict(X)
        last = 0
        for answer in answers:
            first, last = last, last + len(answer.rows)
            self.counts["requests"] += 1
            self.counts["rows"] += last - first
            if answer.x is not None:
                yield from self._compare("values", answer, answer.x, X[first:last])
            batch = output[first:last]
            if not _same(
                _numbers(answer.output), batch
            ):  # some estimators add up in another order if the rows are more
                batch = self.model.predict(X[first:last].copy())
            yield from self._compare("outputs", answer, answer.output, batch)

    def _compare(self, kind: str, answer: _Answer, served: Any, batch: Floats) -> Iterator[Json]:
        found = _numbers(served)
        self.counts[kind] += batch.size
        if _same(found, batch):
            return
        common = {"version": self.version, "id": answer.id}
        if found.shape != batch.shape:
            self.counts[f"{kind}_differing"] += batch.size
            yield common | {"column": f"number of {kind}", "row": 0, "served": found.size, "batch": batch.size}
            return
        columns = self.columns if kind == "values" else self.outputs
        found, batch = found.reshape(-1, len(columns)), batch.reshape(-1, len(columns))
        for row, place in np.argwhere((found != batch) & ~(np.isnan(found) & np.isnan(batch))).tolist():
            self.counts[f"{kind}_differing"] += 1
            both = {"served": door.plain(float(found[row, place])), "batch": door.plain(float(batch[row, place]))}
            yield common | {"column": columns[place], "row": row} | both


def _numbers(served: Any) -> Floats:
    try:
        return np.array(served, dtype=float)  # null is NaN
    except (TypeError, ValueError):
        return np.empty(0)  # no matrix at all


def _same(served: Floats, batch: Floats) -> bool:
    return np.array_equal(served, batch, equal_nan=True)


class _Rows:
    """The rows of requests whose second output may still come, of which the log has the rows only once."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, list[Json]] = OrderedDict()
        self._count = 0

    def hold(self, name: str, rows: list[Json]) -> None:
        """Keep the rows of a request for a while."""
        again = name in self._held
        self.take(name)
        self._held[name] = [] if again else rows  # which of two requests of one name is meant, nobody knows
        self._count += len(self._held[name]) + 1
        while self._count > _HELD_ROWS:
            self.take(next(iter(self._held)))

    def take(self, name: str) -> list[Json]:
        """Give the rows of a request, once; none where they are not known."""
        rows = self._held.pop(name, None)
        if rows is None:
            return []
        self._count -= len(rows) + 1
        return rows


def replay(log: Path, sample: int = 1, since: datetime | None = None) -> Json:
    """Compare what was served with what the batch path makes of the same rows, in bounded memory.

    Parameters
    ----------
    log
        The folder of the prediction log. The models that answered stand beside it, in `models/VERSION`.
    sample
        Look at one request in so many, chosen by its id.
    since
        Leave out what was served before, so that there may be nothing to compare.

    Returns
    -------
    dict
        As `reports/skew.json` has it.

    Raises
    ------
    InputError
        There is no prediction to compare, or the log cannot be read.
    """
    torn: list[Path] = []
    replays: dict[str, _Replay] = {}
    missing: Counter[str] = Counter()
    found: dict[str, Json] = {}
    unmatched = 0

    def note(differences: Iterator[Json]) -> None:
        for one in differences:
            column = one.pop("column")
            entry = found.setdefault(column, {"column": column, "count": 0, "examples": []})
            entry["count"] += 1
            if len(entry["examples"]) < _EXAMPLES:
                entry["examples"].append(one)

    for version, answer in _answers(read(log, since, torn), sample):
        if answer is None:
            unmatched += 1
            continue
        folder = log.parent / "models" / version
        if version not in replays:
            if not folder.is_dir():
                missing[version] += 1
                continue
            replays[version] = _Replay(version, folder)
        note(replays[version].add(answer))
    for one in replays.values():
        note(one.finish())
    versions = [{"version": version} | replays[version].counts for version in sorted(replays)]
    if not versions and since is None:
        words = f"; the models of {sum(missing.values()):,} are no longer in {log.parent / 'models'}" if missing else ""
        raise InputError(f"{log} holds no prediction that can be compared{words}: run `make serve`, and ask it")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "log": str(log),
        "sample": sample,
        "requests": sum(one["requests"] for one in versions),
        "rows": sum(one["rows"] for one in versions),
        "unmatched": unmatched,
        "torn": [path.name for path in torn],
        "versions": versions,
        "missing": dict(missing),
        "differences": sorted(found.values(), key=lambda entry: -entry["count"]),
    }


def _answers(records: Iterator[Record], sample: int) -> Iterator[tuple[str, _Answer | None]]:
    """Give each output with its version, its rows and, of the first answer to a request, its features."""
    held = _Rows()
    columns = (TextColumn("skew"), BarColumn(), TextColumn("{task.completed:,} requests"), TimeElapsedColumn())
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        for number, record in enumerate(records):
            if number % 1_000 == 0:
                progress.update(bar, completed=number)
            name, output = record["id"], record["output"]
            if zlib.crc32(name.encode()) % sample:
                continue
            if record["kind"] == "answer":
                yield record["version"], _Answer(name, record["rows"], record["x"], output)
                if record["assigned"]:
                    held.hold(name, record["rows"])
                continue
            rows = held.take(name)
            if output is not None:
                yield record["version"], _Answer(name, rows, None, output) if rows else None


def _print(found: Json) -> None:
    console = Console(width=120, highlight=False)
    title = f"served against batch, {found['requests']:,} requests" + (
        f", one in {found['sample']}" if found["sample"] > 1 else ""
    )
    table = Table("version", title=title, title_justify="left")
    for name in ("requests", "rows", "feature values", "differing", "outputs", "differing"):
        table.add_column(name, justify="right")
    for one in found["versions"]:
        version, *counts = one.values()
        table.add_row(version, *(f"{count:,}" for count in counts))
    console.print(table)
    for version, count in found["missing"].items():
        console.print(f"version {version}: {count:,} requests not compared, its model is no longer in the store")
    if found["unmatched"]:
        console.print(f"{found['unmatched']:,} second outputs not compared, their rows are not near them in the log")
    if found["torn"]:
        console.print(f"last line torn, as a power cut leaves it: {', '.join(found['torn'])}")
    if not found["differences"]:
        return
    table = Table("column", "differing", "request", "row", "served", "batch", title="first", title_justify="left")
    for entry in found["differences"]:
        for place, one in enumerate(entry["examples"]):
            start = ("", "") if place else (entry["column"], f"{entry['count']:,}")
            table.add_row(*start, one["id"], str(one["row"]), str(one["served"]), str(one["batch"]))
    console.print(table, markup=False)


def _problem(found: Json) -> str:
    parts = []
    for kind, words in (("values", "feature values"), ("outputs", "outputs")):
        wrong, all_of_them = (sum(one[key] for one in found["versions"]) for key in (f"{kind}_differing", kind))
        if wrong:
            parts.append(f"{wrong:,} of {all_of_them:,} {words}")
    worst = found["differences"][0]
    one = worst["examples"][0]
    return (
        f"{' and '.join(parts)} are served otherwise than the pipeline computes them, above all {worst['column']!r}: "
        f"version {one['version']}, request {one['id']}, row {one['row']}: served {one['served']}, batch {one['batch']}"
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return int(text)


@report_errors
def main() -> None:
    """Run the comparison."""
    log = Path(given("SERVING_DIR") or STORE) / "predictions"
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.skew",
        description="Compare the served features and outputs with those of the batch path.",
    )
    parser.add_argument("--log", type=Path, default=log, help=f"the prediction log's folder (default: {log})")
    parser.add_argument("--sample", type=_at_least_one, default=1, metavar="N", help="look at one request in N")
    parser.add_argument("--days", type=float, help="look at no more than the last days (default: at all)")
    chosen = parser.parse_args()
    since = None if chosen.days is None else datetime.now(UTC) - timedelta(days=chosen.days)
    found = replay(chosen.log, chosen.sample, since)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _print(found)
    if found["differences"]:
        raise InputError(_problem(found))
    print(f"skew: none; {REPORT}")


if __name__ == "__main__":
    main()
