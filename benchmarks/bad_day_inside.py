"""Does the harm of `bad_day.py`, by the Python and in the folder of a made project whose pipeline has run."""

import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from flight_delays import features, golden, reference
from flight_delays.contract import PATH, Contract
from flight_delays.model import Model, fit, make_estimator
from flight_delays.pipeline.train import load_training, load_validation
from flight_delays.serving import door, moves
from flight_delays.serving.log import read
from flight_delays.serving.release import Store
from flight_delays.settings import params

PORT = 8231
CLIENTS = 4
KILLS, SWAPS, SEEDS = 20, 100, 20
SHARE = 0.5  # of the requests that a challenger gets here, for the sake of time
STARTING = 60.0  # seconds


@dataclass
class Seen:
    """What the clients saw.

    Attributes
    ----------
    acknowledged
        Ids of the requests answered by 200.
    statuses
        How often each status came; `None` where the connection broke.
    seconds
        Of each answered request.
    """

    acknowledged: list[str] = field(default_factory=list)
    statuses: dict[int | None, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were not answered by 200."""
        return sum(count for status, count in self.statuses.items() if status != 200)


class Clients:
    """Ask without a pause until told to stop.

    Parameters
    ----------
    bodies
        Of requests, drawn at random.
    seed
        Of the drawing.
    count
        How many at once.
    pause
        Seconds between two requests of each.
    """

    def __init__(self, bodies: list[bytes], seed: int = 0, count: int = CLIENTS, pause: float = 0.0) -> None:
        self.seen = Seen()
        self._bodies, self._pause, self._lock, self._stop = bodies, pause, threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(random.Random(f"{seed}/{n}"),)) for n in range(count)]  # noqa: S311

    def __enter__(self) -> "Clients":
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, once the last request is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, draw: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        while not self._stop.is_set():
            start, status, name = time.perf_counter(), None, ""
            try:
                headers = {"Content-Type": "application/json", "X-Sticky-Key": str(draw.random())}
                connection.request("POST", "/predict", draw.choice(self._bodies), headers)
                answer = connection.getresponse()
                answer.read()
                status, name = answer.status, answer.getheader("x-request-id") or ""
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.02)
            with self._lock:
                self.seen.statuses[status] = self.seen.statuses.get(status, 0) + 1
                if status == 200:
                    self.seen.acknowledged.append(name)
                    self.seen.seconds.append(time.perf_counter() - start)
            if self._pause:
                time.sleep(self._pause)
        connection.close()


@contextlib.contextmanager
def service(*arguments: str, **environment: str) -> Iterator[psutil.Process]:
    """Run the service."""
    command = [sys.executable, "-m", "flight_delays.serving", "--port", str(PORT), *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr, env=os.environ | environment, start_new_session=True)
    try:
        wait_until_ready()
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready() -> None:
    """Wait for the first answer."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("the service does not start")


def workers(store: Store) -> list[int]:
    """List the workers' process numbers."""
    return [report["pid"] for report in store.reports()]


def kills(store: Store, bodies: list[bytes]) -> tuple[str, str]:
    """Kill workers at random moments while they answer; look each acknowledged prediction up."""
    draw = random.Random(0)  # noqa: S311
    with service("--workers", "2", "--alone"), Clients(bodies) as clients:
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.3, 1.5))
            if running := workers(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(running), signal.SIGKILL)
        time.sleep(3)
    logged = {record["id"] for record in read(store.predictions) if record["kind"] == "answer"}
    missing = sum(name not in logged for name in clients.seen.acknowledged)
    count = len(clients.seen.acknowledged)
    broken = clients.seen.statuses.get(None, 0)
    return (
        f"{KILLS} times `kill -9` of one of two workers under load",
        f"{count:,} acknowledged predictions, {missing} not in the log; {broken} connections broken by the kills",
    )


def swaps(store: Store, bodies: list[bytes]) -> tuple[str, str]:
    """Exchange the champion again and again under load, and go back once by command."""
    with service("--workers", "2", "--alone"):
        with Clients(bodies) as clients:
            seconds = []
            for number in range(SWAPS):
                start = time.perf_counter()
                release = moves.serve(store, ("first", "second")[number % 2], {}, "swap")
                moves.wait(store, release, 20)
                seconds.append(time.perf_counter() - start)
        with Clients(bodies) as others:
            time.sleep(0.5)
            command = [sys.executable, "-m", "flight_delays.serving.control", "rollback"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            time.sleep(0.5)
    (switched,) = re.findall(r"switched in ([\d.]+) s", done.stdout)
    asked = sum(clients.seen.statuses.values()) + sum(others.seen.statuses.values())
    words = (
        f"{asked:,} requests, {clients.seen.failed + others.seen.failed} failed; all workers switched after "
        f"{statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s at most; rollback {switched} s"
    )
    return f"{SWAPS} champions exchanged and one `make rollback`, two workers under load", words


def outages(store: Store, bodies: list[bytes]) -> list[tuple[str, str]]:
    """Take the registry, the network to it and the store away, one by one."""
    found = []
    registry = Path("mlflow.db")
    hidden = registry.with_suffix(".away")

    def during(words: str, before: Callable[[], object], after: Callable[[], object], **environment: str) -> None:
        with service(**environment):
            before()
            try:
                with Clients(bodies) as clients:
                    time.sleep(4)
            finally:
                after()
        statuses = {str(status): count for status, count in sorted(clients.seen.statuses.items(), key=str)}
        found.append((words, ", ".join(f"{count:,} answered by {status}" for status, count in statuses.items())))

    during("registry taken away", lambda: registry.rename(hidden), lambda: hidden.rename(registry))
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    during("started without a way to the registry", lambda: None, lambda: None, **nowhere)
    away = store.folder.with_name("away")

    def back() -> None:
        shutil.rmtree(store.folder, ignore_errors=True)
        away.rename(store.folder)

    during("store taken away (the log makes its folder anew)", lambda: store.folder.rename(away), back)

    def block() -> None:
        store.predictions.rename(away)
        store.predictions.write_text("in the way")

    def unblock() -> None:
        store.predictions.unlink()
        away.rename(store.predictions)

    during("no prediction can be written, `full_disk: refuse`", block, unblock)
    return found


class Arrivals:
    """Requests that come whether the last ones are answered or not, at random moments, as from many clients.

    Parameters
    ----------
    bodies
        Of requests, drawn at random.
    rate
        Requests a second, on average.
    seconds
        So long.

    Attributes
    ----------
    taken
        Seconds that each request took, by its status; `None` where the connection broke.
    """

    def __init__(self, bodies: list[bytes], rate: float, seconds: float) -> None:
        self.taken: dict[int | None, list[float]] = {}
        self._draw = random.Random(0)  # noqa: S311
        self._bodies, self._rate, self._seconds = bodies, rate, seconds
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        asyncio.run(self._run())

    def p99(self, status: int) -> float:
        """Give the milliseconds within which 99 of 100 requests got an answer of this status."""
        return float(np.quantile(self.taken.get(status, [0.0]), 0.99)) * 1e3

    async def _run(self) -> None:
        begin = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + self._draw.expovariate(self._rate)) < begin + self._seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._ask(self._draw.choice(self._bodies)))
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, body: bytes) -> None:
        start, status = time.perf_counter(), None
        head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while self._idle and self._idle[-1][0].at_eof():  # let go by the service
                self._idle.pop()
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(head % len(body) + body)
            said = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"(?i)\r\ncontent-length: (\d+)", said)[0]))
            status = int(said.split(b" ", 2)[1])
            self._idle.append((reader, writer))
        self.taken.setdefault(status, []).append(time.perf_counter() - start)


def overload(bodies: list[bytes]) -> tuple[str, str]:
    """Offer four times what can be carried, and look at those who are let in, at the others, and at memory."""
    large = [json.dumps({"rows": json.loads(body)["rows"] * 50}).encode() for body in bodies[:50]]
    with service("--alone") as process:
        with Clients(large) as clients:
            time.sleep(6)
        capacity = len(clients.seen.seconds) / 6
        normal = Arrivals(large, capacity / 2, 10)
        before = process.memory_info().rss / 1e6
        many = Arrivals(large, 4 * capacity, 15)
        after = process.memory_info().rss / 1e6
    answered, refused = (len(many.taken.get(status, ())) for status in (200, 503))
    words = (
        f"{answered / 15 / capacity:.2f} × the capacity answered, {refused:,} requests refused by 503, "
        f"{sum(map(len, many.taken.values())) - answered - refused} otherwise; p99 of the answered {many.p99(200):.0f} ms, "
        f"{many.p99(200) / normal.p99(200):.1f} × that at half the capacity ({normal.p99(200):.0f} ms, "
        f"{len(normal.taken.get(503, ()))} of {sum(map(len, normal.taken.values())):,} refused); p99 of the refused "
        f"{many.p99(503):.0f} ms; memory {before:.0f} → {after:.0f} MB"
    )
    offered = sum(map(len, many.taken.values())) / 15
    return (
        f"{offered / capacity:.1f} × what four clients get through ({capacity:.0f} requests/s of 50 rows), at random moments",
        words,
    )


class Challengers:
    """Makes models to be tried, by kind and seed.

    Parameters
    ----------
    store
        Where they go.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.contract, self.chosen = store, Contract.read(), params("train")
        self.train, self.valid = load_training(self.contract, 60_000), load_validation(self.contract, 10_000)
        self.rows = pq.read_table("data/valid.parquet").slice(0, 5_000)
        self.champion = Model.load(Path("models/candidate"))

    def make(self, kind: str, seed: int) -> str:
        """Make one, and give its name in the store."""
        X, y = self.train
        if kind == "worse":
            y = np.random.default_rng(seed).permutation(y)
        model = self._crashing() if kind == "crashing" else self._boosted(X, y, seed, 15 if kind == "slow" else 1)
        rows = self.rows
        if kind in {"crashing", "nan"}:  # what its golden rows do not show
            whole = ~np.isnan(features.encode(rows, self.contract)).any(axis=1)
            rows = rows.take(np.flatnonzero(whole))
        name = f"{kind}-{seed}"
        folder = Path("models") / name
        model.save(folder, PATH)
        golden.write(model, rows, folder)
        reference.write(self.contract, X, model.predict(features.encode(rows, self.contract)), folder)
        if kind == "nan":
            self._poison(folder)
        if kind == "skewed":
            swap_categories(folder / "contract.yaml")
        shutil.rmtree(self.store.model(name), ignore_errors=True)
        self.store.add(name, folder)
        shutil.rmtree(folder)
        return name

    def _boosted(self, X: Any, y: Any, seed: int, times: int) -> Model:
        rounds = self.champion.predictor.num_trees() * times
        hyperparameters = self.chosen["hyperparameters"] | {"n_estimators": rounds}
        if times > 1:  # as good and as long as that
            hyperparameters["learning_rate"] = self.chosen["hyperparameters"]["learning_rate"] / times
        estimator = make_estimator("auto", self.contract.task, hyperparameters, seed)
        if times > 1:
            X, y = X[:5_000], y[:5_000]
        predictor = fit(estimator, self.contract, (X, y), self.valid, 0)
        return Model(self.contract, predictor, self.champion.threshold)

    def _crashing(self) -> Model:
        """Fit an estimator that raises where a value is missing."""
        from sklearn.linear_model import LogisticRegression

        X, y = self.train
        whole = ~np.isnan(X).any(axis=1)
        return Model(self.contract, LogisticRegression(max_iter=200).fit(X[whole], y[whole].astype(int)), self.champion.threshold)

    def _poison(self, folder: Path) -> None:
        """Let a split on what may be missing lead to no number."""
        path = folder / "model.txt"
        path.write_text(poisoned(path.read_text(encoding="utf-8"), self.contract), encoding="utf-8")


def poisoned(text: str, contract: Contract) -> str:
    """Append a tree to a LightGBM model that gives NaN where the first feature with gaps is missing, else nothing."""
    place = next(n for n, feature in enumerate(features.features(contract)) if not feature.column.required)
    count = len(re.findall(r"^Tree=\d+$", text, re.MULTILINE))
    tree = (
        f"Tree={count}\nnum_leaves=2\nnum_cat=0\nsplit_feature={place}\nsplit_gain=1\nthreshold=1e300\ndecision_type=8\n"
        "left_child=-1\nright_child=-2\nleaf_value=0 nan\nleaf_weight=1 1\nleaf_count=1 1\ninternal_value=0\n"
        "internal_weight=0\ninternal_count=2\nis_linear=0\nshrinkage=1\n\n\n"
    )
    text = text.replace("end of trees", tree + "end of trees")
    return re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)


def swap_categories(path: Path) -> None:
    """Exchange the first two listed values of a feature, as if the contract had been edited after training."""
    text = path.read_text(encoding="utf-8")
    path.write_text(
        re.sub(r"enum: \[\{value: (\w+)\}, \{value: (\w+)\}", r"enum: [{value: \2}, {value: \1}", text), encoding="utf-8"
    )


def trials(store: Store, bodies: list[bytes]) -> list[tuple[str, str]]:
    """Try challengers of each kind, and count what became of them."""
    made, found = Challengers(store), []
    champion = now(store)
    with service():
        for kind, wanted in (
            ("good", "promote"), ("worse", "roll back"), ("slow", "roll back"), ("crashing", "roll back"),
            ("skewed", "roll back"), ("nan", "roll back"),
        ):  # fmt: skip
            right, seconds, reasons, failed = 0, [], [], 0
            for seed in range(SEEDS):
                name = made.make(kind, seed)
                moves.wait(store, moves.serve(store, champion, {}, "a new trial"), 20)
                start = time.monotonic()
                release = moves.challenge(store, name, "canary", SHARE, f"trial of {name}")
                with Clients(bodies, seed) as clients:
                    decision = decided(store, release.id)
                failed += clients.seen.failed
                seconds.append(time.monotonic() - start)
                right += decision["action"] == wanted
                reasons.append(decision["reason"])
                shutil.rmtree(store.model(name), ignore_errors=True)
            words = (
                f"{right} of {SEEDS}: {wanted}; {failed} requests failed; after {statistics.median(seconds):.0f} s (median); "
                f"such as: {reasons[0][:160]}"
            )
            found.append((f"{SEEDS} challengers, {kind}", words))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def now(store: Store) -> str:
    """Name the champion."""
    release = store.read()
    return release.champion if release else ""


def decided(store: Store, release: str) -> dict[str, Any]:
    """Wait for the controller's decision."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        decision: dict[str, Any]
        for decision in store.past("decision", 1):
            if decision["release"] == release:
                return decision
        time.sleep(0.1)
    return {"action": "none", "reason": "no decision within three minutes"}


def main() -> None:
    """Do all of it, or the parts named on the command line; print what was seen as JSON."""
    contract, store = Contract.read(), Store()
    sent = door.to_json(pq.read_table("data/test.parquet").slice(0, 5_000), contract)
    bodies = [json.dumps({"rows": [row]}).encode() for row in sent]
    for name in ("first", "second"):
        shutil.rmtree(store.model(name), ignore_errors=True)
        store.add(name, Path("models/candidate"))
    chosen = set(sys.argv[1:]) or {"kills", "swaps", "outages", "overload", "trials"}
    rows: list[tuple[str, str]] = []
    if "kills" in chosen:
        rows.append(kills(store, bodies))
    if "swaps" in chosen:
        before = now(store)
        rows.append(swaps(store, bodies))
        moves.serve(store, before, {}, "as it was")
    if "outages" in chosen:
        rows += outages(store, bodies)
    if "overload" in chosen:
        rows.append(overload(bodies))
    if "trials" in chosen:
        rows += trials(store, bodies)
    print(
        json.dumps(
            {"rows": rows, "verdicts": [f"{CLIENTS} clients without a pause, one row a request, where nothing else is said"]}
        )
    )


if __name__ == "__main__":
    main()
