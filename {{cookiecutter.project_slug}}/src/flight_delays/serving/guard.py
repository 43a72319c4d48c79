"""Who may ask, how often, and what leaves the house? Keys, rates, request ids, safe headers, no inner words."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import Counter
from starlette.requests import ClientDisconnect

from flight_delays.errors import InputError
from flight_delays.serving import metrics
from flight_delays.serving.ecs import Log, trace_of
from flight_delays.settings import PRODUCTION, tier

API_KEYS = "API_KEYS"  # pragma: allowlist secret
_OPEN = ("/health/live", "/health/ready")
_PATHS = ("/predict", "/explain", "/model", "/contract", "/release", "/example", "/metrics", *_OPEN)
_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,64}")
_GONE = 499  # in counts only: the client went away before it was answered
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_MOST_CLIENTS = 10_000  # of which it is remembered how often they asked

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Keys:
    """The keys that open the service; without any, it is open, which only development allows.

    Parameters
    ----------
    text
        Of the variable `API_KEYS`: `name:hash`, comma-separated, where the hash is the SHA-256 of the key in hex
        digits. So whoever reads the environment has no key.

    Raises
    ------
    InputError
        The text is none of this kind, or is empty outside of development.
    """

    def __init__(self, text: str) -> None:
        self._known: list[tuple[str, bytes]] = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, digits = entry.partition(":")
            if not name or not re.fullmatch(r"[0-9a-f]{64}", digits):
                raise InputError(
                    f"{API_KEYS}: {name[:20]!r} needs the form name:hash, as `make key NAME={name or 'me'}` prints"
                )
            self._known.append((name, bytes.fromhex(digits)))
        if not self._known and tier() == PRODUCTION:
            raise InputError(
                f"TIER=production needs keys in the environment variable {API_KEYS}: `make key NAME=…` makes one"
            )

    def client(self, key: bytes) -> str | None:
        """Name whose key this is; `None` if nobody's. All are compared, each in constant time.

        Parameters
        ----------
        key
            As sent.
        """
        if not self._known:
            return ""
        found, sent = None, hashlib.sha256(key).digest()
        for name, digest in self._known:
            if hmac.compare_digest(digest, sent):
                found = name
        return found


def make_key(name: str) -> tuple[str, str]:
    """Make a new key: what the client keeps, and what goes into `API_KEYS`.

    Parameters
    ----------
    name
        The client's.
    """
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


class Rates:
    """How often each client may ask: so many requests a second on average, as many again at once.

    Parameters
    ----------
    most
        Requests a second; 0 for any number. Each process counts for itself.
    """

    def __init__(self, most: float) -> None:
        self._most, self._at_once = most, max(most, 1.0)
        self._left: dict[str, tuple[float, float]] = {}

    def allow(self, client: str) -> bool:
        """Say whether one more request is allowed, and count it.

        Parameters
        ----------
        client
            Its name or address.
        """
        if not self._most:
            return True
        now = time.monotonic()
        left, seen = self._left.get(client, (self._at_once, now))
        left = min(self._at_once, left + (now - seen) * self._most)
        if len(self._left) >= _MOST_CLIENTS and client not in self._left:
            self._left.pop(next(iter(self._left)))
        self._left[client] = (left - 1 if left >= 1 else left, now)
        return left >= 1


class Guard:
    """Stands before the application, as an application itself.

    Parameters
    ----------
    app
        What answers those let in.
    keys
        That open it.
    rates
        How often.
    log
        Where each request is written; `None` for nowhere, as tests and measurements have it.
    """

    def __init__(self, app: App, keys: Keys, rates: Rates, log: Log | None = None) -> None:
        self.app, self.keys, self.rates, self.log = app, keys, rates, log
        self._counters: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, ended = time.perf_counter_ns(), 0
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        name = given.decode() if _ID.fullmatch(given) else secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["id"] = name
        own = [*HEADERS, (b"x-request-id", name.encode())]
        path, status, fault = scope["path"], 0, None
        known = path in _PATHS  # what a client made up is neither counted nor written down

        async def answer(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status, ended = message["status"], time.perf_counter_ns()
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            if refusal := self._refusal(path, headers, scope):
                await _say(answer, *refusal)
            else:
                await self.app(scope, receive, answer)
        except ClientDisconnect:  # nobody is there to be answered
            status = _GONE
        except Exception as error:
            fault = error
            if not status:
                await _say(answer, 500, "this is a fault of the service, and it is in its log", [])
        finally:
            self._count(path if known else "other", status)
            if self.log:
                taken = (ended or time.perf_counter_ns()) - begun
                parent = headers.get(b"traceparent")
                trace = (parent and trace_of(parent)) or name
                client, answered = state.get("client", ""), state.get("answered")
                self.log.request(
                    scope["method"], path if known else None, status, taken, name, trace, client, answered, fault
                )

    def _count(self, path: str, status: int) -> None:
        counter = self._counters.get((path, status))
        if counter is None:  # to find it takes as long as to write a line
            counter = self._counters[path, status] = metrics.REQUESTS.labels(path, str(status))
        counter.inc()

    def _refusal(
        self, path: str, headers: dict[bytes, bytes], scope: MutableMapping[str, Any]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        if path in _OPEN:
            return None
        authorization = headers.get(b"authorization", b"")
        bearer = authorization[7:] if authorization[:7].lower() == b"bearer " else b""
        client = self.keys.client(headers.get(b"x-api-key") or bearer)
        if client is None:
            return 401, "a valid key is needed, as `Authorization: Bearer KEY`", [(b"www-authenticate", b"Bearer")]
        scope["state"]["client"] = client
        if not self.rates.allow(client or (scope.get("client") or ("",))[0]):
            return 429, "too many requests of this client: try again in a moment", [(b"retry-after", b"1")]
        return None


async def _say(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"detail": detail}).encode()
    sized = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": body})
