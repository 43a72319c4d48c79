"""Serve the registry's champion, or the model of a folder, on this machine."""

import argparse
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import uvicorn

from flight_delays.errors import InputError, report_errors
from flight_delays.serving import leaving, moves
from flight_delays.serving.release import Release, Store
from flight_delays.settings import given, params

SYNC = "flight_delays.serving.control"
CONTROLLER = "flight_delays.serving.controller"
HOST = "127.0.0.1"  # a service for other machines stands behind a proxy
_WAITING = 2048  # connections that the system keeps until a worker takes them
_SHUTDOWN_SECONDS = 30
_LOOK_SECONDS, _AGAIN_SECONDS = 0.2, 2.0  # at the controller, and before it is started once more


def reserve(port: int, host: str = HOST) -> socket.socket:
    """Take the port before the model is loaded, so that a taken one is said at once; nobody can connect yet.

    Parameters
    ----------
    port
        0 for any free one.
    host
        The address to listen at.

    Raises
    ------
    InputError
        The port cannot be had.
    """
    # named as TCP, asyncio sends each answer at once; else it waits 40 ms for the last one to be acknowledged
    taken = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not to wait for what the last run left open
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        raise InputError(f"port {port} cannot be had ({error}): choose another one with --port") from None
    return taken


def prepare(store: Store, folder: Path | None) -> Release:
    """See to it that the store names a model: the folder's, what it named before, or the registry's champion.

    Parameters
    ----------
    store
        Of this service.
    folder
        A model's.

    Raises
    ------
    InputError
        There is no model to serve.
    """
    if folder is not None:
        if not (folder / "model.json").is_file():
            raise InputError(f"{folder} holds no model: run `make pipeline`")
        name = folder.resolve().name
        return moves.offer(store, name, f"--model {folder}", new=store.add(name, folder))
    release = store.read()
    if release is None:  # in a process of its own: MLflow would stay in this one's memory
        if find_spec("mlflow") is None:  # an image that only serves
            raise InputError(
                f"{store.file} is missing, and no MLflow is here to ask for the champion: run `python -m {SYNC} sync` "
                "where it is, in the image `train` with the same SERVING_DIR, or name a model's folder with --model"
            )
        asked = subprocess.run([sys.executable, "-m", SYNC, "sync"], check=False)
        release = store.read()
        if asked.returncode or release is None:
            sys.exit(1)
    return release


@contextmanager
def count_together() -> Iterator[None]:
    """Let all processes started from here add to the same counts; before any of them imports the metrics.

    The folder of counts is this start's own: other replicas share the store, and each is asked for its counts.
    """
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[leaving.FOLDER] = folder
        yield


@contextmanager
def controller() -> Iterator[None]:
    """Run the controller beside the service, and once more should it end."""
    stopping = threading.Event()

    def keep() -> None:
        while not stopping.is_set():
            process = subprocess.Popen([sys.executable, "-m", CONTROLLER])
            while process.poll() is None and not stopping.wait(_LOOK_SECONDS):
                pass
            if stopping.is_set():
                process.terminate()
                process.wait(_SHUTDOWN_SECONDS)
            else:
                stopping.wait(_AGAIN_SECONDS)

    keeper = threading.Thread(target=keep, name="controller")
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        keeper.join()


def serve(taken: socket.socket, workers: int, words: str, drain: float = 0.0) -> None:
    """Answer requests until a signal comes; what is being answered then is finished.

    Parameters
    ----------
    taken
        Bound, not yet listening.
    workers
        How many processes.
    words
        Said once the model is known to be sound.
    drain
        Seconds in which it still answers after it was asked to stop, and says that it will.

    Raises
    ------
    InputError
        The model is not.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own pool keeps 4 MB more
    gc.disable()  # all that is made by now stays: to look for what does not is a tenth of the start
    from flight_delays.serving import worker
    from flight_delays.serving.protocol import Protocol

    checked = worker.start()
    gc.enable()
    config = uvicorn.Config(
        checked if workers == 1 else f"{worker.__name__}:start",
        factory=workers > 1,
        http=Protocol,
        ws="none",
        loop="uvloop",
        workers=workers,
        backlog=_WAITING,
        log_config=None,  # what uvicorn has to say goes into the service's log
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        timeout_worker_healthcheck=_SHUTDOWN_SECONDS,
    )
    taken.listen(_WAITING)
    if checked.log and checked.log.all:
        checked.log.say(words)
    else:
        print(words, flush=True)
    if workers == 1:
        leaving.Server(config, drain).run(sockets=[taken])
    else:
        several = leaving.Workers(config, sockets=[taken])
        several.seconds = drain
        several.run()


@report_errors
def main() -> None:
    """Run the service until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.serving",
        description=__doc__,
    )
    parser.add_argument("--model", type=Path, help="a model's folder, such as models/candidate; else the champion")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one (default: 8000)")
    parser.add_argument("--host", default=HOST, help=f"the address to listen at (default: {HOST})")
    parser.add_argument("--workers", type=int, default=params("serve")["workers"], help="processes that answer")
    parser.add_argument("--alone", action="store_true", help="without the controller: nothing changes by itself")
    parser.add_argument("--drain", type=float, default=0.0, help="seconds that a proxy has to see that this will stop")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is opened here is closed, too
    with ExitStack() as stack:
        taken = stack.enter_context(reserve(chosen.port, chosen.host))
        if chosen.model and not given("SERVING_DIR"):
            os.environ["SERVING_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-"))
        store = Store()
        release = prepare(store, chosen.model)
        stack.enter_context(count_together())
        if not (chosen.model or chosen.alone):
            stack.enter_context(controller())
        place = f"http://{chosen.host}:{taken.getsockname()[1]}"
        serve(taken, chosen.workers, f"serving version {release.champion} at {place}, try {place}/docs", chosen.drain)


if __name__ == "__main__":
    main()
