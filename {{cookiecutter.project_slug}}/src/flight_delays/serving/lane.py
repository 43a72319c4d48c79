"""How is a prediction asked for? Past FastAPI, whose routing takes longer than the prediction; the rest goes to it."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response

from flight_delays.serving import door, leaving, metrics
from flight_delays.serving.guard import App, Receive, Send
from flight_delays.serving.roles import Loaded, Roles
from flight_delays.serving.service import MAX_LISTED, RefusedError, Service

PREDICT, LIVE, READY = "/predict", "/health/live", "/health/ready"
MAX_BYTES = 16 * 2**20  # of a request's body
_BRIEF = 4.0  # milliseconds of prediction; what takes longer is done in a thread, so that the others need not wait
_BRIEF_BYTES = 256 * 2**10  # of a body that is read in about that time
_one = CapacityLimiter(1)  # two threads that both want the interpreter get less done than one

_encode = msgspec.json.Encoder().encode


class Lane:
    """Leads requests for predictions and for the service's health past the application.

    Parameters
    ----------
    app
        Answers all others.
    service
        Answers.
    """

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service = app, service
        self._ways: dict[tuple[str, str], Callable[[Service, Request], Awaitable[Response]]] = {
            ("POST", PREDICT): predict,
            ("GET", LIVE): live,
            ("GET", READY): ready,
        }

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await way(self._service, Request(scope, receive))
        except RefusedError as refusal:
            response = refused(refusal)
        await response(scope, receive, send)


async def predict(service: Service, request: Request) -> Response:
    """Predict rows.

    Parameters
    ----------
    service
        Answers.
    request
        With the rows.
    """
    content = await body(request)  # the client's time
    start, roles, name = time.perf_counter(), service.served.now, _name(request)
    key = request.headers.get("x-sticky-key", name)
    if len(content) < _BRIEF_BYTES:
        sent = service.read(roles, content)
    else:
        sent = await aside(service.read, roles, content)
    brief = roles.expected(len(sent.rows)) < _BRIEF
    if brief:
        answer = service.predict(roles, sent, name, key)
    else:
        answer = await aside(service.predict, roles, sent, name, key)
    metrics.SECONDS.observe(time.perf_counter() - start)
    request.scope.setdefault("state", {})["answered"] = answer.by
    response = Response(answer.body, media_type="application/json")
    if answer.other:
        response.background = _Afterwards(service, roles, sent, name, answer.other, brief)  # type: ignore[assignment]
    return response


async def live(_: Service, __: Request) -> Response:
    """Say that the process runs."""
    return to_json({"status": "alive"})


async def ready(service: Service, _: Request) -> Response:
    """Say that requests are answered.

    Parameters
    ----------
    service
        Answers.
    """
    if leaving.announced():
        return to_json({"status": "leaving"}, 503)
    now = service.served.now.champion
    return to_json({"status": "ready", "model": {"name": now.model.contract.id, "version": now.version}})


def refused(refusal: RefusedError) -> Response:
    """Say why a request is not answered.

    Parameters
    ----------
    refusal
        With its violations, of which not more are listed than anybody reads.
    """
    listed = [asdict(entry) for entry in refusal.violations[:MAX_LISTED]]
    again = {"retry-after": "5"} if refusal.status == 503 else {}
    return to_json({"detail": refusal.detail, "violations": listed}, refusal.status, again)


def to_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a finished response, for which FastAPI needs no model of its own.

    Parameters
    ----------
    content
        Plain data.
    status, headers
        Of the response.
    """
    return Response(_encode(content), status, headers, "application/json")


async def aside(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do what takes long in a thread, one such work after the other.

    Parameters
    ----------
    work, arguments
        A function, and what it is called with.
    """
    return await to_thread.run_sync(work, *arguments, limiter=_one)


async def body(request: Request) -> bytes:
    """Read all that a client sends.

    Parameters
    ----------
    request
        Not read yet.

    Raises
    ------
    RefusedError
        It is too much.
    """
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BYTES:
            raise RefusedError(
                413, f"the request is larger than {MAX_BYTES // 2**20} MiB: send fewer rows at a time", []
            )
    return bytes(found)


class _Afterwards:
    """What is done once the answer is on its way."""

    def __init__(
        self, service: Service, roles: Roles, request: door.Request, name: str, other: Loaded, brief: bool
    ) -> None:
        self._brief, self._service, self._arguments = brief, service, (roles, request, name, other)

    async def __call__(self) -> None:
        if self._brief:
            self._service.ask_as_well(*self._arguments)
        else:
            await aside(self._service.ask_as_well, *self._arguments)


def _name(request: Request) -> str:
    """Give the request's id; an app without a guard has none."""
    return str(request.scope.get("state", {}).get("id", "none"))
