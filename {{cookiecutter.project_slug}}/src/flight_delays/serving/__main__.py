"""Serve the registry's champion, or the model of a folder, on this machine."""

import argparse
import socket
import tempfile
from pathlib import Path

import uvicorn

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.model import Model
from flight_delays.serving.app import create_app

HOST = "127.0.0.1"  # a service for other machines stands behind a proxy


def load(folder: Path | None) -> tuple[Model, str]:
    """Give the model to serve, and what it is called.

    Parameters
    ----------
    folder
        A model's folder; the registry's champion where `None`.

    Raises
    ------
    InputError
        There is no such model, or none that can be served.
    """
    if folder is not None:
        return Model.load(folder), folder.name
    from flight_delays.tracking import Registry  # MLflow takes seconds to import

    registry = Registry(Contract.read().id)
    champion = registry.champion()
    if champion is None:
        raise InputError("the registry has no champion yet: run `make pipeline`, or serve a folder with --model")
    with tempfile.TemporaryDirectory() as copy:
        return registry.fetch(champion, Path(copy)), champion.number


def reserve(port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a taken one is said at once; nobody can connect yet.

    Parameters
    ----------
    port
        0 for any free one.

    Raises
    ------
    InputError
        The port cannot be had.
    """
    # named as TCP, asyncio sends each answer at once; else it waits 40 ms for the last one to be acknowledged
    taken = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not to wait for what the last run left open
        taken.bind((HOST, port))
    except (OSError, OverflowError) as error:
        taken.close()
        raise InputError(f"port {port} cannot be had ({error}): choose another one with --port") from None
    return taken


@report_errors
def main() -> None:
    """Run the service until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.serving",
        description=__doc__,
    )
    parser.add_argument("--model", type=Path, help="a model's folder, such as models/candidate; else the champion")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one (default: 8000)")
    chosen = parser.parse_args()
    with reserve(chosen.port) as taken:
        model, version = load(chosen.model)
        app = create_app(model, version)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        place = f"http://{HOST}:{taken.getsockname()[1]}"
        taken.listen()
        print(f"serving {model.contract.id} {version} at {place}, try {place}/docs", flush=True)
        server.run(sockets=[taken])


if __name__ == "__main__":
    main()
