"""Is everything in the prediction log that was acknowledged, once and whole, whatever happens to process and disk?"""

import errno
import gzip
import json
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flight_delays.errors import InputError
from flight_delays.serving import log
from flight_delays.serving.log import LogFullError, PredictionLog, Tail, latest, read

FOREVER: dict[str, Any] = {"max_bytes": 2**30, "max_seconds": 1e6}
WRITER = f"""
import random, sys, time
from pathlib import Path
from {log.__name__} import PredictionLog
name, folder = sys.argv[1:]
written = PredictionLog(Path(folder), max_bytes=200_000, max_seconds=1e6)
for number in range(10**9):
    size = random.choice((10, 600, 20_000))
    written.write(b'{{"id": "%s-%d", "pad": "%s"}}' % (name.encode(), number, b"x" * size))
    sys.stdout.write(f"{{name}}-{{number}}\\n")
    sys.stdout.flush()
    time.sleep(random.choice((0, 0, 0, 0.001)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., PredictionLog]]:
    """Open logs in the folder, and close them in the end."""
    found: list[PredictionLog] = []

    def make(**given: Any) -> PredictionLog:
        found.append(PredictionLog(folder, **(FOREVER | given)))
        return found[-1]

    yield make
    for one in found:
        one.close()


def record(number: int, size: int = 0, **more: Any) -> bytes:
    """Make a record that does not compress to nothing."""
    return json.dumps({"id": number, "pad": random.Random(number).randbytes(size // 2).hex(), **more}).encode()


def ids(records: Any) -> list[Any]:
    return [found["id"] for found in records]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for the thread that compresses."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "nothing happened for 20 seconds"
        time.sleep(0.01)


def names(folder: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(suffix))


def test_what_is_written_is_read_back_in_its_order(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    written = opened()
    for number in range(100):
        written.write(record(number) + b"\n" * (number % 2))
    assert ids(read(folder)) == list(range(100))
    (name,) = names(folder, ".jsonl")
    started, _, process = name.removesuffix(".jsonl").partition("-")
    assert process == str(os.getpid())
    assert abs(datetime.strptime(started + "Z", "%Y%m%dT%H%M%S%f%z") - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_file_that_is_full_makes_room_and_is_compressed(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    written = opened(max_bytes=10_000)
    for number in range(100):
        written.write(record(number, 1_000))
    wait_until(lambda: len(names(folder, ".jsonl")) == 1)
    assert len(names(folder, ".jsonl.gz")) == 11
    assert names(folder, ".part") == []
    assert ids(read(folder)) == list(range(100))
    for name in names(folder, ".gz"):
        assert len(gzip.decompress((folder / name).read_bytes())) <= 10_000


def test_a_record_that_is_larger_than_a_file_has_a_file_of_its_own(
    folder: Path, opened: Callable[..., PredictionLog]
) -> None:
    written = opened(max_bytes=10_000)
    for number, size in enumerate((100, 100_000, 100)):
        written.write(record(number, size))
    assert ids(read(folder)) == [0, 1, 2]
    assert len(names(folder, ".gz") + names(folder, ".jsonl")) >= 3


def test_a_file_that_is_old_is_followed_by_a_new_one(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    written = opened(max_seconds=0.5)
    written.write(record(0))
    written.write(record(1))
    time.sleep(1.1)
    written.write(record(2))
    wait_until(lambda: len(names(folder, ".gz")) == 1)
    assert ids(read(folder)) == [0, 1, 2]
    (packed,) = names(folder, ".gz")
    assert gzip.decompress((folder / packed).read_bytes()).count(b"\n") == 2


def test_the_newest_answers_are_read_from_the_end(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    assert latest(folder.parent / "nowhere", 3) == []
    written = opened(max_bytes=10_000)
    for number in range(50):
        written.write(record(number, 1_000, kind="answer" if number % 2 else "second"))
    wait_until(lambda: len(names(folder, ".jsonl")) == 1)
    assert ids(latest(folder, 2)) == [47, 49]
    assert ids(latest(folder, 1_000))[-1] == 49
    (newest,) = names(folder, ".jsonl")
    (folder / newest).write_bytes((folder / newest).read_bytes()[:-5])  # torn, as a power cut leaves it
    assert ids(latest(folder, 1)) == [47]


def test_nobody_else_can_read_it(folder: Path) -> None:
    everybody = os.umask(0)
    try:
        written = PredictionLog(folder, max_bytes=1_000, max_seconds=1e6)
        for number in range(4):
            written.write(record(number, 600))
        wait_until(lambda: len(names(folder, ".jsonl.gz")) == 3)
        written.close()
    finally:
        os.umask(everybody)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def leave(folder: Path, content: bytes, packed: bool, name: str = "20260101T000000000000-1") -> Path:
    """Leave a file as if by another process."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tail", [b'{"id": 9', b'{"id": 9}', b"\0" * 100, b'{"id"\0\0\0\n', b'{"id": "\xff"}\n'])
def test_a_last_line_that_was_torn_is_passed_over_and_counted(folder: Path, tail: bytes, packed: bool) -> None:
    path = leave(folder, b'{"id": 0}\n{"id": 1}\n' + tail, packed)
    torn: list[Path] = []
    assert ids(read(folder, torn=torn)) == [0, 1]
    assert torn == [path]
    assert ids(Tail(folder).new()) == [0, 1]


def test_a_line_that_comes_while_it_is_read_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leave(folder, record(0) + b"\n" + b'{"id"', packed=False)
    parse = log._parse

    def go_on(line: bytes) -> Any:
        if not line.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b": 1}\n" + record(2) + b"\n")
        return parse(line)

    monkeypatch.setattr(log, "_parse", go_on)
    assert ids(read(folder)) == [0]
    assert ids(read(folder)) == [0, 1, 2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("middle", [b'{"id": ', b"\0\0", b"", b"5", b'{"id": "\xff"}'])
def test_a_line_that_is_broken_in_the_middle_is_named(folder: Path, middle: bytes, packed: bool) -> None:
    path = leave(folder, b'{"id": 0}\n' + middle + b'\n{"id": 2}\n', packed)
    with pytest.raises(InputError, match=rf"{path}, line 2 is no record"):
        list(read(folder))
    tail = Tail(folder)
    assert ids(tail.new()) == [0, 2]  # a controller has to go on
    assert (tail.new(), tail.faulty) == ([], 1)


def test_a_compressed_file_that_is_damaged_is_named(folder: Path) -> None:
    path = leave(folder, b'{"id": 0}\n' * 1000, packed=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{path} is damaged"):
        list(read(folder))
    tail = Tail(folder)
    tail.new()
    assert (tail.new(), tail.faulty) == ([], 1)


def test_a_log_that_is_not_there_says_so(folder: Path) -> None:
    with pytest.raises(InputError, match="there are no predictions yet"):
        list(read(folder))
    assert Tail(folder).new() == []


def test_only_what_is_asked_for_is_read(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    written = opened(max_bytes=500)
    for number in range(40):
        written.write(record(number, at=f"{start + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S.%fZ}"))
    since = (start + timedelta(seconds=25)).astimezone()
    assert ids(read(folder, since)) == ids(Tail(folder, since).new()) == list(range(25, 40))
    assert list(read(folder, datetime.now(UTC) + timedelta(hours=1))) == []


def test_a_file_keeps_its_time_when_it_is_compressed(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    os.utime(leave(folder, b'{"id": 0, "at": "2026-01-01T00:00:00.000000Z"}\n', packed=False), (1_800_000_000,) * 2)
    opened()
    wait_until(lambda: names(folder, "") == ["20260101T000000000000-1.jsonl.gz"])
    (path,) = folder.iterdir()
    assert path.stat().st_mtime == 1_800_000_000  # so that a reader need not open it to know that it is old


def test_what_is_older_than_any_is_kept_is_deleted(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    for day, packed in ((1, True), (2, False), (3, True)):  # the second is compressed first
        path = leave(folder, record(day) + b"\n", packed, f"2026010{day}T000000000000-1")
        os.utime(path, (time.time() - (86_400 * (4 - day)),) * 2)
    opened()
    wait_until(lambda: len(names(folder, ".gz")) == 3)
    opened(keep_seconds=1.5 * 86_400)
    wait_until(lambda: names(folder, "") == ["20260103T000000000000-1.jsonl.gz"])
    opened(max_bytes=1, keep_seconds=0).write(record(4))
    wait_until(lambda: len(names(folder, ".gz")) == 0)
    assert ids(read(folder)) == [4]  # which is at work, however old


def start_writer(name: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, name, folder], stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> list[str]:
    """Kill a writer, and give what it has acknowledged, the last line only if it is whole."""
    process.kill()
    said, _ = process.communicate()
    return said[: said.rfind("\n") + 1].split()


def test_two_processes_write_side_by_side_and_leave_each_others_files_alone(
    folder: Path, opened: Callable[..., PredictionLog]
) -> None:
    writers = [start_writer(name, folder) for name in ("a", "b")]
    for writer in writers:
        assert writer.stdout
        writer.stdout.readline()
    opened()  # looks at the folder, and so does each new file
    time.sleep(0.5)
    living = {str(writer.pid) for writer in writers}
    assert {name.removesuffix(".jsonl").partition("-")[2] for name in names(folder, ".jsonl")} >= living
    acknowledged = [name for writer in writers for name in kill(writer)]
    found = ids(read(folder))
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    for name in ("a", "b"):
        mine = [int(one[2:]) for one in found if one.startswith(name)]
        assert mine == list(range(len(mine)))


def test_what_a_killed_process_has_acknowledged_is_found(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    dice = random.Random(4711)
    acknowledged: list[str] = []
    for attempt in range(10):
        writer = start_writer(str(attempt), folder)
        assert writer.stdout
        acknowledged.append(writer.stdout.readline().strip())
        time.sleep(dice.uniform(0, 0.3))
        acknowledged += kill(writer)
    kept = {name: name for name in ids(read(folder))}
    assert len(acknowledged) > 100
    assert set(acknowledged) <= kept.keys()
    opened()
    wait_until(lambda: not names(folder, ".jsonl") and not names(folder, ".part"))
    again = ids(read(folder))
    assert len(again) == len(set(again))
    assert again == list(kept)


def test_a_kill_between_the_two_forms_of_a_file_doubles_nothing(
    folder: Path, opened: Callable[..., PredictionLog]
) -> None:
    content = b"".join(record(number) + b"\n" for number in range(50))
    for packed in (False, True):
        leave(folder, content, packed)
    (folder / "20260101T000000000000-1.jsonl.gz.part").write_bytes(b"half")
    tail = Tail(folder)
    assert ids(read(folder)) == ids(tail.new()) == list(range(50))
    opened()
    wait_until(lambda: names(folder, "") == ["20260101T000000000000-1.jsonl.gz"])
    assert ids(read(folder)) == list(range(50))
    assert tail.new() == []


def fill(written: PredictionLog, first: int = 0, size: int = 3_000) -> list[int]:
    """Write until there is no more space, and give what was acknowledged."""
    done: list[int] = []
    for number in range(first, first + 10_000):
        try:
            written.write(record(number, size))
        except LogFullError:
            return done
        done.append(number)
    pytest.fail("the disk does not become full")


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let a write that goes beyond a size be cut off in its middle, as a disk does that becomes full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_that_is_cut_off_leaves_nothing_behind(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    written = opened()
    with files_limited_to(100_000):
        done = fill(written)
    torn: list[Path] = []
    assert ids(read(folder, torn=torn)) == done
    assert torn == []
    written.write(record(-1))
    assert ids(read(folder)) == [*done, -1]
    assert (
        len({path.name.partition(".")[0] for path in folder.iterdir()}) == 2
    )  # a reader may have seen more of the first


def test_a_file_that_cannot_be_closed_is_left(
    folder: Path, opened: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    written, close = opened(max_bytes=100), os.close
    written.write(record(0))

    def fail(file: int) -> None:
        close(file)
        raise OSError(errno.EIO, "the network is away")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(LogFullError, match="the network is away"):
            written.write(record(1, 200))
    written.write(record(2))
    assert ids(read(folder)) == [0, 2]


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system: run `sudo make test`")
def test_a_full_disk_is_said_and_survived(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 100_000)
    written, tail = PredictionLog(small_disk, max_bytes=60_000, max_seconds=1e6), Tail(small_disk)
    done = fill(written)
    assert done
    done += fill(written, 20_000, 100)  # a shorter one may still find its place
    fill(written, 30_000)
    torn: list[Path] = []
    assert sorted(ids(read(small_disk, torn=torn))) == done
    assert torn == []
    ballast.unlink()
    for number in range(50_000, 50_010):
        written.write(record(number, 3_000))
        done.append(number)
    assert sorted(ids(read(small_disk))) == sorted(ids(tail.new())) == done
    written.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system: run `sudo make test`")
def test_a_file_stays_as_it_is_where_there_is_no_space_to_compress_it(small_disk: Path) -> None:
    leave(small_disk, b"".join(record(number, 3_000) + b"\n" for number in range(30)), packed=False)
    (small_disk / "ballast").write_bytes(b"x" * 140_000)
    PredictionLog(small_disk, **FOREVER).close()
    written = PredictionLog(small_disk, **FOREVER)
    time.sleep(0.3)
    assert names(small_disk, "l") == ["20260101T000000000000-1.jsonl"]
    assert names(small_disk, ".part") == names(small_disk, ".gz") == []
    assert ids(read(small_disk)) == list(range(30))
    written.close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogFullError, match="the prediction log cannot be written"):
        PredictionLog(tmp_path / "file/predictions", **FOREVER)


def test_a_folder_that_is_taken_away_is_made_again(folder: Path, opened: Callable[..., PredictionLog]) -> None:
    written = opened()
    written.write(record(0))
    shutil.rmtree(folder)
    time.sleep(1.1)
    written.write(record(1))
    assert ids(read(folder)) == [1]


def test_a_tail_gives_each_record_once_while_files_come_and_go(
    folder: Path, opened: Callable[..., PredictionLog]
) -> None:
    each, threads = 1_500, 4
    logs = [opened(max_bytes=30_000) for _ in range(2)]

    def write(thread: int) -> None:
        for number in range(each):
            logs[thread % 2].write(record(number, 600, thread=thread))

    writers = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for writer in writers:
        writer.start()
    tail, found = Tail(folder), []
    while any(writer.is_alive() for writer in writers):
        found += tail.new()
    found += tail.new()
    wait_until(lambda: len(names(folder, ".jsonl")) <= 2)
    assert tail.new() == []
    assert len(names(folder, ".gz")) > 50
    for thread in range(threads):
        assert sorted(one["id"] for one in found if one["thread"] == thread) == list(range(each))
    assert ids(Tail(folder).new()) == ids(read(folder))


def test_a_tail_waits_for_the_end_of_a_line(folder: Path) -> None:
    folder.mkdir()
    tail = Tail(folder)
    with (folder / "20260101T000000000000-1.jsonl").open("wb", buffering=0) as file:
        for part, expected in ((b'{"id"', []), (b': 0}\n{"id": 1}\n{', [0, 1]), (b'"id": 2}', []), (b"\n", [2])):
            file.write(part)
            assert ids(tail.new()) == expected
    assert tail.faulty == 0
