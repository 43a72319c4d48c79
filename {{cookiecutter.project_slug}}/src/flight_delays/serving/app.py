"""What can be asked over HTTP? Predictions, their reasons, and what the service says of itself; with documentation."""

from dataclasses import asdict
from enum import Enum

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi_offline import FastAPIOffline

from flight_delays import features
from flight_delays.explain import explain
from flight_delays.model import Model
from flight_delays.serving import door, lane, metrics, page
from flight_delays.serving.lane import LIVE, PREDICT, READY, Lane, to_json
from flight_delays.serving.roles import MAX_ROWS, Served
from flight_delays.serving.service import RefusedError, Service

_ROWS: list[str | Enum] = ["Rows"]
_SERVED: list[str | Enum] = ["What is served"]
_UPKEEP: list[str | Enum] = ["Upkeep"]


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
    app = FastAPIOffline(  # its pages load nothing from elsewhere, where somebody else decides what runs in them
        title=contract.name,
        version=champion.version,
        description=page.describe(contract),
        responses=page.GUARDED,
    )

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, refusal: RefusedError) -> Response:
        return lane.refused(refusal)

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:  # the guard writes into the log what it was
        return to_json({"detail": "this is a fault of the service, and it is in its log"}, 500)

    _ask(app, service)
    _tell(app, service)
    app.add_middleware(Lane, service=service)
    return app


def _ask(app: FastAPI, service: Service) -> None:
    """Add what takes rows."""
    served = service.served
    contract = served.now.champion.model.contract

    @app.post(
        PREDICT,
        summary="Predictions of rows",
        tags=_ROWS,
        openapi_extra=page.body(contract, MAX_ROWS),
        responses=page.answers(contract),
    )
    async def predict(request: Request) -> Response:
        """Predict rows. Requests with the same `X-Sticky-Key` are answered by the same model while one is tried."""
        return await lane.predict(service, request)

    @app.post(
        "/explain",
        summary="What moved the prediction of one row",
        tags=_ROWS,
        openapi_extra=page.body(contract, 1),
        responses=page.REFUSALS,
    )
    async def explain_row(request: Request) -> Response:
        """Show one row's way through contract, encoding, model and decision, as `make explain` does."""
        body, roles = await lane.body(request), served.now

        def answer() -> Response:
            sent = service.read(roles, body, 1)
            model = roles.champion.model
            named = {"name": model.contract.id, "version": roles.champion.version}
            return to_json({"model": named} | explain(model, roles.champion.door.table(sent)))

        return await lane.aside(answer)


def _tell(app: FastAPI, service: Service) -> None:
    """Add what says something of the service; as finished responses, for which FastAPI needs no models of its own."""
    served = service.served

    @app.get("/model", summary="Which model answers", tags=_SERVED)
    def describe() -> Response:
        """Say which model answers, and how."""
        now = served.now.champion
        asked = now.model.contract
        return to_json(
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

    @app.get("/contract", summary="What a row must be", tags=_ROWS)
    def ask() -> Response:
        """Say what each column of a request must be, and what happens to one that is not."""
        return to_json(page.contract(served.now.champion.model.contract))

    @app.get("/release", summary="What is served, since when and why", tags=_SERVED)
    def released() -> Response:
        """Say what is served: since when, by whom, why, from which commit and data; and what was decided before."""
        now = served.now
        past = service.store.past("decision") if service.store else []
        return to_json({"release": asdict(now.release), "loaded": served.loaded(), "decisions": past})

    @app.get("/example", summary="A request that can be sent", tags=_ROWS)
    def example() -> Response:
        """Give a request that can be sent to `/predict` and `/explain`, made up from the contract."""
        return to_json(page.example(served.now.champion.model.contract))

    @app.get("/metrics", summary="Counts for Prometheus", tags=_UPKEEP, response_class=PlainTextResponse)
    def count() -> Response:
        """Give the counts of all workers, for Prometheus."""
        service.settle()
        return Response(metrics.page(), headers={"content-type": metrics.CONTENT_TYPE})

    @app.get(LIVE, summary="Whether the process runs", tags=_UPKEEP)
    async def live(request: Request) -> Response:
        """Say that the process runs."""
        return await lane.live(service, request)

    @app.get(READY, summary="Whether it answers", tags=_UPKEEP)
    async def ready(request: Request) -> Response:
        """Say that requests are answered."""
        return await lane.ready(service, request)
