"""How fast is `make serve`, against `mlflow models serve` of the same registered model, and against a constant answer?

The load comes from wrk (Debian: `apt-get install wrk`). All servers run at once and are asked in turn, so that what
disturbs one disturbs all.
"""

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from measure import cost, example, write

ROUNDS, SECONDS = 5, 4
CONNECTIONS = 4  # to each worker
MODEL = "models:/flight-delays@champion"
CONSTANT = """
import json
from fastapi import FastAPI
from typing import Any

app = FastAPI()

@app.post("/predict")
async def predict(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "173e54c6dd513c196ca4aa7282ea307c", "model": {"name": "flight-delays", "version": "1"},
            "predictions": [{"prediction": True, "probability": 0.5559195958310253}]}
"""
ROWS = """
import json
import pyarrow.parquet as pq
from flight_delays.contract import Contract
from flight_delays.serving import door

print(json.dumps(door.to_json(pq.read_table("data/test.parquet").slice(0, 1000), Contract.read())))
"""


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes
    ----------
    name
        For people.
    url
        Where rows go.
    body
        Makes a request's body of rows.
    process
        Which started it.
    start
        Seconds from its start to its first answer.
    workers
        Processes that answer.
    """

    name: str
    url: str
    body: Callable[[list[Any]], dict[str, Any]]
    process: psutil.Process
    start: float
    workers: int = 1

    @property
    def memory(self) -> float:
        """MB resident, of all its processes."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / 1e6


@dataclass(frozen=True)
class Load:
    """What wrk measured.

    Attributes
    ----------
    rate
        Requests a second.
    p99
        Milliseconds.
    """

    rate: float
    p99: float


@contextmanager
def server(
    name: str,
    command: list[str],
    where: Path,
    url: str,
    body: Callable[[list[Any]], dict[str, Any]],
    rows: list[Any],
    workers: int = 1,
) -> Iterator[Server]:
    """Start a server, and wait for its first answer."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as people have it
        own["PATH"] = f"{Path(command[0]).parent}{os.pathsep}{own['PATH']}"  # MLflow starts uvicorn by its name
        process = subprocess.Popen(command, cwd=where, env=own, stdout=said, stderr=said)
        try:
            while not answers(url, body(rows[:1])):
                if process.poll() is not None or time.monotonic() > begin + 180:
                    said.seek(0)
                    sys.exit(f"{name} does not start: {said.read()[-2000:]}")
                time.sleep(0.02)
            yield Server(name, url, body, psutil.Process(process.pid), time.monotonic() - begin, workers)
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(60)
            for child in family:
                if child.is_running():
                    child.kill()


def answers(url: str, body: dict[str, Any]) -> bool:
    """Ask once."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 80, timeout=30)
    try:
        connection.request("POST", address.path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def load(asked: Server, rows: list[Any]) -> Load:
    """Ask for some seconds, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "body.json").write_text(json.dumps(asked.body(rows)), encoding="utf-8")
        script = Path(folder, "post.lua")
        script.write_text(
            'wrk.method = "POST"\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
            f'wrk.body = io.open("{folder}/body.json"):read("*a")\n'
        )
        command = ["wrk", "-t1", f"-c{CONNECTIONS * asked.workers}", f"-d{SECONDS}", "--timeout", "30s", "--latency"]
        said = subprocess.run([*command, "-s", str(script), asked.url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        sys.exit(f"{asked.name} refuses: {said}")
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", said)
    ((slow, of),) = re.findall(r"99%\s+([\d.]+)(us|ms|s|m)", said)
    return Load(float(rate), float(slow) * unit[of])


def in_turn(servers: list[Server], rows: list[Any]) -> dict[str, Load]:
    """Ask each server in each round, and give the medians."""
    found: dict[str, list[Load]] = {asked.name: [] for asked in servers}
    for _ in range(ROUNDS):
        for asked in servers:
            found[asked.name].append(load(asked, rows))
    return {
        name: Load(statistics.median(entry.rate for entry in loads), statistics.median(entry.p99 for entry in loads))
        for name, loads in found.items()
    }


def at_least(words: str, measured: float, limit: float) -> str:
    """Say whether a wanted ratio was reached."""
    return f"{words}: {measured:.2f}, at least {limit:g} wanted: {'reached' if measured >= limit else '**not reached**'}"


def at_most(words: str, measured: float, limit: float) -> str:
    """Say whether a wanted ratio was kept."""
    return f"{words}: {measured:.3f}, at most {limit:g} wanted: {'kept' if measured <= limit else '**not kept**'}"


def main() -> None:
    """Start all, ask all in turn, write it down."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: `apt-get install wrk`")
    with example() as project, ExitStack() as running:
        cost(["make", "pipeline"], project)
        python = str(project / ".venv/bin/python")
        rows = json.loads(subprocess.run([python, "-c", ROWS], cwd=project, capture_output=True, text=True, check=True).stdout)
        (project / "constant.py").write_text(CONSTANT, encoding="utf-8")
        plain = "--log-level warning --no-access-log --loop uvloop --http httptools"
        ours = [python, "-m", "flight_delays.serving"]
        mlflow = [str(project / ".venv/bin/mlflow"), "models", "serve", "-m", MODEL, "--env-manager", "local"]

        def run(on: ExitStack, name: str, command: list[str], path: str, *, records: bool = False) -> Server:
            def body(sent: list[Any]) -> dict[str, Any]:
                return {"dataframe_records" if records else "rows": sent}

            port = command[command.index("--port") + 1]
            workers = int(command[command.index("--workers") + 1]) if "--workers" in command else 1
            return on.enter_context(server(name, command, project, f"http://127.0.0.1:{port}{path}", body, rows, workers))

        peer_starts, our_starts = [], []
        for _ in range(3):
            with ExitStack() as once:
                peer_starts.append(run(once, "the peer", [*mlflow, "--port", "8211"], "/invocations", records=True).start)
            with ExitStack() as once:
                our_starts.append(run(once, "ours", [*ours, "--port", "8212"], "/predict").start)
        peer = run(running, "`mlflow models serve`", [*mlflow, "--port", "8201"], "/invocations", records=True)
        mine = run(running, "`make serve`", [*ours, "--port", "8202"], "/predict")
        floor = run(
            running, "a constant answer", [python, "-m", "uvicorn", "constant:app", "--port", "8203", *plain.split()], "/predict"
        )
        one = in_turn([peer, mine, floor], rows[:1])
        memory = {asked.name: asked.memory for asked in (peer, mine, floor)}
        two = run(running, "`make serve`, two workers", [*ours, "--port", "8204", "--workers", "2"], "/predict")
        many, hundred = in_turn([peer, mine, two], rows), in_turn([mine, two], rows[:100])
    starts = {peer.name: statistics.median(peer_starts), mine.name: statistics.median(our_starts), floor.name: floor.start}
    table = [
        [name, f"{one[name].rate:,.0f}", f"{one[name].p99:.1f}"]
        + ([f"{many[name].rate:,.1f}", f"{many[name].p99:.0f}"] if name in many else ["", ""])
        + [f"{starts[name]:.1f}", f"{memory[name]:,.0f}"]
        for name in (peer.name, mine.name, floor.name)
    ]
    a, b = one[mine.name], one[peer.name]
    write(
        "serving",
        f"How fast is the service? Medians of {ROUNDS} rounds of {SECONDS} s, {CONNECTIONS} connections a worker, asked in turn",
        ["server", "1 row: requests/s", "p99 ms", "1,000 rows: requests/s", "p99 ms", "start s", "memory MB"],
        table,
        [
            at_least("one row, requests a second against `mlflow models serve`", a.rate / b.rate, 30),
            at_most("one row, p99 against it", a.p99 / b.p99, 0.1),
            at_least("one row, against a constant answer of FastAPI on the same server", a.rate / one[floor.name].rate, 0.5),
            at_least("1,000 rows, against `mlflow models serve`", many[mine.name].rate / many[peer.name].rate, 5),
            at_least("the same with two workers", many[two.name].rate / many[peer.name].rate, 5),
            at_most(
                "start, against it; the model is in the store, as after `make pipeline`",
                starts[mine.name] / starts[peer.name],
                0.1,
            ),
            at_most("memory, against it; controller included", memory[mine.name] / memory[peer.name], 1 / 3),
            at_least(
                "two workers against one, 100 rows a request; of the two cores, wrk needs a share",
                hundred[two.name].rate / hundred[mine.name].rate,
                1.7,
            ),
            "prediction log, metrics and request ids are on in `make serve`; nothing of the kind in the others",
        ],
    )


if __name__ == "__main__":
    main()
