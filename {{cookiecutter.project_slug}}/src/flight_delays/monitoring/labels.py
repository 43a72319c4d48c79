"""What turned out to be true? Takes late labels in and joins them to the prediction log: `make labels INPUT=…`.

The file names each prediction by `id`, the request's (`X-Request-Id`, which a client may choose, such as an order's
number), and `row`, its place in the request (0 where there is no such column), and has the target's column. A file that
cannot be read as this is refused as a whole. Of its labels, what is new goes to `labels/` in the store, where the
controller and `make quality` read it, and the rest is counted:

    new              joined to a prediction; `late` of them after more than `monitor.label_days`
    repeated         said before, or twice in the file
    contradicting    another truth than was said before (which stands), or two in the file (of which none is taken)
    unknown          no such prediction in the log

Without INPUT, all files in `models/serving/incoming/` are taken in, as the monitor does, and put into `taken/` there.
The labels not taken stand in `reports/labels_refused.csv`, with the reason; the counts in `reports/labels.json`.
"""

import argparse
import csv
import json
import os
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from open_data_contract_standard.model import Server
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.serving.door import plain
from flight_delays.serving.log import Tail, read
from flight_delays.serving.release import Store
from flight_delays.settings import params
from flight_delays.source import cast, cast_column, connect, open_source

REPORT, REFUSED = Path("reports/labels.json"), Path("reports/labels_refused.csv")
STATES = ("new", "late", "repeated", "contradicting", "unknown")
_NOT_TAKEN = STATES[2:]

Label = tuple[str, int]  # the request's id, and the row in it
Sent = list[tuple[int, str, int, Any]]  # line in the file, id, row, truth


def known(store: Store) -> dict[Label, Any]:
    """Read all labels that were taken: by request and row, the target's value.

    Parameters
    ----------
    store
        Of the service.
    """
    return {(entry["id"], entry["row"]): entry["truth"] for entry in Tail(store.labels)}


def take(store: Store, contract: Contract, path: Path, days: float, now: datetime | None = None) -> dict[str, int]:
    """Take a file of labels in.

    Parameters
    ----------
    store
        Of the service.
    contract
        Whose target it holds.
    path
        CSV, TSV or JSON Lines, each also gzipped, or Parquet.
    days
        After a prediction, beyond which a label is late.
    now
        When this happens.

    Returns
    -------
    dict
        By state, of `STATES`, how many labels.

    Raises
    ------
    InputError
        The file is no such file, a truth is none of the target's values, or there are no predictions yet.
    """
    now = now or datetime.now(UTC)
    sent = _read(contract.target, path)
    with store.locked():
        asked = _asked(store, {name for _, name, _, _ in sent})
        judged = list(zip(sent, _judge(sent, asked, known(store), now - timedelta(days=days)), strict=True))
        _append(store.labels, [entry for entry, state in judged if state in {"new", "late"}], now)
    _write_refused([(line, name, row, state) for (line, name, row, _), state in judged if state in _NOT_TAKEN])
    counts = Counter(state for _, state in judged)
    counts["new"] += counts["late"]  # which are new as well
    return {state: counts[state] for state in STATES}


def _read(target: Column, path: Path) -> Sent:
    with connect() as connection:
        stored = open_source(connection, Server(server="labels", type="local", path=str(path)))
        for name in ("id", target.name):
            if name not in stored:
                raise InputError(f"{path} has no column {name!r}: it needs id, {target.name}, and row if not all are 0")
        row = cast("row", stored["row"], "integer") if "row" in stored else "0"
        found = connection.execute(
            f"SELECT {cast('id', stored['id'], 'string')}, {row}, {cast_column(target, stored[target.name])}, "
            f"{cast(target.name, stored[target.name], 'string')} FROM source"
        ).fetchall()
    for line, (name, row, truth, written) in enumerate(found, 1):
        words = ""
        if name is None:
            words = "id is null"
        elif row is None or row < 0:
            words = "row is no place in a request, counted from 0"
        elif truth is None or (target.values and truth not in target.values):
            words = f"{target.name} is {written!r}, which is no value of it"
        if words:
            raise InputError(f"{path}, row {line}: {words}: mend it, nothing of the file is taken")
    return [(line, name, row, plain(truth)) for line, (name, row, truth, _) in enumerate(found, 1)]


def _asked(store: Store, names: set[str]) -> dict[str, tuple[int, str]]:
    """Find requests in the log: of each, how many rows it had, and when it was answered first."""
    found: dict[str, tuple[int, str]] = {}
    for record in track(read(store.predictions), "labels", transient=True):
        if record["kind"] == "answer" and record["id"] in names:
            rows, at = found.get(record["id"], (0, record["at"]))
            found[record["id"]] = max(rows, len(record["rows"])), min(at, record["at"])
    return found


def _judge(sent: Sent, asked: dict[str, tuple[int, str]], earlier: dict[Label, Any], late: datetime) -> list[str]:
    said: dict[Label, list[Any]] = defaultdict(list)
    for _, name, row, truth in sent:
        if truth not in said[name, row]:
            said[name, row].append(truth)
    limit, seen, states = f"{late.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", set[Label](), []
    for _, name, row, truth in sent:
        rows, at = asked.get(name, (0, ""))
        if row >= rows:
            state = "unknown"
        elif len(said[name, row]) > 1 or earlier.get((name, row), truth) != truth:
            state = "contradicting"
        elif (name, row) in earlier or (name, row) in seen:
            state = "repeated"
        else:
            state = "late" if at < limit else "new"
        seen.add((name, row))
        states.append(state)
    return states


def _append(folder: Path, taken: Sent, now: datetime) -> None:
    """Write the labels into a file of their own, there as a whole or not at all."""
    if not taken:
        return
    goal = folder / f"{now:%Y%m%dT%H%M%S%f}-{os.getpid()}.jsonl"
    part, at = goal.with_suffix(".part"), f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    try:
        with part.open("w", encoding="utf-8") as file:
            for _, name, row, truth in taken:
                file.write(json.dumps({"at": at, "id": name, "row": row, "truth": truth}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(goal)
    finally:
        part.unlink(missing_ok=True)


def _write_refused(entries: list[tuple[int, str, int, str]]) -> None:
    REFUSED.parent.mkdir(parents=True, exist_ok=True)
    with REFUSED.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("line", "id", "row", "reason"), *entries])


def _report(file: str, counts: dict[str, int]) -> dict[str, int]:
    """Add the counts to those of the files before, and give the sums."""
    before = json.loads(REPORT.read_text(encoding="utf-8"))["all"] if REPORT.is_file() else {}
    together = {state: before.get(state, 0) + count for state, count in counts.items()}
    found = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": Path(file).name,
        "counts": counts,
        "all": together,
    }
    REPORT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return together


def take_incoming(store: Store, contract: Contract, days: float) -> dict[str, int]:
    """Take in all files that lie ready, each as a whole; one that is refused stays, and keeps no other one from it.

    Parameters
    ----------
    store, contract, days
        As for `take`.

    Raises
    ------
    InputError
        A file was refused.
    """
    together: Counter[str] = Counter(dict.fromkeys(STATES, 0))
    faults = []
    for path in sorted(path for path in store.incoming.iterdir() if path.is_file()):
        try:
            together.update(take(store, contract, path, days))
        except InputError as error:
            faults.append(str(error))
            continue
        (store.incoming / "taken").mkdir(mode=0o700, exist_ok=True)
        path.rename(store.incoming / "taken" / path.name)
    if faults:
        if sum(together.values()):
            _report("several", together)
        raise InputError("; ".join(faults))
    return dict(together)


@report_errors
def main() -> None:
    """Take one file in, or all that lie ready."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.labels",
        description="Join late labels to the prediction log.",
    )
    parser.add_argument("input", type=Path, nargs="?", help="a file with id, the target, and row where not all are 0")
    path = parser.parse_args().input
    store, contract, days = Store(), Contract.read(), params("monitor")["label_days"]
    counts = take(store, contract, path, days) if path else take_incoming(store, contract, days)
    title = str(path or store.incoming)
    together = _report(title, counts)
    table = Table("labels", "now", "in all", title=title, title_justify="left")
    for state in STATES:
        table.add_row(state, f"{counts[state]:,}", f"{together[state]:,}")
    Console(width=100).print(table)
    if any(counts[state] for state in _NOT_TAKEN):
        print(f"labels: those not taken stand in {REFUSED}")
    print("labels: `make quality` says how good the predictions were")


if __name__ == "__main__":
    main()
