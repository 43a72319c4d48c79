"""What stands for the clouds? Emulators of S3, Google Cloud Storage and Azure Blob Storage, and a wire that can be cut."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from projects import Made, kill

AZURITE = "azurite@3.35.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cookiecutter-fullmarks", "azurite")
ACCOUNT = "devstoreaccount1"
# The account's key is Azurite's own, and printed in its manual.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
S3_KEY = "an-emulated-key-7d02c9e1"
WRONG = "d3JvbmctYnV0LXdlbGwtZm9ybWVk"


@dataclass(frozen=True)
class Store:
    """An emulator that runs.

    Attributes
    ----------
    kind
        The answer to the template's question `remote`.
    url
        Of the DVC remote.
    artifacts
        Where MLflow keeps files.
    port
        On this machine.
    folder
        For files of its own.
    """

    kind: str
    url: str
    artifacts: str
    port: int
    folder: Path

    def environment(self, port: int = 0, secret: str = "") -> dict[str, str]:
        """Give address and credentials as a user has them in the environment, by another port or with another secret."""
        address = f"http://127.0.0.1:{port or self.port}"
        if self.kind == "s3":
            keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": secret or S3_KEY}
            return keys | {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
        if self.kind == "gcs":
            return {"STORAGE_EMULATOR_HOST": address} | (self._account(secret) if secret else {})
        parts = {"DefaultEndpointsProtocol": "http", "AccountName": ACCOUNT, "AccountKey": secret or KEY}
        parts["BlobEndpoint"] = f"{address}/{ACCOUNT}"
        return {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{name}={value}" for name, value in parts.items())}

    def _account(self, name: str) -> dict[str, str]:
        """Write down an account of a service that nobody knows."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {"type": "service_account", "client_email": f"{name}@localhost", "private_key": text, "private_key_id": "1"}
        account["token_uri"] = f"http://127.0.0.1:{self.port}/token"
        (self.folder / "account.json").write_text(json.dumps(account))
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "account.json")}

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        """Let S3's emulator look at keys, as the other two always do."""
        if self.kind == "s3":
            self._look_at_keys_after("0")
        try:
            yield
        finally:
            if self.kind == "s3":
                self._look_at_keys_after("inf")

    def _look_at_keys_after(self, requests: str) -> None:
        address = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
        request = urllib.request.Request(address, requests.encode(), {"content-type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    """Run a server for the length of a `with` block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out, start_new_session=True)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            else:
                pytest.fail(f"{command[0]} does not listen: {log.read_text()}")
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            kill(process)  # with what it has started and left


@contextlib.contextmanager
def tracking_server(made: Made, folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """Run MLflow's server with a project's own MLflow, what it keeps in a folder; give its address."""
    port = free_port()
    command = [str(made.path / ".venv/bin/mlflow"), "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # without six processes more
    options = options or (f"--artifacts-destination={folder}/artifacts",)
    with running([*command, *options], port, folder / "mlflow.log", **alone, **environment):
        for _ in range(240):  # it listens before it answers
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def emulated(kind: str, folder: Path) -> Iterator[Store]:
    """Run the emulator of one cloud, with nothing in it."""
    port, here = free_port(), Path(sys.executable).parent
    urls = {
        "s3": ("s3://shop/dvc", "s3://shop/mlflow"),
        "gcs": ("gs://shop/dvc", "gs://shop/mlflow"),
        "azure": ("azure://shop/dvc", f"wasbs://shop@{ACCOUNT}.blob.core.windows.net/mlflow"),
    }
    commands = {
        "s3": [str(here / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        "gcs": [str(here / "gcp-storage-emulator"), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"],
        "azure": ["node", str(CACHE / "node_modules/azurite/dist/src/blob/main.js"), "--inMemoryPersistence", "--silent",
                  "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)],
    }  # fmt: skip
    if kind == "azure":
        need_azurite()
    with running(commands[kind], port, folder / f"{kind}.log"):
        yield Store(kind, *urls[kind], port, folder)


def need_azurite() -> None:
    """Skip where Azurite is not installed; the message says how it is."""
    if shutil.which("node") is None or not (CACHE / "node_modules/azurite").is_dir():
        pytest.skip(f"Azure's emulator is not installed: npm install --prefix {CACHE} {AZURITE}")


class Wire:
    """Carries bytes between a program and a server, and stands still after so many of them.

    Parameters
    ----------
    goal
        The server's port.
    most
        Bytes, in either direction, after which nothing goes through.
    """

    def __init__(self, goal: int, most: int) -> None:
        self.still = threading.Event()
        self._goal, self._left, self._lock = goal, most, threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._goal))
                self._open += [near, far]
                for start, end in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(start, end), daemon=True).start()

    def _carry(self, start: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := start.recv(65536):
                with self._lock:
                    self._left -= len(block)
                if self._left < 0:
                    self.still.set()
                    return
                end.sendall(block)
            end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut it, so that both ends see it: a thread that reads keeps what is only closed."""
        for end in (self._server, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def cut_in_the_middle(begin: Callable[[int], "subprocess.Popen[bytes]"], stop: Callable[["subprocess.Popen[bytes]"], None],
                      store: Store, most: int) -> None:  # fmt: skip
    """Start something through a wire, and kill it when the wire stands still."""
    wire = Wire(store.port, most)
    process = begin(wire.port)
    try:
        assert wire.still.wait(60), "it was over before the wire stood still"
        assert process.poll() is None
    finally:
        stop(process)
        wire.close()
