"""What happens before a request is one? Too many are refused at once, and clients that dawdle are let go.

Refusing costs a small part of answering, since no task is made for it: with several times the load that can be carried,
what is let in is still answered in time.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flight_delays.serving import metrics

MOST_WAITING = 32  # requests at work or waiting for it in a process: some ten milliseconds of work
RECEIVE_SECONDS = 20.0  # from a connection's first moment, or a request's first byte, to its last byte
_NEVER_REFUSED = ("/health/", "/metrics")  # whoever watches must see an overload, and not take it for a death
_TOO_MANY = b'{"detail":"too many requests at once: try again in a moment"}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"cache-control: no-store\r\nx-content-type-options: nosniff\r\ncontent-length: %d\r\n\r\n%s"
) % (len(_TOO_MANY), _TOO_MANY)


class Protocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with a limit on requests at once and a time to receive them."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a client that connects wants to say something."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._arrived()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start the clock for one request."""
        self._expect()
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Stop the clock: all of the request is here."""
        self._arrived()
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Let go of a client that asks for nothing more, and at once of one that does not read its answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if len(self.tasks) < MOST_WAITING or cycle.scope["path"].startswith(_NEVER_REFUSED):
            super()._start_asgi_task(cycle, app)
            return
        metrics.OVERLOADED.inc()
        self.transport.write(BUSY)
        cycle.response_complete = True  # what is still to come of this request is passed over
        if not cycle.keep_alive:
            self.transport.close()

    def _expect(self) -> None:
        self._arrived()
        self._deadline = self.loop.call_later(RECEIVE_SECONDS, self._give_up)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """End a connection whose request did not come in time; a request half received is never answered."""
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            text = b'{"detail":"the request did not arrive in time"}'
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(text), text)
            )
            self.transport.close()
        else:
            self.transport.abort()
