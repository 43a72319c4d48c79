"""Has training or serving become slower, or hungrier for memory? Measured beside a yardstick, against earlier runs.

CPU time differs from machine to machine and from minute to minute, so each measurement is taken between two of a fixed
piece of work, the yardstick, and only their ratio is compared. A run is worse when its ratio is surely above that of
the runs before on this kind of machine by more than the tolerance; how surely, the spread of both says.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np

from flight_delays.errors import InputError, report_errors
from flight_delays.settings import params

HISTORY = Path("reports/speed.jsonl")
MODEL = Path("models/candidate")
TEST = Path("data/test.parquet")
ROUNDS = 5
START, TRAIN = (("-c", f"import {__name__} as speed; speed.{name}()") for name in ("_started", "_trained"))
_COMPARED = 20  # of the runs before, the newest
_SURE = 3.0  # standard errors
_FIT_ROWS, _BATCH_ROWS, _REQUESTS = 2_000, 1_000, 100
_WORDS = {
    "train": "fitting the model",
    "train_memory": "training's memory",
    "request": "answering a request of one row",
    "batch": f"answering a request of {_BATCH_ROWS:,} rows",
    "start": "starting the service",
    "memory": "the service's memory",
}

Ratios = dict[str, list[float]]


@dataclass(frozen=True)
class Change:
    """How one measurement compares with the runs before.

    Attributes
    ----------
    name
        `train`, `train_memory`, `request`, `batch`, `start` or `memory`.
    before, now
        Medians, in yardsticks; memory in MB.
    ratio, low
        Now to before, and the least that it surely is.
    worse
        Whether that is more than the tolerance allows.
    """

    name: str
    before: float
    now: float
    ratio: float
    low: float
    worse: bool

    def __str__(self) -> str:
        """Write it in one line."""
        words = f"{_WORDS[self.name]} takes {self.ratio:.2f} times what it took, surely {self.low:.2f} times"
        return f"{words} ({self.before:.3g} before, {self.now:.3g} now)"


def measure(rounds: int = ROUNDS) -> Ratios:
    """Measure this code on this project's model and rows.

    Parameters
    ----------
    rounds
        How often; the machine is never quite the same.

    Returns
    -------
    dict
        By name, a number a round: CPU time in yardsticks, memory in MB; that of training, which hardly varies, once.

    Raises
    ------
    InputError
        There is no model yet.
    """
    if not (MODEL / "model.json").is_file() or not TEST.is_file():
        raise InputError(f"{MODEL} or {TEST} is missing: run `make pipeline`")
    work = {"train": _training()} | dict(zip(("request", "batch"), _requests(), strict=True))
    found: Ratios = {name: [] for name in _WORDS}
    for do in (yardstick, *work.values()):  # the first time is not like the others
        do()
    for _ in range(rounds):
        for name, do in work.items():
            found[name].append(_beside_yardstick(do))
        start, memory = _start()
        found["start"].append(start)
        found["memory"].append(memory)
    (most,) = _run(TRAIN, "training does not run")
    return found | {"train_memory": [most]}


def compare(now: Ratios, before: list[Ratios], tolerance: float) -> list[Change]:
    """Compare a run with those before.

    Parameters
    ----------
    now
        From `measure`.
    before
        The same, of other runs on this kind of machine; at least one.
    tolerance
        Share by which a measurement may grow.
    """
    changes = []
    for name, rounds in now.items():
        known = [list(map(math.log, run[name])) for run in before if run.get(name)]
        if not known:
            continue
        logs = [statistics.median(run) for run in known]
        current = list(map(math.log, rounds))
        difference = statistics.median(current) - statistics.median(logs)
        doubt = _spread(logs) if len(logs) > 2 else _error(known[-1])
        error = math.hypot(_error(current), doubt)
        low = difference - _SURE * error
        value, old = (math.exp(statistics.median(side)) for side in (current, logs))
        worse = low > math.log1p(tolerance)
        changes.append(Change(name, old, value, math.exp(difference), math.exp(low), worse))
    return changes


def watch(rounds: int = ROUNDS) -> tuple[Ratios, list[Change]]:
    """Measure, and compare with the history; what looks worse is measured twice before it is believed.

    Parameters
    ----------
    rounds
        Of `measure`.

    Returns
    -------
    tuple
        The run, and its changes; none where there is no history.
    """
    before, now = history(), measure(rounds)
    if not before:
        return now, []
    tolerance = params("speed")["tolerance"]
    changes = compare(now, before, tolerance)
    if any(change.worse for change in changes):
        again = measure(rounds)
        now = {name: now[name] + again[name] for name in now}
        changes = [
            replace(both, worse=both.worse and second.worse)
            for both, second in zip(compare(now, before, tolerance), compare(again, before, tolerance), strict=True)
        ]
    return now, changes


def require(changes: list[Change]) -> None:
    """Require that nothing became worse.

    Parameters
    ----------
    changes
        From `watch`.

    Raises
    ------
    InputError
        Something did, with the numbers.
    """
    if worse := [str(change) for change in changes if change.worse]:
        raise InputError(f"{'; '.join(worse)}: find out why, or remove {HISTORY} if it is meant")


def history() -> list[Ratios]:
    """Read the newest runs on this kind of machine."""
    if not HISTORY.is_file():
        return []
    lines = (json.loads(line) for line in HISTORY.read_text(encoding="utf-8").splitlines())
    return [line["rounds"] for line in lines if line["machine"] == _machine()][-_COMPARED:]


def record(now: Ratios) -> None:
    """Add a run to the history.

    Parameters
    ----------
    now
        From `measure`.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    rounds = {name: [float(f"{value:.4g}") for value in values] for name, values in now.items()}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"at": at, "commit": commit or "none", "machine": _machine(), "rounds": rounds}
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def yardstick() -> None:
    """Do what never changes: some tens of milliseconds of Python, JSON and NumPy, as the service does."""
    rows = [{"name": f"n{number}", "value": number / 7} for number in range(2_000)]
    for _ in range(4):
        text = json.dumps(rows)
        values = np.array([row["value"] for row in json.loads(text)])
        np.sort(np.sin(np.tile(values, 20)))


def _beside_yardstick(work: Callable[[], None]) -> float:
    before, took, after = _cpu(yardstick), _cpu(work), _cpu(yardstick)
    return 2 * took / (before + after)


def _cpu(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _training() -> Callable[[], None]:
    from flight_delays.contract import Contract
    from flight_delays.model import fit, make_estimator
    from flight_delays.pipeline.train import load_training

    contract, chosen = Contract.read(), params("train")
    X, y = load_training(contract, _FIT_ROWS)

    def work() -> None:
        estimator = make_estimator(chosen["estimator"], contract.task, chosen["hyperparameters"], chosen["seed"])
        if "n_jobs" in estimator.get_params():
            estimator.set_params(n_jobs=1)  # threads that wait for each other take CPU time by chance
        fit(estimator, contract, (X, y), (X, y))

    return work


def _requests() -> tuple[Callable[[], None], Callable[[], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flight_delays.serving import door
    from flight_delays.serving.release import Release
    from flight_delays.serving.roles import Loaded, Roles, Served
    from flight_delays.serving.service import Service

    roles = Roles(Release("measured"), Loaded.read("measured", MODEL))
    service = Service(Served(roles))
    first = next(pq.ParquetFile(TEST).iter_batches(_BATCH_ROWS))
    sent = door.to_json(pa.Table.from_batches([first]), roles.champion.model.contract)
    sent = [sent[place % len(sent)] for place in range(_BATCH_ROWS)]
    one, many = (json.dumps({"rows": rows}).encode() for rows in (sent[:1], sent))

    def ask(body: bytes, times: int) -> None:
        for _ in range(times):
            service.predict(roles, service.read(roles, body), "measured", "measured")

    return lambda: ask(one, _REQUESTS), lambda: ask(many, 1)


def _start() -> tuple[float, float]:
    """Start what answers in a process of its own, and ask it once: CPU time in yardsticks, and MB of memory."""
    before = _cpu(yardstick)
    seconds, memory = _run(START, "the service does not start")
    return 2 * seconds / (before + _cpu(yardstick)), memory


def _run(command: tuple[str, ...], fault: str) -> list[float]:
    """Run Python in a process of its own, and give the numbers that it prints."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{fault}: {done.stderr.strip()[-300:]}")
    return [float(word) for word in done.stdout.split()]


def _started() -> None:
    for name in ("worker", "app"):
        import_module(f"flight_delays.serving.{name}")
    _, many = _requests()
    many()
    seconds = time.process_time()
    import psutil

    print(seconds, psutil.Process().memory_info().rss / 1e6)


def _trained() -> None:
    """Read all that is learned from, fit, and print the most memory that took."""
    from flight_delays.contract import Contract
    from flight_delays.pipeline.train import load_training

    rows = load_training(Contract.read(), params("train")["max_rows"])  # kept, as while training
    _training()()
    del rows
    print(_most_memory())


def _most_memory() -> float:
    """Give the MB that this process has had at most."""
    with suppress(OSError):  # there is none but on Linux, where the other number may be that of who started this
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _error(values: list[float]) -> float:
    """Estimate the standard error of a median, by the median absolute deviation."""
    return 1.2533 * _spread(values) / math.sqrt(len(values))


def _spread(values: list[float]) -> float:
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def _machine() -> str:
    """Name the kind of machine, Python included: what is measured on another kind is not compared."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # there is none but on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


@report_errors
def main() -> None:
    """Measure, compare, record."""
    argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.speed",
        description=__doc__,
    ).parse_args()
    from rich.console import Console
    from rich.table import Table

    now, changes = watch()
    table = Table("", "before", "now", "ratio", "", title="speed, in yardsticks; memory in MB", title_justify="left")
    for change in changes:
        state = "WORSE" if change.worse else "ok"
        table.add_row(_WORDS[change.name], f"{change.before:.3g}", f"{change.now:.3g}", f"{change.ratio:.2f}", state)
    if changes:
        Console(width=100).print(table)
    else:
        print("the first run on this kind of machine: there is nothing to compare with yet")
    require(changes)
    record(now)
    print(f"recorded in {HISTORY}")


if __name__ == "__main__":
    main()
