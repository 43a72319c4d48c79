"""How is the model asked over HTTP? Rows in, held against the contract; answers in the target's values out."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from flight_delays import features
from flight_delays.explain import explain
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.serving import door, page
from flight_delays.serving.door import Violation, violation

MAX_BYTES = 16 * 2**20  # of a request's body
MAX_ROWS = 10_000  # of a request
MAX_LISTED = 1_000  # violations in an answer


class _RefusedError(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, detail: str, violations: list[Violation]) -> None:
        super().__init__(detail)
        self.status, self.detail, self.violations = status, detail, violations


def create_app(model: Model, version: str = "none") -> FastAPI:
    """Make the service of one model.

    Parameters
    ----------
    model
        Answers all requests.
    version
        What the model is called in answers, such as its number in the registry.
    """
    contract = model.contract
    named = {"name": contract.id, "version": version}
    app = FastAPI(title=contract.name, version=version, description=page.describe(contract))

    @app.exception_handler(_RefusedError)
    async def refuse(_: Request, refusal: _RefusedError) -> JSONResponse:
        listed = [asdict(entry) for entry in refusal.violations[:MAX_LISTED]]
        return JSONResponse({"detail": refusal.detail, "violations": listed}, refusal.status)

    @app.post("/predict", openapi_extra=page.body(contract, MAX_ROWS), responses=page.answers(contract))
    async def predict(request: Request) -> JSONResponse:
        """Predict rows."""
        body = await _body(request)

        def answer() -> JSONResponse:
            output = model.score(_rows(body, model, MAX_ROWS))
            if not np.isfinite(output).all():
                raise _RefusedError(500, "the model gave an output that is not a finite number", [])
            return JSONResponse({"model": named, "predictions": answers(model, output)})

        return await run_in_threadpool(answer)

    @app.post("/explain", openapi_extra=page.body(contract, 1), responses=page.REFUSALS)
    async def explain_row(request: Request) -> JSONResponse:
        """Show one row's way through contract, encoding, model and decision, as `make explain` does."""
        body = await _body(request)
        steps = await run_in_threadpool(lambda: explain(model, _rows(body, model, 1)))
        return JSONResponse({"model": named} | steps)

    @app.get("/model")
    def describe() -> dict[str, Any]:
        """Say which model answers, and what it asks for."""
        return named | {
            "task": contract.task,
            "target": contract.target.name,
            "classes": list(contract.classes),
            "threshold": model.threshold if contract.task == "binary" else None,
            "columns": {column.name: door.rules(column) for column in contract.features},
            "features": [feature.name for feature in features.features(contract)],
            "contract": contract.digest,
        }

    @app.get("/example")
    def example() -> dict[str, Any]:
        """Give a request that can be sent to `/predict` and `/explain`, made up from the contract."""
        return page.example(contract)

    @app.get("/health/live")
    def live() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "alive"}

    @app.get("/health/ready")
    def ready() -> dict[str, Any]:
        """Say that requests are answered."""
        return {"status": "ready", "model": named}

    return app


def answers(model: Model, output: Floats) -> list[dict[str, Any]]:
    """Put predictions into the words of an answer.

    Parameters
    ----------
    model
        Decides.
    output
        From `Model.predict`.
    """
    decided = [door.plain(value) for value in model.decide(output)]
    if model.contract.task == "regression":
        return [{"prediction": value} for value in decided]
    if model.contract.task == "binary":
        pairs = zip(decided, output.tolist(), strict=True)
        return [{"prediction": value, "probability": share} for value, share in pairs]
    names = [str(name) for name in model.contract.classes]
    return [
        {"prediction": value, "probabilities": dict(zip(names, shares, strict=True))}
        for value, shares in zip(decided, output.tolist(), strict=True)
    ]


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BYTES:
            raise _RefusedError(
                413, f"the request is larger than {MAX_BYTES // 2**20} MiB: send fewer rows at a time", []
            )
    return bytes(found)


def _rows(body: bytes, model: Model, most: int) -> pa.Table:
    limit = f"1 to {most:,} rows" if most > 1 else "one row"
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _refused([violation("rows", limit=limit)], f"the request is not JSON: {error}") from None
    rows = sent.get("rows") if isinstance(sent, dict) and len(sent) == 1 else None
    if not isinstance(rows, list) or not 1 <= len(rows) <= most:
        raise _refused([violation("rows", limit=limit)])
    table, broken = door.read(rows, model.contract)
    if broken:
        raise _refused(broken)
    return table


def _refused(violations: list[Violation], detail: str = "") -> _RefusedError:
    return _RefusedError(422, detail or f"the request breaks the contract in {len(violations):,} places", violations)
