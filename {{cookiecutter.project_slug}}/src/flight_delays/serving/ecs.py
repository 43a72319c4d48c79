"""What happened, for whoever reads logs? One JSON object a line on standard output, in the Elastic Common Schema.

A request pays for putting its line into memory; a thread writes what has gathered. Who reads slowly, or not at all,
keeps nobody waiting: a line that finds no room is dropped and counted. What must not be lost is in the prediction log.
"""

import atexit
import logging
import os
import re
import threading
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from flight_delays.errors import InputError
from flight_delays.settings import given, tier

LOG = "LOG"
SERVICE = "flight-delays"
ECS = "9.0.0"
LEVELS = ("info", "warning")
_MOST = 10_000  # lines in memory: some seconds of a busy process, some megabytes
_GATHER_SECONDS = 0.05
_CLOSE_SECONDS = 1.0  # for the last lines
_PIECE = 50  # lines of one write, some 30 kB: a pipe that is read takes it whole, so lines of two processes do not mix
_MOST_WORDS = 300  # characters of a message or reason
_FRAMES = 8
_TRACE = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

Level = Literal["info", "warning", "error"]
Answered = tuple[str, str, str]  # version and role of the model that answered, and the release

_encode = msgspec.json.Encoder().encode


class Line(
    msgspec.Struct,
    kw_only=True,
    gc=False,
    rename={
        "at": "@timestamp",
        "level": "log.level",
        "ecs": "ecs.version",
        "service": "service.name",
        "version": "service.version",
        "environment": "service.environment",
        "dataset": "event.dataset",
        "action": "event.action",
        "reason": "event.reason",
        "nanoseconds": "event.duration",
        "outcome": "event.outcome",
        "method": "http.request.method",
        "name": "http.request.id",
        "status": "http.response.status_code",
        "path": "url.path",
        "trace": "trace.id",
        "client": "client.user.name",
        "error": "error.type",
        "fault": "error.message",
        "where": "error.stack_trace",
        "model": "labels.model_version",
        "role": "labels.role",
        "release": "labels.release",
        "challenger": "labels.challenger_version",
        "mode": "labels.mode",
    },
):
    """All that a line may hold; nothing else is written, so nothing that a client sent can be."""

    at: datetime
    level: Level
    message: str
    ecs: str = ECS
    service: str = SERVICE
    version: str
    environment: str
    dataset: str
    action: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    nanoseconds: int | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    path: str | UnsetType = UNSET
    trace: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    fault: str | UnsetType = UNSET
    where: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    release: str | UnsetType = UNSET
    challenger: str | UnsetType = UNSET
    mode: str | UnsetType = UNSET


class Log:
    """The log of one process.

    Parameters
    ----------
    part
        Of the project that writes: `service`, `controller` or `monitor`.
    dropped
        Told how many lines were dropped.
    file
        The descriptor that is written to.

    Raises
    ------
    InputError
        The environment variable `LOG` holds no level.
    """

    def __init__(self, part: str, dropped: Callable[[int], object] = lambda _: None, file: int = 1) -> None:
        level = given(LOG) or ("warning" if os.isatty(file) else "info")
        if level not in LEVELS:
            raise InputError(f"the environment variable {LOG} is {level!r}: use one of {', '.join(LEVELS)}")
        self.all = level == "info"
        self._version, self._tier = _version(), tier()
        self._requests, self._events = f"{part}.request", f"{part}.event"
        self._lines = _Lines(file, dropped)

    def request(
        self,
        method: str,
        path: str | None,
        status: int,
        nanoseconds: int,
        name: str,
        trace: str,
        client: str,
        answered: Answered | None,
        error: BaseException | None,
    ) -> None:
        """Write a request.

        Parameters
        ----------
        method, path
            What was asked; no path where it is one that a client made up.
        status
            As it was answered.
        nanoseconds
            Until then.
        name
            The request's id.
        trace
            Of the request across services.
        client
            Whose key it came with; empty without keys.
        answered
            By which model, if any.
        error
            The fault that ended it, if one did; its words are left out, since they may hold what a client sent.
        """
        if status < 500 and not self.all:
            return
        model, role, release = answered or (UNSET, UNSET, UNSET)
        self._lines.add(
            Line(
                at=datetime.now(UTC),
                level="info" if status < 500 else "warning" if status == 503 else "error",
                message=f"{method} {path or '(another path)'} {status}",
                version=self._version,
                environment=self._tier,
                dataset=self._requests,
                nanoseconds=nanoseconds,
                outcome="failure" if status >= 500 else "unknown" if status == 499 else "success",
                method=method,
                name=name,
                status=status,
                path=path or UNSET,
                trace=trace,
                client=client or UNSET,
                error=type(error).__name__ if error else UNSET,
                where=_where(error) if error else UNSET,
                model=model,
                role=role,
                release=release,
            )
        )

    def say(
        self,
        message: str,
        level: Level = "info",
        error: BaseException | None = None,
        **more: str | UnsetType,
    ) -> None:
        """Write something that happened.

        Parameters
        ----------
        message
            What; in words of the project, not of a client.
        level
            How bad it is.
        error
            Why, by its kind and place; its words are left out.
        **more
            Further fields of `Line`.
        """
        if level == "info" and not self.all:
            return
        if error:
            more |= {"error": type(error).__name__, "where": _where(error)}
        self._lines.add(
            Line(
                at=datetime.now(UTC),
                level=level,
                message=_short(message),
                version=self._version,
                environment=self._tier,
                dataset=self._events,
                **{name: value if value is UNSET else _short(value) for name, value in more.items()},  # type: ignore[arg-type]
            )
        )

    def take_over(self) -> None:
        """Write what libraries log in this process, from warnings on, in the same form."""
        logging.basicConfig(handlers=[_Handler(self)], level=logging.WARNING, force=True)

    def close(self) -> None:
        """Write the last lines; not for long, if nobody takes them."""
        self._lines.close()


def trace_of(traceparent: bytes) -> str | None:
    """Give the trace's id of a W3C `traceparent` header; `None` if it is not a valid one.

    Parameters
    ----------
    traceparent
        The header's value.
    """
    found = _TRACE.fullmatch(traceparent)
    if found is None or (found[1] == b"00" and found[3]):  # only a later version may have more parts
        return None
    return found[2].decode()


class _Lines:
    """Lines on their way out."""

    def __init__(self, file: int, dropped: Callable[[int], object]) -> None:
        self._file, self._dropped = file, dropped
        self._lines: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._starting, self._wake, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._awake = False

    def add(self, line: Line) -> None:
        if len(self._lines) >= _MOST:
            self._dropped(1)
            return
        self._lines.append(_encode(line) + b"\n")
        if not self._awake:  # else it has not begun to take lines, and will find this one
            self._awake = True
            if self._thread is None:
                self._start()
            self._wake.set()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _write(self) -> None:
        while self._wake.wait():
            closing = self._closing.wait(_GATHER_SECONDS)
            self._wake.clear()
            self._awake = False
            while self._lines:
                self._put(*self._piece())
            if closing:
                return

    def _piece(self) -> tuple[bytes, int]:
        """Take the oldest lines."""
        count = min(len(self._lines), _PIECE)
        return b"".join([self._lines.popleft() for _ in range(count)]), count

    def _put(self, piece: bytes, count: int) -> None:
        try:
            while piece:
                piece = piece[os.write(self._file, piece) :]
        except OSError:  # the reader is gone, or the disk is full: the next lines may find another one
            self._dropped(count)


class _Handler(logging.Handler):
    """Writes what libraries log; of a fault only the first words, since the others may hold its values."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        error = record.exc_info[1] if record.exc_info else None
        self._log.say(record.getMessage().split("\n")[0], level, error)


def _version() -> str:
    """Name the commit that an image was made from, else the version that is installed."""
    try:
        return given("COMMIT") or version(SERVICE)
    except PackageNotFoundError:  # the code was copied there
        return "none"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return "\n".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)  # noqa: PTH119


def _short(words: str) -> str:
    return " ".join(words.split())[:_MOST_WORDS]
