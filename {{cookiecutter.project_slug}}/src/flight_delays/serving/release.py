"""What is served, since when, by whom and why? A small file that all workers watch, and the history of all before it.

The folder that holds it, the store, also holds the models it names, so the service needs no registry to run:

    release.json      what is served now, replaced as a whole
    history.jsonl     each release and each decision, one JSON object a line
    models/VERSION/   models, complete or not there
    workers/*.json    what each worker has loaded
    predictions/      the prediction log
    labels/           what turned out to be true
    incoming/         files of labels that are still to be taken in

Several replicas may share one store: what a process writes by itself is named by its machine, or container, and number.
"""

import contextlib
import errno
import fcntl
import filecmp
import getpass
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flight_delays.errors import InputError
from flight_delays.settings import given

STORE = Path("models/serving")
CANARY, SHADOW = "canary", "shadow"
REPORT_SECONDS = 5.0  # between two reports of a worker
_SILENT_SECONDS = 3 * REPORT_SECONDS  # after which a worker is taken for dead; sooner than anybody stops waiting for it


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
    challenger_commit, challenger_data
        What the challenger was made from.
    since
        When this began, in UTC.
    by, reason
        Who brought it about, and why.
    pending
        What the registry has yet to be told: that there is another `champion`, or of a `challenger`; nothing if empty.
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
    challenger_commit: str = "none"
    challenger_data: str = "none"
    since: str = ""
    by: str = ""
    reason: str = ""
    pending: str = ""
    id: str = ""


class Store:
    """The folder.

    Parameters
    ----------
    folder
        Made where it is missing, closed to other users: it holds rows.

    Raises
    ------
    InputError
        It cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(given("SERVING_DIR") or STORE)
        self.file, self.history = self.folder / "release.json", self.folder / "history.jsonl"
        self.predictions, self.workers = self.folder / "predictions", self.folder / "workers"
        self.labels, self.incoming = self.folder / "labels", self.folder / "incoming"
        own = (self.predictions, self.workers, self.labels, self.incoming, self.folder / "models")
        for part in (self.folder, *own):
            try:
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{part} cannot be made ({error}): name another folder in SERVING_DIR") from None

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

    def add(self, version: str, folder: Path) -> bool:
        """Copy a model in, as a whole or not at all; another one of this name, of a registry that is gone, makes way.

        Whether it was not there yet is returned.

        Parameters
        ----------
        version
            What it is called.
        folder
            Written by `Model.save`.
        """
        goal = self.model(version)
        if _same(goal, folder):
            return False
        with tempfile.TemporaryDirectory(dir=goal.parent, prefix=".") as temporary:
            copy = shutil.copytree(folder, Path(temporary) / "model")
            with contextlib.suppress(FileNotFoundError):
                goal.rename(Path(temporary) / "old")
            try:
                copy.rename(goal)
            except OSError:  # somebody else was quicker
                if not _same(goal, folder):
                    raise
                return False
        return True

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
        made = replace(release, since=now, by=by or whoever(), id=uuid.uuid4().hex[:12])
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
        _put(self.file, json.dumps(asdict(release), indent=1), sync=True)

    def record(self, kind: str, content: dict[str, Any]) -> None:
        """Add a line to the history.

        Parameters
        ----------
        kind
            `release` or `decision`.
        content
            Plain data.

        Raises
        ------
        OSError
            The line is not there, or not whole; what comes after it begins a line of its own.
        """
        line = json.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds")} | content) + "\n"
        handle = os.open(self.history, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            whole = not size or os.pread(handle, 1, size - 1) == b"\n"
            data = (line if whole else "\n" + line).encode()
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.history))
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
            lines = [line for line in file if f'"kind": "{kind}"' in line]
        found: list[dict[str, Any]] = []
        for line in reversed(lines):
            if len(found) == most:
                break
            with contextlib.suppress(ValueError):  # a full disk may have torn it
                found.append(json.loads(line))
        return found

    def report(self, loaded: dict[str, Any]) -> None:
        """Say what this process has loaded, for whoever waits for it.

        Parameters
        ----------
        loaded
            Plain data; the process's number is added.
        """
        _put(self._own_report, json.dumps(loaded | {"pid": os.getpid()}))

    def leave(self) -> None:
        """Take this process's report back: nobody is to wait for it any more."""
        self._own_report.unlink(missing_ok=True)

    @property
    def _own_report(self) -> Path:
        return self.workers / f"{os.uname().nodename}-{os.getpid()}.json"

    def reports(self) -> list[dict[str, Any]]:
        """Give what each worker that is alive has loaded, on any machine; those of dead ones are removed."""
        found = []
        for path in sorted(self.workers.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                if _lives(path):
                    found.append(json.loads(path.read_text(encoding="utf-8")))
                else:
                    path.unlink()
        return found


def digest(*paths: Path) -> str:
    """Hash the content of files, one after the other, with SHA-256."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
    return found.hexdigest()


def _put(goal: Path, text: str, *, sync: bool = False) -> None:
    """Replace a file as a whole; where that fails, all is as before."""
    handle, name = tempfile.mkstemp(dir=goal.parent, prefix=".")
    try:
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor)
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        Path(name).rename(goal)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _same(one: Path, other: Path) -> bool:
    """Whether two models are the same, byte for byte."""
    if not one.is_dir():
        return False
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def _lives(report: Path) -> bool:
    """Whether the worker behind a report lives: it is not silent, as another process of its number would be."""
    if time.time() - report.stat().st_mtime > _SILENT_SECONDS:
        return False
    machine, _, process = report.stem.rpartition("-")
    if machine != os.uname().nodename:
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def whoever() -> str:
    """Say who runs this, and on which machine."""
    try:
        return f"{getpass.getuser()}@{os.uname().nodename}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"{os.getuid()}@{os.uname().nodename}"
