"""Does the service write a line a request, in fields that Elastic knows, and does it answer when nobody reads them?"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from flight_delays.errors import InputError
from flight_delays.serving import controller, door, ecs, moves
from flight_delays.serving.app import build
from flight_delays.serving.ecs import Log, trace_of
from flight_delays.serving.guard import Guard, Keys, Rates, make_key
from flight_delays.serving.release import SHADOW, Release, Store
from flight_delays.serving.roles import Served
from flight_delays.serving.service import Service
from flight_delays.serving.worker import tell

from tests.conftest import MARKER, Project
from tests.service import environment
from tests.tiny import running, tiny

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"  # pragma: allowlist secret
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ALWAYS = {
    "@timestamp", "log.level", "message", "ecs.version", "service.name", "service.version", "service.environment",
    "event.dataset",
}  # fmt: skip
OF_A_REQUEST = ALWAYS | {
    "event.duration", "event.outcome", "http.request.method", "http.request.id", "http.response.status_code",
    "trace.id",
}  # fmt: skip
ANSWERED = {"url.path", "labels.model_version", "labels.role", "labels.release"}
Fields = dict[str, Any]


class Pipe:
    """A log that is read when it is asked for."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.dropped = 0
        self.log = Log("service", self._count, writer)
        self._writer = writer

    def _count(self, lines: int) -> None:
        self.dropped += lines

    def read(self) -> list[Fields]:
        """Close it, and give the lines."""
        found: list[bytes] = []

        def take() -> None:
            with os.fdopen(self.reader, "rb") as file:
                found.extend(file)

        reading = threading.Thread(target=take)
        reading.start()
        self.log.close()
        os.close(self._writer)
        reading.join()
        return [json.loads(line) for line in found]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """A log into a pipe."""
    monkeypatch.delenv("LOG", raising=False)
    return Pipe()


@pytest.fixture(scope="module")
def body(fresh_project: Project) -> bytes:
    """A request of one row."""
    model, rows = tiny(fresh_project, "binary")
    return json.dumps({"rows": door.to_json(rows.slice(0, 1), model.contract)}).encode()


@pytest.fixture(scope="module")
def service(fresh_project: Project) -> Service:
    """A small service."""
    return Service(Served.of(tiny(fresh_project, "binary")[0], "7"))


def test_each_request_is_one_line_in_known_fields(service: Service, pipe: Pipe, body: bytes) -> None:
    key, entry = make_key("shop")
    sent = {"authorization": f"Bearer {key}", "x-request-id": "the-one", "traceparent": PARENT}
    with running(Guard(build(service), Keys(entry), Rates(0), pipe.log)) as port:
        place = f"http://127.0.0.1:{port}"
        assert httpx.post(f"{place}/predict", content=body, headers=sent).status_code == 200
        assert httpx.post(f"{place}/predict", content=b"{", headers=sent).status_code == 422
        assert httpx.get(f"{place}/model").status_code == 401
        assert httpx.get(f"{place}/{MARKER}?{MARKER}", headers=sent | {"traceparent": MARKER}).status_code == 404
    answered, refused, unknown, lost = pipe.read()
    assert set(answered) == OF_A_REQUEST | ANSWERED | {"client.user.name"}
    assert answered["http.request.id"] == "the-one" != answered["trace.id"] == TRACE
    assert (answered["client.user.name"], answered["labels.model_version"]) == ("shop", "7")
    assert (answered["url.path"], answered["http.response.status_code"]) == ("/predict", 200)
    assert abs(datetime.fromisoformat(answered["@timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert 10**5 < answered["event.duration"] < 10**10
    assert (refused["event.outcome"], refused["http.response.status_code"]) == ("success", 422)
    assert set(unknown) == OF_A_REQUEST | {"url.path"}
    assert set(lost) == OF_A_REQUEST | {"client.user.name"}
    assert lost["trace.id"] == lost["http.request.id"]
    assert MARKER not in json.dumps(lost)


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (PARENT, TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", None),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (PARENT.upper(), None),
        (PARENT[:-1], None),
        ("", None),
    ],
)
def test_a_trace_is_taken_from_a_valid_header_alone(header: str, trace: str | None) -> None:
    assert trace_of(header.encode()) == trace


def test_a_reader_that_is_stuck_stops_no_answer_and_what_is_dropped_is_counted(
    service: Service, pipe: Pipe, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecs, "_MOST", 50)
    count = 400  # more than memory and a pipe take
    with running(Guard(build(service), Keys(""), Rates(0), pipe.log)) as port, httpx.Client() as client:
        for _ in range(count):
            assert client.post(f"http://127.0.0.1:{port}/predict", content=body).status_code == 200
        time.sleep(0.2)
        dropped = pipe.dropped
    assert dropped > 50
    assert len(pipe.read()) == count - dropped


def test_a_reader_that_has_gone_stops_no_answer(service: Service, pipe: Pipe, body: bytes) -> None:
    os.close(pipe.reader)
    with running(Guard(build(service), Keys(""), Rates(0), pipe.log)) as port:
        for _ in range(3):
            assert httpx.post(f"http://127.0.0.1:{port}/predict", content=body).status_code == 200
    pipe.log.close()
    assert pipe.dropped == 3


def test_a_process_ends_though_nobody_reads_its_last_lines(pipe: Pipe) -> None:
    for number in range(1000):
        pipe.log.say(f"line {number} {'x' * 250}")
    started = time.monotonic()
    pipe.log.close()
    assert time.monotonic() - started < 3
    assert pipe.read()


@pytest.mark.parametrize(("level", "lines"), [("info", 2), ("warning", 1), ("", 2)])
def test_how_much_is_written_can_be_chosen(monkeypatch: pytest.MonkeyPatch, level: str, lines: int) -> None:
    monkeypatch.setenv("LOG", level)
    pipe = Pipe()
    pipe.log.request("POST", "/predict", 200, 1, "a", "a", "", None, None)
    pipe.log.request("POST", "/predict", 503, 1, "a", "a", "", None, None)
    assert [line["http.response.status_code"] for line in pipe.read()] == [200, 503][-lines:]


def test_in_a_terminal_only_what_is_wrong_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG", raising=False)
    inner, outer = os.openpty()
    assert not Log("service", file=outer).all
    assert Log("service", file=os.pipe()[1]).all
    for file in (inner, outer):
        os.close(file)


def test_a_level_that_is_none_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG", "loud")
    with pytest.raises(InputError, match="the environment variable LOG is 'loud': use one of info, warning"):
        Log("service")


def test_words_of_libraries_come_in_the_same_form_without_those_of_a_fault(pipe: Pipe) -> None:
    before = logging.root.handlers[:], logging.root.level
    pipe.log.take_over()
    try:
        try:
            raise ValueError(MARKER)
        except ValueError:
            logging.getLogger("a_library").exception("Task was never retrieved\n%s", MARKER)
        logging.getLogger("uvicorn").info("too quiet to be written")
    finally:
        logging.root.handlers[:], logging.root.level = before
    (line,) = pipe.read()
    assert set(line) == ALWAYS | {"error.type", "error.stack_trace"}
    assert (line["message"], line["log.level"], line["error.type"]) == (
        "Task was never retrieved", "error", "ValueError",
    )  # fmt: skip
    assert MARKER not in json.dumps(line)


@pytest.mark.parametrize(("commit", "version"), [("4711abc", "4711abc"), ("", "none")])
def test_code_that_is_not_installed_has_the_version_of_its_image(
    monkeypatch: pytest.MonkeyPatch, commit: str, version: str
) -> None:
    monkeypatch.setattr(ecs, "SERVICE", "nobody-installed-this")
    monkeypatch.setenv("COMMIT", commit)
    pipe = Pipe()
    pipe.log.say("it runs", "warning")
    assert [line["service.version"] for line in pipe.read()] == [version]


def test_a_decision_of_the_controller_is_a_line(fresh_project: Project, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish(Release("1"))
    release = moves.challenge(store, "2", SHADOW, 0.5, "it has no model")
    process = subprocess.Popen(
        [sys.executable, "-m", controller.__name__],
        cwd=fresh_project.path,
        env=environment() | {"SERVING_DIR": str(store.folder)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    line = json.loads(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=30)
    assert set(line) == ALWAYS | {"event.action", "event.reason", "labels.challenger_version", "labels.release"}
    assert (line["event.dataset"], line["event.action"]) == ("controller.event", "roll back")
    assert (line["labels.challenger_version"], line["labels.release"]) == ("2", release.id)


def test_what_is_served_and_what_is_refused_are_lines(service: Service, pipe: Pipe) -> None:
    service.served.refused = {"8": "it does not answer its golden rows"}
    try:
        tell(pipe.log, service.served)
    finally:
        service.served.refused = {}
    served, refused = pipe.read()
    assert (served["event.action"], served["labels.model_version"]) == ("release", "7")
    assert (refused["log.level"], refused["labels.model_version"]) == ("error", "8")
    assert refused["event.reason"] == "it does not answer its golden rows"
