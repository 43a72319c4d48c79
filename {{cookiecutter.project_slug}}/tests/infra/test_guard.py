"""Is the service safe from those who ask without a key, too often, too much, too slowly or too many at once?"""

import asyncio
import contextlib
import hmac
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from prometheus_client import REGISTRY

from flight_delays import serving
from flight_delays.errors import InputError
from flight_delays.model import Model
from flight_delays.serving import door, guard, lane, line, metrics, protocol
from flight_delays.serving.app import build
from flight_delays.serving.ecs import Log
from flight_delays.serving.guard import HEADERS, Guard, Keys, Rates, make_key
from flight_delays.serving.lane import MAX_BYTES
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.release import STORE, Release, Store
from flight_delays.serving.roles import Served
from flight_delays.serving.service import Service

from tests.conftest import Project
from tests.tiny import connect, heard, running, tiny

MARKER = "Marker 4711"
SOON = 0.3  # seconds that are long for a test


class Slow:
    """A predictor that takes its time, in pieces in which others may run."""

    def __init__(self, model: Model, seconds: float = 0.0) -> None:
        self.model, self.seconds = model, seconds

    def predict(self, X: Any) -> Any:
        time.sleep(self.seconds)
        return self.model.predict(X)


@pytest.fixture(scope="module")
def made(fresh_project: Project) -> tuple[Model, list[dict[str, Any]]]:
    """A small model, and rows as they are sent to it."""
    model, rows = tiny(fresh_project, "binary")
    return model, json.loads(json.dumps(door.to_json(rows.slice(0, 80), model.contract)))


@pytest.fixture
def guarded(made: tuple[Model, list[dict[str, Any]]]) -> Callable[..., Guard]:
    """Stand a guard before the service of that model."""

    def make(keys: str = "", most: float = 0, **given: Any) -> Guard:
        return Guard(build(Service(Served.of(made[0], "7"), **given)), Keys(keys), Rates(most))

    return make


@pytest.fixture
def body(made: tuple[Model, list[dict[str, Any]]]) -> bytes:
    """A request of one row."""
    return json.dumps({"rows": made[1][:1]}).encode()


def ask(app: Any, path: str = "/predict", method: str = "POST", **sent: Any) -> httpx.Response:
    """Ask an application in this process."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(send())


def counted(name: str, **labels: str) -> float:
    """Read a counter."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def is_safe(answer: httpx.Response) -> bool:
    """Whether all headers that every answer must have are there."""
    return all(answer.headers.get(name.decode()) == value.decode() for name, value in HEADERS)


def test_without_keys_the_service_is_open_in_development_alone(
    monkeypatch: pytest.MonkeyPatch, guarded: Callable[..., Guard], body: bytes
) -> None:
    monkeypatch.delenv("TIER", raising=False)
    assert ask(guarded(), content=body).status_code == 200
    monkeypatch.setenv("TIER", "production")
    with pytest.raises(InputError, match="TIER=production needs keys in the environment variable API_KEYS"):
        Keys(" , ")


@pytest.mark.parametrize("text", ["me", "me:123", ":" + "0" * 64, "me:" + "G" * 64])
def test_what_is_no_list_of_keys_is_refused_and_no_hash_is_repeated(text: str) -> None:
    with pytest.raises(InputError, match="needs the form name:hash") as refusal:
        Keys(text)
    assert len(str(refusal.value).splitlines()) == 1
    assert text.partition(":")[2][:20] not in str(refusal.value) or len(text) < 5


def test_a_key_opens_the_service_by_either_header_and_another_one_does_not(
    guarded: Callable[..., Guard], body: bytes
) -> None:
    (mine, first), (other, _), (theirs, second) = make_key("me"), make_key("nobody"), make_key("them")
    app = guarded(f"{first}, {second}")
    for key in (mine, theirs):
        assert ask(app, content=body, headers={"X-API-Key": key}).status_code == 200
        assert ask(app, content=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for headers in ({}, {"X-API-Key": other}, {"Authorization": f"Basic {mine}"}, {"Authorization": f"Bearer {other}"}):
        refusal = ask(app, content=body, headers=headers)
        assert (refusal.status_code, refusal.headers["www-authenticate"]) == (401, "Bearer")
        assert is_safe(refusal)
    for path in ("/metrics", "/model", "/docs", "/openapi.json", "/nothing"):
        assert ask(app, path, "GET").status_code == 401
    assert ask(app, "/health/live", "GET").status_code == 200
    assert mine not in first


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_key(name) for name in ("a", "b", "c")]
    keys = Keys(",".join(line for _, line in made))
    seen: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watch(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    for key, name in ((made[0][0], "a"), (made[2][0], "c"), ("nobody's", None)):
        seen.clear()
        assert keys.client(key.encode()) == name
        assert len(seen) == 3
        assert {len(part) for pair in seen for part in pair} == {32}


def test_a_client_that_asks_too_often_is_told_to_wait_and_others_are_not(
    guarded: Callable[..., Guard], body: bytes
) -> None:
    (mine, first), (theirs, second) = make_key("me"), make_key("them")
    app = guarded(f"{first},{second}", 2)
    answers = [ask(app, content=body, headers={"X-API-Key": mine}) for _ in range(4)]
    assert answers[0].status_code == answers[1].status_code == 200
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["retry-after"] == "1" and is_safe(answer) for answer in refused)
    assert ask(app, content=body, headers={"X-API-Key": theirs}).status_code == 200
    assert ask(app, "/health/ready", "GET").status_code == 200


def test_what_is_allowed_comes_back_with_time_and_what_is_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(guard, "_MOST_CLIENTS", 3)
    rates = Rates(0.5)
    assert [rates.allow("a"), rates.allow("a")] == [True, False]
    now[0] = 1.9
    assert not rates.allow("a")
    now[0] = 2.0
    assert rates.allow("a")
    assert all(rates.allow(name) for name in "bcdefg")
    assert len(rates._left) == 3
    assert all(Rates(0).allow("a") for _ in range(100))


@pytest.mark.parametrize("given", ["a", "0b9c.D-e_f:1", "x" * 64])
def test_a_sane_request_id_is_taken_over(guarded: Callable[..., Guard], body: bytes, given: str) -> None:
    answer = ask(guarded(), content=body, headers={"X-Request-ID": given})
    assert (answer.headers["x-request-id"], answer.json()["id"]) == (given, given)


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "<script>"])
def test_another_request_id_is_replaced(guarded: Callable[..., Guard], body: bytes, given: str) -> None:
    answer = ask(guarded(), content=body, headers={"X-Request-ID": given})
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-request-id"] == answer.json()["id"]


def test_every_answer_has_safe_headers_and_a_request_id(
    guarded: Callable[..., Guard], made: tuple[Model, list[dict[str, Any]]], body: bytes
) -> None:
    app = guarded()
    answers = {
        200: ask(app, content=body),
        404: ask(app, "/nothing", "GET"),
        405: ask(app, "/predict", "GET"),
        413: ask(app, content=b" " * (MAX_BYTES + 1)),
        422: ask(app, content=b"{"),
    }
    broken = Guard(build(Service(Served.of(Model(made[0].contract, Failing()), "7"))), Keys(""), Rates(0))
    answers[500] = ask(broken, content=body)
    for status, answer in answers.items():
        assert answer.status_code == status
        assert is_safe(answer), status
        assert answer.headers["x-request-id"]


class Failing:
    """A predictor whose fault holds what a client sent."""

    def predict(self, X: Any) -> Any:
        del X
        raise ValueError(f"cannot read {MARKER}")


def test_a_fault_shows_neither_its_words_nor_its_traces(
    made: tuple[Model, list[dict[str, Any]]], body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Log("service")
    broken = Guard(build(Service(Served.of(Model(made[0].contract, Failing()), "8"))), Keys(""), Rates(0), log)
    before = counted("model_failures_total", version="8", role="champion", kind="ValueError")
    with running(broken) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=body, headers={"X-Request-ID": "the-one"})
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    log.close()
    written, complained = capfd.readouterr()
    assert answer.status_code == 500
    assert not [word for word in (MARKER, "Traceback", "ValueError", ".py") if word in answer.text]
    assert MARKER not in written + complained + page
    (line,) = (line for line in map(json.loads, written.splitlines()) if line["log.level"] == "error")
    assert (line["http.request.id"], line["url.path"], line["error.type"]) == ("the-one", "/predict", "ValueError")
    assert "service.py" in line["error.stack_trace"]
    assert counted("model_failures_total", version="8", role="champion", kind="ValueError") == before + 1


def test_a_path_that_a_client_made_up_is_not_counted_under_its_name(guarded: Callable[..., Guard]) -> None:
    before = counted("service_requests_total", path="other", status="404")
    assert ask(guarded(), f"/{MARKER}", "GET").status_code == 404
    assert counted("service_requests_total", path="other", status="404") == before + 1
    assert MARKER.encode() not in metrics.page()


def test_a_giant_body_is_refused_with_and_without_its_length(guarded: Callable[..., Guard]) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BYTES // 2**20 + 1):
            yield b" " * 2**20

    with running(guarded()) as port:
        place = f"http://127.0.0.1:{port}/predict"
        assert httpx.post(place, content=b" " * (MAX_BYTES + 1)).status_code == 413
        assert httpx.post(place, content=chunks()).status_code == 413
        assert httpx.post(place, content=b" " * MAX_BYTES).status_code == 422
        assert httpx.post(place, content=b'{"rows": [' + b"[" * 500_000).status_code == 422
        assert httpx.post(place, content=b'{"rows": [' + b'{"a": ' * 500_000).status_code == 422


def test_a_head_without_an_end_is_refused(guarded: Callable[..., Guard]) -> None:
    with running(guarded()) as port, connect(port, b"GET /model HTTP/1.1\r\nx: ") as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"x" * 2**16)
        assert heard(client)[:12] in {b"HTTP/1.1 431", b""}  # nothing, if the reset overtook it


def test_a_head_that_comes_in_parts_behind_a_large_body_is_no_endless_one(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MOST_HEAD", 1000)
    large = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n" + b" " * 5000
    with running(guarded()) as port, connect(port, large + b"GET /health/live HTTP/1.1\r\nho") as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 422 ")
        client.sendall(b"st: a\r\nconnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 OK\r\n" in heard(client)


def test_trailers_without_an_end_are_refused(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(protocol, "MOST_HEAD", 1000)
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    whole = head + b"%x\r\n%s\r\n0\r\nx: " % (len(body), body)
    with running(guarded()) as port, connect(port, whole) as brief, connect(port, whole) as endless:
        time.sleep(SOON)
        brief.sendall(b"a" * 500 + b"\r\n\r\n")
        assert heard(brief).startswith(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                endless.sendall(b"a" * 500)
                time.sleep(SOON / 10)
        assert heard(endless)[:12] in {b"HTTP/1.1 431", b""}  # nothing, if the reset overtook it


WISH = b"connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("parts", [1, 2])
def test_a_wish_for_another_protocol_changes_nothing(guarded: Callable[..., Guard], body: bytes, parts: int) -> None:
    """Java's own client has it in each request by default."""
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\n" + WISH + b"content-length: %d\r\n\r\n" % len(body)
    with running(guarded()) as port, connect(port) as client:
        for part in [head + body] if parts == 1 else [head, body]:
            client.sendall(part)
            time.sleep(SOON / 3)
        said = heard(client)
    assert said.count(b"HTTP/1.1") == 1
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["predictions"]


def test_what_looks_like_a_request_in_a_body_is_none(guarded: Callable[..., Guard]) -> None:
    hidden = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
    wish = WISH.replace(b", close", b"")
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\n" + wish + b"content-length: %d\r\n\r\n" % len(hidden)
    with running(guarded(), timeout_keep_alive=1) as port, connect(port, head) as client:
        time.sleep(SOON / 3)
        client.sendall(hidden)
        said = heard(client)
    assert said.count(b"HTTP/1.1") == 1
    assert said.startswith(b"HTTP/1.1 422 ")


def test_many_wishes_in_one_packet_are_all_answered(guarded: Callable[..., Guard]) -> None:
    one = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    last = one.replace(b"upgrade\r\n", b"upgrade, close\r\n", 1)
    with running(guarded()) as port, connect(port, one * 2000 + last) as client:
        assert heard(client).count(b"HTTP/1.1 200 OK\r\n") == 2001


def test_a_tunnel_is_refused(guarded: Callable[..., Guard]) -> None:
    with running(guarded()) as port, connect(port, b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\nx") as client:
        assert heard(client).startswith(b"HTTP/1.1 400 Bad Request\r\n")


class Noted:
    """A transport that notes each of its writes."""

    def __init__(self, transport: asyncio.Transport, sent: list[bytes]) -> None:
        self._transport, self._sent = transport, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._sent.append(data)
        self._transport.write(data)


def test_an_answer_is_sent_in_one_piece(
    guarded: Callable[..., Guard], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    whole = protocol._Whole
    monkeypatch.setattr(protocol, "_Whole", lambda transport: whole(Noted(transport, sent)))  # type: ignore[arg-type]
    asked = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    with running(guarded()) as port, connect(port, asked + body) as client:
        client.recv(65536)
    (answer,) = (data for data in sent if b"predictions" in data)
    head, _, answered = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(answered) in head
    assert json.loads(answered)["predictions"]


def test_an_answer_without_a_body_comes_at_all(guarded: Callable[..., Guard]) -> None:
    with running(guarded()) as port, connect(port) as client:
        for _ in range(2):
            client.sendall(b"HEAD /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        client.sendall(b"HEAD /openapi.json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert heard(client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_is_not_http_is_refused_in_safe_words(guarded: Callable[..., Guard]) -> None:
    with running(guarded()) as port, connect(port, b"\x16\x03\x01" + MARKER.encode() + b"\r\n\r\n") as client:
        said = heard(client)
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"x-content-type-options: nosniff" in said
    assert MARKER.encode() not in said


def test_a_client_that_dribbles_is_let_go(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_SECONDS", SOON)
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n" % len(body)
    large = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n" + b" " * 200_000
    with running(guarded()) as port:
        started = time.monotonic()
        silent, in_head, in_body = connect(port), connect(port, head), connect(port, head, b"\r\n", body[:5])
        in_large, after = connect(port, large), connect(port, head, b"\r\n", body)
        said = after.recv(65536)
        after.sendall(b"\r\n")  # which is no request, and must not keep the connection
        assert said.startswith(b"HTTP/1.1 200")
        assert heard(silent) == b""
        for client in (in_head, in_body, in_large):
            assert heard(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - started < 10 * SOON
        for client in (silent, in_head, in_body, in_large, after):
            client.close()


def test_after_an_early_answer_no_second_one_is_said(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_SECONDS", SOON)
    _, line = make_key("me")
    refused = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n" + b" " * 100_000
    with running(guarded(line)) as port, connect(port, refused) as client:
        assert heard(client).count(b"HTTP/1.1") == 1


def test_an_idle_connection_is_let_go(guarded: Callable[..., Guard]) -> None:
    ask_ = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    with running(guarded(), timeout_keep_alive=1) as port, connect(port, ask_) as client, connect(port, ask_) as other:
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert other.recv(65536).startswith(b"HTTP/1.1 200")
        other.sendall(b"\r\n")  # this is no request
        assert (heard(client), heard(other)) == (b"", b"")


def test_slow_clients_keep_nobody_waiting(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 4)
    monkeypatch.setattr(protocol, "MOST_RECEIVING", 6)
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
    with running(guarded()) as port:
        slow = [connect(port, head + b"{") for _ in range(20)] + [
            connect(port, head, b" " * 100_000) for _ in range(20)
        ]
        time.sleep(SOON)
        assert httpx.post(f"http://127.0.0.1:{port}/predict", content=body).status_code == 200
        for client in slow:
            client.close()


def test_the_time_in_which_a_client_sends_is_not_the_service_s(guarded: Callable[..., Guard], body: bytes) -> None:
    before = counted("service_request_seconds_sum")
    large = body + b" " * 100_000
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(large)
    with running(guarded()) as port, connect(port, head, large[:-1]) as client:
        time.sleep(2 * SOON)
        client.sendall(large[-1:])
        assert heard(client).startswith(b"HTTP/1.1 200 OK\r\n")
    assert counted("service_request_seconds_sum") - before < SOON


def test_a_client_that_does_not_read_is_let_go(
    guarded: Callable[..., Guard], made: tuple[Model, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SEND_SECONDS", SOON)
    large = json.dumps({"rows": made[1][:64]}).encode()
    one = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(large) + large
    with running(guarded(), timeout_keep_alive=60) as port, connect(port, seconds=10) as client:
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):  # reset or broken, whichever comes first
            while time.monotonic() < started + 20:
                client.sendall(one)
        assert time.monotonic() < started + 20
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200


def test_too_many_requests_at_once_are_refused_at_once_and_the_others_answered(
    made: tuple[Model, list[dict[str, Any]]], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 4)
    monkeypatch.setattr(lane, "_BRIEF", 0.0)  # so that each is answered in a thread, as large ones are
    slow = Guard(build(Service(Served.of(Model(made[0].contract, Slow(made[0], 2 * SOON)), "9"))), Keys(""), Rates(0))
    before = counted("service_overloaded_total")
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    with running(slow) as port:
        clients = [connect(port, head, body) for _ in range(12)]
        for path, words in (("/health/live", b"alive"), ("/metrics", b"service_overloaded_total")):
            with connect(port, b"GET %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % path.encode()) as watcher:
                assert words in heard(watcher)
        at_once = [select.select([client], [], [], 0)[0] for client in clients]
        answers = [heard(client) for client in clients]
        for client in clients:
            client.close()
        assert httpx.post(f"http://127.0.0.1:{port}/predict", content=body).status_code == 200
    refused = [answer.startswith(b"HTTP/1.1 503 ") for answer in answers]
    assert [bool(here) for here in at_once] == refused
    assert [answer.startswith(b"HTTP/1.1 200 ") for answer in answers] == [not one for one in refused]
    assert sum(refused) == 8 == counted("service_overloaded_total") - before
    for answer in (answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")):
        assert b"\r\nretry-after: 1\r\n" in answer
        assert all(b"\r\n%s: %s\r\n" % pair in answer for pair in HEADERS)


def test_the_longer_requests_take_the_fewer_may_wait(made: tuple[Model, list[dict[str, Any]]], body: bytes) -> None:
    slow = Guard(build(Service(Served.of(Model(made[0].contract, Slow(made[0], SOON / 10)), "9"))), Keys(""), Rates(0))
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)

    def answered(port: int) -> int:
        """Ask by as many as may wait where requests are quick, all at once."""
        clients = [connect(port, b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n") for _ in range(line.MOST_WAITING)]
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")  # so that none is still to be let in
        for client in clients:
            client.sendall(head + body)
        refusals = 0
        for client in clients:
            with client:
                refusals += heard(client).startswith(b"HTTP/1.1 503 ")
        return line.MOST_WAITING - refusals

    with running(slow) as port:
        assert answered(port) > 2 * line.LEAST_WAITING  # nobody knows yet
        assert abs(answered(port) - line.LEAST_WAITING) <= 2  # as one is answered, another may come


def test_what_is_answered_takes_no_room(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 1)
    inner = guarded()

    async def dawdling(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        time.sleep(SOON)  # the answer is out, and the client's next request here before the task's end is known

    one = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with running(dawdling, loop="uvloop") as port, connect(port) as client:
        for _ in range(3):
            client.sendall(one)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_packet_are_all_told_of_an_overload(
    guarded: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 0)
    let_in = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    many = b"GET /model HTTP/1.1\r\nhost: a\r\n\r\n" * 2000
    last = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    with running(guarded()) as port:
        for first in (b"", let_in):  # behind which the others wait in line
            with connect(port, first + many + last) as client:
                said = heard(client)
            assert said.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2000
            assert said.count(b"HTTP/1.1 200 OK\r\n") == (2 if first else 1)


def test_a_client_that_goes_away_is_no_fault_of_the_service(
    guarded: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("service_requests_total", path="/predict", status="499")
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
    with running(guarded()) as port:
        connect(port, head, b" " * 100_000).close()
        until = time.monotonic() + 10
        while counted("service_requests_total", path="/predict", status="499") == before and time.monotonic() < until:
            time.sleep(0.01)
    assert counted("service_requests_total", path="/predict", status="499") == before + 1
    assert not caplog.records


@pytest.mark.parametrize("without_log", [False, True])
def test_a_log_that_cannot_be_written_refuses_or_is_counted_as_configured(
    guarded: Callable[..., Guard], body: bytes, tmp_path: Path, without_log: bool
) -> None:
    log = PredictionLog(tmp_path / "log", max_bytes=10**6, max_seconds=10**6)
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").write_text("a file where the folder was")
    before = counted("service_log_failures_total")
    answer = ask(guarded(log=log, without_log=without_log), content=body)
    log.close()
    assert answer.status_code == (200 if without_log else 503)
    assert is_safe(answer)
    assert ("retry-after" in answer.headers) is not without_log
    assert counted("service_log_failures_total") == before + 1


@pytest.fixture
def stored(finished_project: Project, copy: Callable[[Project], Project]) -> Project:
    """A copy of the sample project whose model is in its store."""
    project = copy(finished_project)
    store = Store(project.path / STORE)
    store.add("1", project.path / "models/candidate")
    store.publish(Release("1"))
    return project


def start(project: Project, **environment: str) -> subprocess.Popen[str]:
    """Start the service of a project's store, as people do."""
    own = {**os.environ, **environment}
    for name in {"MLFLOW_TRACKING_URI", "SERVING_DIR", "API_KEYS", "TIER"} - environment.keys():
        own.pop(name, None)
    command = [sys.executable, "-m", serving.__name__, "--port", "0", "--alone"]
    return subprocess.Popen(
        command, cwd=project.path, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_production_does_not_start_without_keys_and_says_so_in_one_line(stored: Project) -> None:
    process = start(stored, TIER="production")
    said, complained = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert complained.splitlines() == [
        # pragma: allowlist nextline secret
        "error: TIER=production needs keys in the environment variable API_KEYS: `make key NAME=…` makes one"
    ]


def test_what_is_begun_is_answered_before_the_service_stops(stored: Project) -> None:
    contract = stored.contract
    rows = pq.read_table(stored.path / "data/test.parquet").slice(0, 4)
    sent = json.dumps({"rows": door.to_json(rows, contract)})
    answered: set[str] = set()

    def go_on(port: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.suppress(OSError, http.client.HTTPException):  # not begun any more
            while True:
                client.request("POST", "/predict", sent)
                answer = client.getresponse()
                text = answer.read()
                if answer.status == httpx.codes.OK:
                    answered.add(json.loads(text)["id"])
        client.close()

    process = start(stored)
    assert process.stdout
    port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition(",")[0])
    threads = [threading.Thread(target=go_on, args=(port,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    for thread in threads:
        thread.join()
    assert (process.returncode, complained) == (0, "")
    written = b"".join(path.read_bytes() for path in (stored.path / STORE / "predictions").glob("*.jsonl"))
    assert {json.loads(line)["id"] for line in written.splitlines()} == answered
    assert len(answered) > 8
