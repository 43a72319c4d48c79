"""What does the stack show when requests come? Sends held-out rows to the service, with a fault in them if wanted.

Rows are those of `data/test.parquet`, one a request, at a steady rate. A fault is planted into the rows or the way they
are sent, on any contract:

    drift        a number, or else a category, comes from the upper end of what is known
    nulls        a column that may be null is null
    categories   a column of listed values has another one: refused, and counted
    broken       bodies that are no JSON, and rows without a column: refused, and counted
    burst        ten times the rate, for one second in ten
"""

import argparse
import http.client
import itertools
import json
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.serving import door
from flight_delays.settings import given
from flight_delays.stack import FOLDER

ROWS = Path("data/test.parquet")
BROKEN = b'{"rows": [{'
_MOST_ROWS = 20_000  # that are held; they come again and again
_CONNECTIONS = 16
_SECONDS = 30.0  # that an answer may take
_PERIOD, _BURST = 10, 10  # seconds, and so many times the rate in the last of them

Row = dict[str, Any]
Plant = Callable[[int, Row], Row]


@dataclass
class Seen:
    """What came back.

    Attributes
    ----------
    answers
        The status of each, or the fault that came in its place, and the seconds it took.
    late
        Requests that could not be sent in time, since all connections were waiting.
    """

    answers: list[tuple[str, float]] = field(default_factory=list)
    late: int = 0


def bodies(rows: list[Row], contract: Contract, fault: str = "") -> list[bytes]:
    """Write a request for each row.

    Parameters
    ----------
    rows
        As `door.to_json` gives them.
    contract
        Of the rows.
    fault
        To plant, of those above; none if empty.

    Raises
    ------
    InputError
        The contract has no column that this fault can be in.
    """
    plant = _PLANTS[fault](rows, contract) if fault in _PLANTS else lambda _, row: row
    written = [json.dumps({"rows": [plant(number, row)]}).encode() for number, row in enumerate(rows)]
    return [BROKEN if fault == "broken" and number % 2 else body for number, body in enumerate(written)]


def _drift(rows: list[Row], contract: Contract) -> Plant:
    for column in contract.features:
        known = [row[column.name] for row in rows if row[column.name] is not None]
        if column.type in {"integer", "number"} and not column.values and len(set(known)) > 1:
            upper = sorted(known)[-max(1, len(known) // 20) :]  # the highest twentieth: allowed, and far from usual
            return _setting(column, upper)
    for column in contract.features:
        counts = Counter(row[column.name] for row in rows if row[column.name] is not None)
        if len(counts) > 1:
            return _setting(column, [min(counts, key=lambda value: (counts[value], str(value)))])
    raise InputError("FAULT=drift: no feature has more than one value here, so none can drift")


def _nulls(rows: list[Row], contract: Contract) -> Plant:  # noqa: ARG001 (all faults are planted alike)
    for column in contract.features:
        if not column.required:
            return _setting(column, [None])
    raise InputError("FAULT=nulls: contract.yaml requires a value in each feature; `broken` sends rows that lack one")


def _categories(rows: list[Row], contract: Contract) -> Plant:  # noqa: ARG001
    for column in contract.features:
        if column.values and column.type == "string":
            return _setting(column, ["a value that nobody has seen"])
    raise InputError(
        "FAULT=categories: contract.yaml lists the values of no text feature; FAULT=broken is for any data"
    )


def _broken(rows: list[Row], contract: Contract) -> Plant:  # noqa: ARG001
    name = contract.features[0].name
    return lambda _, row: {key: value for key, value in row.items() if key != name}


def _setting(column: Column, values: list[Any]) -> Plant:
    return lambda number, row: row | {column.name: values[number % len(values)]}


_PLANTS: dict[str, Callable[[list[Row], Contract], Plant]] = {
    "drift": _drift,
    "nulls": _nulls,
    "categories": _categories,
    "broken": _broken,
}
FAULTS = (*_PLANTS, "burst")


def moments(rate: float, seconds: float, burst: bool = False) -> Iterator[float]:
    """Give the moments, in seconds from the start, at which requests are to be sent.

    Parameters
    ----------
    rate
        Requests a second.
    seconds
        The whole.
    burst
        Whether the last second of each ten has ten times as many.
    """
    now = 0.0
    while now < seconds:
        yield now
        many = burst and now % _PERIOD >= _PERIOD - 1
        now += 1 / (rate * _BURST if many else rate)


def send(url: str, key: str, sent: list[bytes], when: Iterator[float], tick: Callable[[], None]) -> Seen:
    """Send requests, each at its moment.

    Parameters
    ----------
    url
        Of the service.
    key
        Its API key; none is sent if empty.
    sent
        Bodies; they begin again at the end.
    when
        Of `moments`.
    tick
        Called for each request.

    Raises
    ------
    InputError
        Nobody answers there.
    """
    place, seen = urlsplit(url), Seen()
    host, port = place.hostname or "", place.port or 80
    try:
        socket.create_connection((host, port), _SECONDS).close()
    except OSError as error:
        raise InputError(f"{url} does not answer ({error}): start it with `make stack` or `make serve`") from None
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        while (body := waiting.get()) is not None:
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, headers)
                answer = connection.getresponse()
                answer.read()
                found = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                found = type(error).__name__
                with suppress(OSError):
                    connection.close()
            seen.answers.append((found, time.perf_counter() - start))
            tick()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    try:
        for moment, body in zip(when, itertools.cycle(sent), strict=False):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            seen.late += waiting.qsize() > _CONNECTIONS
            waiting.put(body)
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
    return seen


def _key() -> str:
    """Give the client's key: of the environment, or the one that `make stack` made."""
    path = FOLDER / "client_key"
    return given("API_KEY") or (path.read_text(encoding="utf-8") if path.is_file() else "")


def _rows(contract: Contract) -> list[Row]:
    if not ROWS.is_file():
        raise InputError(f"{ROWS} is missing: run `make pipeline`")
    found = door.to_json(pq.read_table(ROWS).slice(0, _MOST_ROWS), contract)
    if not found:
        raise InputError(f"{ROWS} has no rows")
    return found


def show(seen: Seen, taken: float) -> Table:
    """Draw up what came back.

    Parameters
    ----------
    seen
        Of `send`.
    taken
        Seconds.
    """
    table = Table("answer", "requests", "share")
    total = len(seen.answers)
    for status, count in sorted(Counter(status for status, _ in seen.answers).items()):
        table.add_row(status, f"{count:,}", f"{count / total:.1%}")
    ordered = sorted(seconds for _, seconds in seen.answers)
    middle, high = (ordered[min(total - 1, int(total * share))] * 1e3 for share in (0.5, 0.99))
    table.caption = f"{total / taken:.0f} a second, p50 {middle:.1f} ms, p99 {high:.1f} ms"
    if seen.late:
        table.caption += f"; {seen.late:,} were sent late: more than the service answers"
    return table


@report_errors
def main() -> None:
    """Send, and print what came back."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.traffic",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service or its proxy")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--fault", default="", help=f"to plant: {', '.join(FAULTS)}")
    chosen = parser.parse_args()
    if chosen.rate <= 0 or chosen.seconds <= 0:
        raise InputError("RATE and SECONDS must be above 0")
    if chosen.fault not in {"", *FAULTS}:
        raise InputError(f"FAULT={chosen.fault} is not known: use {', '.join(FAULTS)}")
    contract = Contract.read()
    sent = bodies(_rows(contract), contract, chosen.fault)
    when = list(moments(chosen.rate, chosen.seconds, chosen.fault == "burst"))
    columns = (TextColumn("{task.completed:.0f} of {task.total:.0f} requests"), BarColumn(), TimeRemainingColumn())
    start = time.monotonic()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(when))
        seen = send(chosen.url, _key(), sent, iter(when), lambda: progress.advance(task))
    Console().print(show(seen, time.monotonic() - start))


if __name__ == "__main__":
    main()
