"""What was answered? The prediction log: written before each answer is sent, read back by monitoring, whole lines only.

Each process appends to a file of its own, so what it has acknowledged is in the kernel's hands and outlives it when it
is killed; a power cut may take the last seconds. The process holds a lock on its file as long as it lives: a file that
nobody holds is finished, whoever left it, and the next log that looks at the folder compresses it; one that is older
than any is kept goes.

Bytes that stand in a file never change. After a write that failed half-way the file is cut back to its last whole line
and left for a new one, so that a reader meets a torn line only where a file ends.
"""

import errno
import fcntl
import gzip
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from flight_delays.errors import InputError

Record = dict[str, Any]
_PLAIN, _PACKED = ".jsonl", ".jsonl.gz"
_CHUNK = 2**20  # bytes compressed at once
_END = 2**20  # bytes from a file's end in which its latest records are looked for
_LOOK = 1.0  # seconds after which the file's age, and whether it still is in its folder, are looked at again
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
_decode = msgspec.json.Decoder(Record).decode


class LogFullError(OSError):
    """A record could not be written, whole or in part: the disk is full, or the folder cannot be written to."""


class PredictionLog:
    """The prediction log of one process.

    Parameters
    ----------
    folder
        Shared by all processes that serve; made where it is missing, for this user alone.
    max_bytes, max_seconds
        Size and age at which a file is finished and a new one begun.
    keep_seconds
        Age of its last record at which a finished file is deleted.

    Raises
    ------
    LogFullError
        The folder cannot be made.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_seconds: float, keep_seconds: float = math.inf) -> None:
        self._folder, self._max_bytes, self._max_seconds = folder, max_bytes, max_seconds
        self._keep_seconds = keep_seconds
        self._writing = threading.Lock()  # large requests are answered in threads
        self._file: int | None = None  # its descriptor; opened by the first record, and again after each failure
        self._size, self._born, self._looked = 0, 0.0, 0.0
        try:
            self._make_folder()
        except OSError as error:
            raise self._failure(error) from error
        self._finished, self._closing = threading.Event(), threading.Event()
        self._finished.set()  # others may have left something
        self._packer = threading.Thread(target=self._pack, name="prediction log", daemon=True)
        self._packer.start()

    def write(self, record: bytes) -> None:
        """Append one record; when this returns, it will be found.

        Parameters
        ----------
        record
            A JSON object in UTF-8 and in one line; its newline is added where it has none.

        Raises
        ------
        LogFullError
            The record is not in the log. The next call tries again, so the log recovers as soon as there is space.
        """
        line = record if record.endswith(b"\n") else record + b"\n"
        with self._writing:
            try:
                file = self._current(len(line))
                written = os.write(file, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._take_back()
                raise self._failure(error) from error
            self._size += written

    def close(self) -> None:
        """Finish the file. It stays as it is: the next log in the folder compresses it."""
        self._closing.set()
        self._finished.set()
        with self._writing:
            self._leave()
        self._packer.join()

    def _current(self, size: int) -> int:
        """Give the file for a record of this size: the open one, or a new one where it is full, old or gone."""
        now = time.monotonic()
        file = self._file
        if file is not None and self._size and self._size + size > self._max_bytes:
            self._leave()
        elif file is not None and now >= self._looked + _LOOK:
            self._looked = now
            if now >= self._born + self._max_seconds or not os.fstat(file).st_nlink:
                self._leave()
        if self._file is None:
            self._file = self._open()
            self._size, self._born, self._looked = 0, now, now
        return self._file

    def _open(self) -> int:
        self._make_folder()
        while True:
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}{_PLAIN}"
            with suppress(FileExistsError):
                file = os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    if _lock(file):
                        return file
                except OSError:
                    os.close(file)
                    raise
                os.close(file)  # another log took it for a finished one in the instant before it was locked

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _take_back(self) -> None:
        """Cut off what stands in the file of a record that did not fit."""
        if self._file is None:
            return
        with suppress(OSError):
            if os.fstat(self._file).st_size == self._size:
                return  # nothing does, so the file can be used on
            os.ftruncate(self._file, self._size)
        with suppress(OSError):
            self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None  # also where closing fails, as it may on a network
            os.close(file)
            self._finished.set()

    def _failure(self, error: OSError) -> LogFullError:
        return LogFullError(error.errno, f"the prediction log cannot be written: {error.strerror}", str(self._folder))

    def _pack(self) -> None:
        while self._finished.wait() and not self._closing.is_set():
            self._finished.clear()
            for path in self._with(_PLAIN):
                with suppress(OSError):  # no space: the file stays as it is, and is tried again after the next one
                    _compress(path, self._closing)
            oldest = time.time() - self._keep_seconds
            for path in self._with(_PACKED):
                with suppress(OSError):  # another process has deleted it
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    def _with(self, suffix: str) -> list[Path]:
        with suppress(OSError):  # the folder goes in this moment
            return sorted(self._folder.glob(f"*{suffix}"))
        return []


def _lock(file: int) -> bool:
    """Take a file for this process, if no other one has it and it is still in its folder."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0


def _compress(path: Path, closing: threading.Event) -> None:
    """Replace a finished file by its compressed form; at any instant one of them is there and whole."""
    packed = path.with_name(path.name.removesuffix(_PLAIN) + _PACKED)
    part = packed.with_name(packed.name + ".part")
    with path.open("rb+") as plain:  # to be locked on network file systems, it must be open for writing
        if not _lock(plain.fileno()):
            return
        found = os.fstat(plain.fileno())
        try:
            if found.st_size:
                with open(part, "wb", opener=_private) as file:
                    with gzip.GzipFile("", "wb", 1, file) as target:
                        while chunk := plain.read(_CHUNK):
                            if closing.is_set():
                                return
                            target.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                os.utime(part, ns=(found.st_atime_ns, found.st_mtime_ns))  # readers go by it
                part.rename(packed)
                _sync(path.parent)
            path.unlink()
        finally:
            part.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path, since: datetime | None = None, torn: list[Path] | None = None) -> Iterator[Record]:
    """Read all records: file by file in the order in which the files were begun, each in the order of writing.

    Parameters
    ----------
    folder
        The log's.
    since
        Leave out what is older; with its offset from UTC.
    torn
        Is given each file whose last line is torn, as a power cut leaves it, or still being written. That record was
        not acknowledged.

    Raises
    ------
    InputError
        There is no such folder; or a line that is not the last of its file is no record.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: there are no predictions yet")
    oldest = _text(since) if since else ""
    for name in sorted(_names(folder)):
        file = _open(folder, name, since)
        if file is None:
            continue
        path = Path(str(file.name))
        with file:
            try:
                for record in _records(file, path, torn):
                    if not oldest or record["at"] >= oldest:
                        yield record
            except _DAMAGED as error:
                raise InputError(f"{path} is damaged ({error}): take it back from a backup, or move it away") from None


def _records(file: BinaryIO, path: Path, torn: list[Path] | None) -> Iterator[Record]:
    fault = 0
    for number, line in enumerate(file, 1):
        if fault:
            raise InputError(f"{path}, line {fault} is no record: mend the line, or delete it")
        record = _parse(line)
        if record is not None:
            yield record
            continue
        fault = number
        if not line.endswith(b"\n"):
            break  # the rest may come while this is read
    if fault and torn is not None:
        torn.append(path)


def latest(folder: Path, most: int) -> list[Record]:
    """Read some of the newest answers, from the end of the newest file that holds any: quick, however long the log is.

    Parameters
    ----------
    folder
        The log's.
    most
        So many.
    """
    for name in sorted(_names(folder), reverse=True):
        file = _open(folder, name, None)
        if file is None:
            continue
        with file:
            if not isinstance(file, gzip.GzipFile):
                file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
            lines = file.read().split(b"\n")[:-1]
        found = [record for line in lines if (record := _parse(line + b"\n")) and record["kind"] == "answer"]
        if found:
            return found[-most:]
    return []


class Tail:
    """A reader that gives each record once, soon after it was written, whatever becomes of the files meanwhile.

    A line that is no record, which `read` refuses, is counted here and passed over: a controller has to go on.

    Parameters
    ----------
    folder
        The log's; it may come to be later.
    since
        Leave out what is older; with its offset from UTC.

    Attributes
    ----------
    faulty
        How many lines were no records.
    """

    def __init__(self, folder: Path, since: datetime | None = None) -> None:
        self.faulty = 0
        self._folder, self._since = folder, since
        self._oldest = _text(since) if since else ""
        self._read: dict[str, int] = {}  # bytes of each file's lines
        self._done: set[str] = set()

    def new(self) -> list[Record]:
        """Give the records that have been written since the last call."""
        return list(self)

    def __iter__(self) -> Iterator[Record]:
        """Give the same one by one, in little memory however many there are."""
        for name in sorted(_names(self._folder) - self._done):
            file = _open(self._folder, name, self._since)
            if file is None:
                continue
            packed = isinstance(file, gzip.GzipFile)
            with file:
                try:
                    yield from self._lines(name, file)
                except _DAMAGED:
                    self.faulty += 1
            if packed:
                self._done.add(name)

    def _lines(self, name: str, file: BinaryIO) -> Iterator[Record]:
        file.seek(self._read.get(name, 0))  # the place among the lines, which compression does not move
        for line in file:
            if not line.endswith(b"\n"):
                return  # the rest is still to come, or never will
            self._read[name] = self._read.get(name, 0) + len(line)
            record = _parse(line)
            if record is None:
                self.faulty += 1
            elif not self._oldest or record["at"] >= self._oldest:
                yield record


_OPENERS: dict[str, Callable[[Path], Any]] = {_PLAIN: lambda path: path.open("rb"), _PACKED: gzip.GzipFile}


def _names(folder: Path) -> set[str]:
    """Name the files, compressed or not; of one that is caught between the two there is still only one."""
    found: set[str] = set()
    for _ in range(2):  # a file that is renamed during a listing may be missed by it, but not by two
        with suppress(FileNotFoundError):
            found.update(path.name for path in folder.iterdir())
    return {name.partition(".")[0] for name in found if name.endswith((_PLAIN, _PACKED))}


def _open(folder: Path, name: str, since: datetime | None) -> BinaryIO | None:
    """Open a file in its present form; None where it has gone, or ended before what is asked for."""
    for suffix in (_PLAIN, _PACKED):
        path = folder / (name + suffix)
        with suppress(FileNotFoundError):
            if since and path.stat().st_mtime < since.timestamp() - _LOOK:
                return None
            return _OPENERS[suffix](path)
    return None


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = _decode(line)
        if "columns" in record:  # which stand there once for all rows
            record["rows"] = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    except (KeyError, TypeError, ValueError):
        return None
    return record


def _text(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
