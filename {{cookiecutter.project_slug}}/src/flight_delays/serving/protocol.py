"""What happens before a request is one? Too many are refused at once, and clients that dawdle are let go.

A request gets in line when it is here as a whole, so a client that sends slowly keeps nobody else waiting; only what is
larger than the buffer is begun before. Refusing costs a small part of answering, since no task is made for it: with
several times the load that can be carried, what is let in is still answered in time.
"""

import asyncio
import functools
import json
from collections import deque
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flight_delays.serving import guard, metrics
from flight_delays.serving.ecs import Log
from flight_delays.serving.line import Line

MOST_RECEIVING = 16  # requests at work in a process that are not yet here as a whole
RECEIVE_SECONDS = 20.0  # from a connection's first moment, or a request's first byte, to its last byte
TELL_SECONDS = 10.0  # between two lines in the log about an overload
SEND_SECONDS = 20.0  # in which a client takes what is more than a buffer of its answer
MOST_HEAD = 2**16  # bytes of a request before its body, and again between and after the parts of one
_WISHES = frozenset({b"connection", b"http2-settings", b"upgrade"})
_NEVER_REFUSED = ("/health/", "/metrics")  # whoever watches must see an overload, and not take it for a death


def _answer(status: HTTPStatus, detail: str, *headers: tuple[bytes, bytes]) -> bytes:
    body = json.dumps({"detail": detail}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *guard.HEADERS, *headers]
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *(b"%s: %s" % pair for pair in own)]
    return b"\r\n".join([*lines, b"", body])


_OK = b"HTTP/1.1 2"
_CLOSE = (b"connection", b"close")
BUSY = _answer(
    HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once: try again in a moment", (b"retry-after", b"1")
)
_LATE = _answer(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time", _CLOSE)
_LARGE = _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too large", _CLOSE)
_WRONG = _answer(HTTPStatus.BAD_REQUEST, "this is not HTTP", _CLOSE)


class _Whole:
    """Sends the head of an answer together with the first of its body: half the calls, and half the packets."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_OK):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing came after."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with limits on requests at once, on their heads, and on the time that clients take."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _held: tuple[RequestResponseCycle, Any] | None = None  # a request that is not begun before it is whole
    _in_head = False  # whether a request's head is not complete
    _beside = 0  # bytes received of a request since its first one, or the last one of its body
    _moved = False  # whether one of these was in what came last
    log: ClassVar[Log | None] = None
    _told: ClassVar[float] = 0.0  # when it was last written down that there are too many requests
    _receiving: ClassVar[set["Protocol"]] = set()  # of this process: those with a request that is begun and not whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a client that connects wants to say something."""
        super().connection_made(transport)
        shared = vars(self.server_state)
        if "line" not in shared:
            shared["line"] = Line(self.loop)
        self._line: Line = shared["line"]
        self._whole = _Whole(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._arrived()
        self._held = None
        if self._unread:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is an endless head or trailer; what was no request leaves the connection idle."""
        self._moved = False
        self._unset_keepalive_if_required()
        self._feed(data)
        if not self._in_head:
            self._rest()
        if self._deadline and not self._moved:  # else most of it may belong to a body, or to the requests before
            self._beside += len(data)
            if self._beside > MOST_HEAD:
                self._end(_LARGE)

    def _feed(self, data: bytes) -> None:
        """Read what came; a wish for another protocol is passed over, as RFC 9110, section 7.8, allows."""
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as wish:  # it takes the body for the other protocol's
                    if self.parser.get_method() == b"CONNECT":
                        self.send_400_response("")
                        return
                    rest = rest[wish.args[0] :]
                    self._read_again()
        except httptools.HttpParserError:
            self.send_400_response("")

    def _read_again(self) -> None:
        """Read a head once more, without what is wished for there."""
        version = self.parser.get_http_version().encode()
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        kept = [pair for pair in self.headers if pair[0] not in _WISHES]
        asked = (word.strip() for name, value in self.headers if name == b"connection" for word in value.split(b","))
        kept += [(b"connection", word) for word in asked if word.lower() not in _WISHES]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.parser.feed_data(line + b"".join(b"%s: %s\r\n" % pair for pair in kept) + b"\r\n")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; after a part of an answer nothing more is said."""
        del msg
        self._end(_WRONG)

    def on_message_begin(self) -> None:
        """Start the clock for one request."""
        self._expect()
        self._in_head, self._beside, self._moved = True, 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin a request, or hold it until its body is here."""
        self._in_head = False
        if self.parser.should_upgrade():
            return  # it is read again
        super().on_headers_complete()
        self.headers = deque(maxlen=0)  # type: ignore[assignment]  # what comes after the body is no header

    def on_body(self, body: bytes) -> None:
        """Collect a body, and begin a large one."""
        self._beside, self._moved = 0, True
        super().on_body(body)
        if self._held and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._begin(*self._held)

    def on_message_complete(self) -> None:
        """Stop the clock: all of the request is here."""
        self._arrived()
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self._held:
            self._begin(*self._held)

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self._receiving.discard(self)
        self._whole.flush()
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() and not self._unread:
            self._unread = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Start the clock for a client that does not read its answer."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that clock."""
        super().resume_writing()
        if self._unread and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """Let go of a client that asks for nothing more; one that still reads a long answer has its own clock."""
        if self._unread:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.more_body and not cycle.waiting_for_100_continue and len(cycle.body) <= HIGH_WATER_LIMIT:
            self._held = cycle, app
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._held = None
        cycle.transport = self._whole  # type: ignore[assignment]
        if cycle.scope["path"].startswith(_NEVER_REFUSED):
            super()._start_asgi_task(cycle, app)
            return
        at_work = sum(not task.done() for task in self.tasks)  # what was just answered is still among them
        if self._line.has_room(at_work - len(self._receiving)) and not (
            cycle.more_body and len(self._receiving) >= MOST_RECEIVING
        ):
            if cycle.more_body:
                self._receiving.add(self)
            self._line.add(functools.partial(super()._start_asgi_task, cycle, app))
            return
        metrics.OVERLOADED.inc()
        self._tell()
        self.transport.write(BUSY)
        cycle.response_complete = True  # what is still to come of this request is passed over
        self.flow.resume_reading()
        if not cycle.keep_alive or cycle.scope["method"] == "HEAD":  # to which no body belongs
            self.transport.close()
        else:  # not at once: thousands of requests may stand in one packet
            self.loop.call_soon(self.on_response_complete if self.pipeline else self._rest)

    def _tell(self) -> None:
        """Write down that there are too many requests, once a while: a line for each would make it worse."""
        if self.log and self.loop.time() >= Protocol._told + TELL_SECONDS:
            Protocol._told = self.loop.time()
            self.log.say("too many requests at once: some are refused, see service_overloaded_total", "warning")

    def _rest(self) -> None:
        """Wait for a next request for a while, if nothing else is waited for."""
        if self._deadline is None and self.timeout_keep_alive_task is None and self._idle():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _idle(self) -> bool:
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def _expect(self) -> None:
        self._arrived()
        self._deadline = self.loop.call_later(RECEIVE_SECONDS, self._give_up)

    def _arrived(self) -> None:
        self._receiving.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """End a connection whose request did not come in time."""
        self._deadline = None
        if self.transport.is_closing():
            self.transport.abort()
        elif self._in_head or self._held or not self._idle():
            self._end(_LATE)
        else:  # nothing was asked, or what is asked has been answered before it was here
            self.transport.close()

    def _end(self, words: bytes) -> None:
        """Close the connection, with words where they cannot be taken for a part, or for another request's answer."""
        self._in_head, waiting = False, self._held is None and not self._idle()
        if waiting and (self.cycle.response_started or self.pipeline or not self.cycle.more_body):
            self.transport.abort()
        else:
            self.transport.write(words)
            self.transport.close()
