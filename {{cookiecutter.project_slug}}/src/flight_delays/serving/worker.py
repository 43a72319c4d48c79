"""What does a process do that answers? It follows the store, writes down what it answers, and says how it fares."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from msgspec import UNSET
from starlette.routing import Router

from flight_delays.serving import metrics
from flight_delays.serving.ecs import Log
from flight_delays.serving.guard import API_KEYS, App, Guard, Keys, Rates, Receive, Send
from flight_delays.serving.lane import Lane
from flight_delays.serving.lean import without_pandas
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.protocol import Protocol
from flight_delays.serving.release import Store
from flight_delays.serving.roles import Follower, Served
from flight_delays.serving.service import Service
from flight_delays.settings import given, params

_HOUR, _MEGABYTE = 3600, 10**6
_SETTLE_SECONDS = 1.0  # between two times that all is counted
_BORN = 20_000  # objects between two looks for those in circles; a request of many rows makes thousands, and none


def start() -> Guard:
    """Make the application of a worker, which follows the store."""
    without_pandas()
    said = Log("service", metrics.LINES_DROPPED.inc)
    said.take_over()
    Protocol.log = said
    store, chosen = Store(), params("serve")
    kept = chosen["log"]
    log = PredictionLog(
        store.predictions,
        max_bytes=kept["megabytes"] * _MEGABYTE,
        max_seconds=kept["hours"] * _HOUR,
        keep_seconds=kept["keep_days"] * 24 * _HOUR,
    )
    follower = Follower(store)
    service = Service(follower.served, store, log, kept["full_disk"] == "serve")
    rest = _Rest(service)

    def changed() -> None:
        rest.build()
        metrics.say(follower.served, time.time())
        tell(said, follower.served)

    @contextlib.asynccontextmanager
    async def live(_: Any) -> AsyncIterator[None]:
        gc.freeze()  # what is loaded by now stays, and need not be looked at again and again
        gc.set_threshold(_BORN)
        tell(said, follower.served)
        rest.build()
        tasks = [asyncio.create_task(follower.watch(changed)), asyncio.create_task(_report(service))]
        yield
        for task in tasks:
            task.cancel()
        service.settle()
        with contextlib.suppress(OSError):
            store.leave()
        log.close()
        said.close()

    rest.lifespan = Router(lifespan=live).lifespan
    metrics.say(follower.served, time.time())
    return Guard(Lane(rest, service), Keys(given(API_KEYS)), Rates(chosen["requests_per_second"]), said)


class _Rest:
    """All that is asked but predictions, by FastAPI: it is loaded beside the first requests, which need not wait."""

    lifespan: App

    def __init__(self, service: Service) -> None:
        self._service = service
        self._app: asyncio.Task[App]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        else:
            app = await asyncio.shield(self._app)
            await app(scope, receive, send)

    def build(self) -> None:
        """Make the application, once more with another champion: another contract has another documentation."""
        self._app = asyncio.create_task(asyncio.to_thread(self._load))

    def _load(self) -> App:
        from flight_delays.serving.app import build

        return build(self._service)


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


async def _report(service: Service) -> None:
    while True:
        service.settle()
        metrics.say_memory()
        await asyncio.sleep(_SETTLE_SECONDS)
