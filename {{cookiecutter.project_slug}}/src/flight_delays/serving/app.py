"""How is the model asked over HTTP? Rows in, held against the contract; answers in the target's values out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from msgspec import UNSET

from flight_delays import features
from flight_delays.explain import explain
from flight_delays.model import Model
from flight_delays.serving import door, leaving, metrics, page
from flight_delays.serving.ecs import Log
from flight_delays.serving.guard import API_KEYS, App, Guard, Keys, Rates, Receive, Send
from flight_delays.serving.lean import without_pandas
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.protocol import Protocol
from flight_delays.serving.release import REPORT_SECONDS, Store
from flight_delays.serving.roles import MAX_ROWS, Follower, Loaded, Roles, Served
from flight_delays.serving.service import MAX_LISTED, RefusedError, Service
from flight_delays.settings import given, params

PREDICT = "/predict"
MAX_BYTES = 16 * 2**20  # of a request's body
_FEW = 64  # rows; more are answered in a thread, so that the others need not wait
_FEW_BYTES = 64 * 2**10  # of a body, likewise
_HOUR, _MEGABYTE = 3600, 10**6
_one = CapacityLimiter(1)  # two threads that both want the interpreter get less done than one

_encode = msgspec.json.Encoder().encode

Answer = Callable[[Request], Awaitable[Response]]


def create_app(model: Model, version: str = "none") -> FastAPI:
    """Make the service of one model, without a log and open to everybody: for tests and measurements.

    Parameters
    ----------
    model
        Answers all requests.
    version
        What the model is called in answers, such as its number in the registry.
    """
    return build(Service(Served.of(model, version)))


def build(service: Service) -> FastAPI:
    """Make the application; its documentation is that of the champion's contract, as it is now.

    Parameters
    ----------
    service
        Answers.
    """
    champion = service.served.now.champion
    contract = champion.model.contract
    app = FastAPI(
        title=contract.name,
        version=champion.version,
        description=page.describe(contract),
        responses=page.GUARDED,
    )

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, refusal: RefusedError) -> Response:
        listed = [asdict(entry) for entry in refusal.violations[:MAX_LISTED]]
        again = {"retry-after": "5"} if refusal.status == 503 else {}
        return _json({"detail": refusal.detail, "violations": listed}, refusal.status, again)

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:  # the guard writes into the log what it was
        return _json({"detail": "this is a fault of the service, and it is in its log"}, 500)

    answer = _ask(app, service)
    _tell(app, service)
    app.add_middleware(_Lane, answer=answer, refuse=refuse)
    return app


def _ask(app: FastAPI, service: Service) -> Answer:
    """Add what takes rows, and give what predicts them."""
    served = service.served
    contract = served.now.champion.model.contract

    @app.post(PREDICT, openapi_extra=page.body(contract, MAX_ROWS), responses=page.answers(contract))
    async def predict(request: Request) -> Response:
        """Predict rows. Requests with the same `X-Sticky-Key` are answered by the same model while one is tried."""
        start = time.perf_counter()
        body, roles, name = await _body(request), served.now, _name(request)
        key = request.headers.get("x-sticky-key", name)
        if len(body) < _FEW_BYTES:
            sent = service.read(roles, body)
        else:
            sent = await _aside(service.read, roles, body)
        small = len(sent.rows) <= _FEW
        if small:
            answer = service.predict(roles, sent, name, key)
        else:
            answer = await _aside(service.predict, roles, sent, name, key)
        metrics.SECONDS.observe(time.perf_counter() - start)
        request.scope.setdefault("state", {})["answered"] = answer.by
        response = Response(answer.body, media_type="application/json")
        if answer.other:
            response.background = _Afterwards(service, roles, sent, name, answer.other, small)  # type: ignore[assignment]
        return response

    @app.post("/explain", openapi_extra=page.body(contract, 1), responses=page.REFUSALS)
    async def explain_row(request: Request) -> Response:
        """Show one row's way through contract, encoding, model and decision, as `make explain` does."""
        body, roles = await _body(request), served.now

        def answer() -> Response:
            sent = service.read(roles, body, 1)
            model = roles.champion.model
            named = {"name": model.contract.id, "version": roles.champion.version}
            return _json({"model": named} | explain(model, roles.champion.door.table(sent)))

        return await _aside(answer)

    return predict


def _tell(app: FastAPI, service: Service) -> None:
    """Add what says something of the service; as finished responses, for which FastAPI needs no models of its own."""
    served = service.served

    @app.get("/model")
    def describe() -> Response:
        """Say which model answers, and how."""
        now = served.now.champion
        asked = now.model.contract
        return _json(
            {
                "name": asked.id,
                "version": now.version,
                "task": asked.task,
                "target": asked.target.name,
                "classes": list(asked.classes),
                "threshold": now.model.threshold if asked.task == "binary" else None,
                "columns": {column.name: door.rules(column) for column in asked.features},
                "features": [feature.name for feature in features.features(asked)],
                "contract": asked.digest,
            }
        )

    @app.get("/contract")
    def ask() -> Response:
        """Say what each column of a request must be, and what happens to one that is not."""
        return _json(page.contract(served.now.champion.model.contract))

    @app.get("/release")
    def released() -> Response:
        """Say what is served: since when, by whom, why, from which commit and data; and what was decided before."""
        now = served.now
        past = service.store.past("decision") if service.store else []
        return _json({"release": asdict(now.release), "loaded": served.loaded(), "decisions": past})

    @app.get("/example")
    def example() -> Response:
        """Give a request that can be sent to `/predict` and `/explain`, made up from the contract."""
        return _json(page.example(served.now.champion.model.contract))

    @app.get("/metrics", response_class=PlainTextResponse)
    def count() -> Response:
        """Give the counts of all workers, for Prometheus."""
        return Response(metrics.page(), headers={"content-type": metrics.CONTENT_TYPE})

    @app.get("/health/live")
    async def live() -> Response:
        """Say that the process runs."""
        return _json({"status": "alive"})

    @app.get("/health/ready")
    async def ready() -> Response:
        """Say that requests are answered."""
        if leaving.announced():
            return _json({"status": "leaving"}, 503)
        now = served.now.champion
        return _json({"status": "ready", "model": {"name": now.model.contract.id, "version": now.version}})


def start() -> Guard:
    """Make the application of a worker, which follows the store."""
    without_pandas()
    said = Log("service", metrics.LINES_DROPPED.inc)
    said.take_over()
    Protocol.log = said
    store, chosen = Store(), params("serve")
    kept = chosen["log"]
    log = PredictionLog(store.predictions, max_bytes=kept["megabytes"] * _MEGABYTE, max_seconds=kept["hours"] * _HOUR)
    follower = Follower(store)
    service = Service(follower.served, store, log, kept["full_disk"] == "serve")
    app = build(service)
    guard = Guard(app, Keys(given(API_KEYS)), Rates(chosen["requests_per_second"]), said)

    def changed() -> None:  # another contract has another documentation
        guard.app = build(service)
        metrics.say(follower.served, time.time())
        tell(said, follower.served)

    @contextlib.asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        tell(said, follower.served)
        tasks = [asyncio.create_task(follower.watch(changed)), asyncio.create_task(_say_memory())]
        yield
        for task in tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            store.leave()
        log.close()
        said.close()

    metrics.say(follower.served, time.time())
    app.router.lifespan_context = live
    return guard


def tell(log: Log, served: Served) -> None:
    """Write down what is served from now on, and what is not though it should be.

    Parameters
    ----------
    log
        Of the service.
    served
        The models of this process.
    """
    now = served.now
    tried = f", version {now.challenger.version} is tried" if now.challenger else ""
    log.say(
        f"version {now.champion.version} answers{tried}",
        action="release",
        reason=now.release.reason,
        model=now.champion.version,
        challenger=now.challenger.version if now.challenger else UNSET,
        mode=now.release.mode if now.challenger else UNSET,
        release=now.release.id,
    )
    for version, why in served.refused.items():
        log.say(f"version {version} is not served", "error", action="refuse", reason=why, model=version)


async def _say_memory() -> None:
    while True:
        metrics.say_memory()
        await asyncio.sleep(REPORT_SECONDS)


class _Lane:
    """Leads requests for a prediction past FastAPI's routing, which takes longer than the prediction."""

    def __init__(self, app: App, answer: Answer, refuse: Callable[..., Awaitable[Response]]) -> None:
        self._app, self._answer, self._refuse = app, answer, refuse

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", PREDICT):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except RefusedError as refusal:
            response = await self._refuse(request, refusal)
        await response(scope, receive, send)


class _Afterwards:
    """What is done once the answer is on its way."""

    def __init__(
        self, service: Service, roles: Roles, request: door.Request, name: str, other: Loaded, small: bool
    ) -> None:
        self._small, self._service, self._arguments = small, service, (roles, request, name, other)

    async def __call__(self) -> None:
        if self._small:
            self._service.ask_as_well(*self._arguments)
        else:
            await _aside(self._service.ask_as_well, *self._arguments)


async def _aside(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do what takes long in a thread, one such work after the other."""
    return await to_thread.run_sync(work, *arguments, limiter=_one)


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BYTES:
            raise RefusedError(
                413, f"the request is larger than {MAX_BYTES // 2**20} MiB: send fewer rows at a time", []
            )
    return bytes(found)


def _name(request: Request) -> str:
    """Give the request's id; an app without a guard has none."""
    return str(request.scope.get("state", {}).get("id", "none"))


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers, "application/json")
