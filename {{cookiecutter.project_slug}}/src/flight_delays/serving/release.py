"""What is served, since when, by whom and why? A small file that all workers watch, and the history of all before it.

The folder that holds it, the store, also holds the models it names, so the service needs no registry to run:

    release.json      what is served now, replaced as a whole
    history.jsonl     each release and each decision, one JSON object a line
    models/VERSION/   models, complete or not there
    workers/PID.json  what each worker has loaded
    predictions/      the prediction log
    metrics/          counts of all workers
"""

import contextlib
import fcntl
import getpass
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flight_delays.errors import InputError

STORE = Path("models/serving")
CANARY, SHADOW = "canary", "shadow"


@dataclass(frozen=True)
class Release:
    """What is served.

    Attributes
    ----------
    champion
        The version that answers.
    challenger
        The version that is tried, if one is.
    mode
        `canary`: the challenger answers a share of the requests; `shadow`: it is only asked as well.
    share
        Of the requests, 0 to 1, by their key.
    previous
        The champion before, to which a rollback goes.
    commit, data
        What the champion was made from: a git commit, and the hash of its data.
    since
        When this began, in UTC.
    by, reason
        Who brought it about, and why.
    pending
        Whether the registry has yet to be told.
    id
        Of this release.
    """

    champion: str
    challenger: str | None = None
    mode: str = CANARY
    share: float = 0.0
    previous: str | None = None
    commit: str = "none"
    data: str = "none"
    since: str = ""
    by: str = ""
    reason: str = ""
    pending: bool = False
    id: str = ""


class Store:
    """The folder.

    Parameters
    ----------
    folder
        Made where it is missing, closed to other users: it holds rows.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get("SERVING_DIR") or STORE)
        self.file, self.history = self.folder / "release.json", self.folder / "history.jsonl"
        self.predictions, self.workers = self.folder / "predictions", self.folder / "workers"
        for part in (self.folder, self.folder / "models", self.predictions, self.workers, self.folder / "metrics"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self) -> Release | None:
        """Give what is served now; `None` where nothing ever was.

        Raises
        ------
        InputError
            The file cannot be used.
        """
        try:
            return Release(**json.loads(self.file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.file} is no release ({error}): remove it, then `make serve` asks the registry"
            ) from None

    def model(self, version: str) -> Path:
        """Give the folder of a version's model, there or not."""
        return self.folder / "models" / version

    def add(self, version: str, folder: Path) -> None:
        """Copy a model in, as a whole or not at all.

        Parameters
        ----------
        version
            What it is called.
        folder
            Written by `Model.save`.
        """
        goal = self.model(version)
        if goal.exists():
            return
        with tempfile.TemporaryDirectory(dir=goal.parent) as temporary:
            copy = shutil.copytree(folder, Path(temporary) / "model")
            with contextlib.suppress(FileExistsError):
                copy.rename(goal)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody else from changing what is served, for the length of a `with` block."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def publish(self, release: Release, by: str = "") -> Release:
        """Replace what is served, at once for all workers, and write it down.

        Parameters
        ----------
        release
            Its `since`, `by` and `id` are filled in.
        by
            Who; whoever runs this where it is not given.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        made = replace(release, since=now, by=by or _whoever(), id=uuid.uuid4().hex[:12])
        self.record("release", asdict(made))
        self.replace(made)
        return made

    def replace(self, release: Release) -> None:
        """Put a release in place of the last one, as it is.

        Parameters
        ----------
        release
            All of it.
        """
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".release-")
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor)
            json.dump(asdict(release), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(self.file)

    def record(self, kind: str, content: dict[str, Any]) -> None:
        """Add a line to the history.

        Parameters
        ----------
        kind
            `release` or `decision`.
        content
            Plain data.
        """
        line = json.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds")} | content) + "\n"
        handle = os.open(self.history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def past(self, kind: str, most: int = 20) -> list[dict[str, Any]]:
        """Give the newest lines of a kind, the newest first.

        Parameters
        ----------
        kind
            `release` or `decision`.
        most
            So many.
        """
        if not self.history.exists():
            return []
        with self.history.open(encoding="utf-8", errors="replace") as file:
            lines = [json.loads(line) for line in file if line.endswith("\n") and f'"kind": "{kind}"' in line]
        return lines[: -most - 1 : -1]

    def report(self, loaded: dict[str, Any]) -> None:
        """Say what this process has loaded, for whoever waits for it.

        Parameters
        ----------
        loaded
            Plain data; the process's number is added.
        """
        goal = self.workers / f"{os.getpid()}.json"
        handle, name = tempfile.mkstemp(dir=self.workers, prefix=".")
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor)
            json.dump(loaded | {"pid": os.getpid()}, file)
        Path(name).rename(goal)

    def reports(self) -> list[dict[str, Any]]:
        """Give what each worker that is alive has loaded; those of dead ones are removed."""
        found = []
        for path in sorted(self.workers.glob("*.json")):
            if _lives(int(path.stem)):
                with contextlib.suppress(FileNotFoundError):
                    found.append(json.loads(path.read_text(encoding="utf-8")))
            else:
                path.unlink(missing_ok=True)
        return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _whoever() -> str:
    try:
        return f"{getpass.getuser()}@{os.uname().nodename}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"{os.getuid()}@{os.uname().nodename}"
