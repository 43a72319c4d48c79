"""What is done with a request's rows? They are let in, predicted, written down, answered and counted, in this order."""

import contextlib
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import orjson

from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.serving import door, metrics
from flight_delays.serving.door import Violation, violation
from flight_delays.serving.ecs import Answered
from flight_delays.serving.log import LogFullError, PredictionLog
from flight_delays.serving.metrics import Distributions
from flight_delays.serving.release import CANARY, Store
from flight_delays.serving.roles import MAX_ROWS, Loaded, Roles, Served, UnsoundError

MAX_LISTED = door.ENOUGH  # violations in an answer


class RefusedError(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, detail: str, violations: list[Violation]) -> None:
        super().__init__(detail)
        self.status, self.detail, self.violations = status, detail, violations


class Answer(NamedTuple):
    """What is sent, and what is still to be done.

    Attributes
    ----------
    body
        The answer's.
    other
        The model to be asked as well once it is sent.
    by
        Version and role of the model that answered, and the release.
    """

    body: bytes
    other: Loaded | None
    by: Answered


class Service:
    """Answers requests for rows, writes each answer down before it is sent, and counts.

    Parameters
    ----------
    served
        The models.
    store
        Where the history of releases stands.
    log
        Where answers are written; `None` for nowhere.
    without_log
        Whether to answer when the log cannot be written: else the request is refused.
    """

    def __init__(
        self, served: Served, store: Store | None = None, log: PredictionLog | None = None, without_log: bool = False
    ) -> None:
        self.served, self.store, self.log, self._without_log = served, store, log, without_log
        self._counters: dict[tuple[str, str], Distributions] = {}
        self._distributions(served.now.champion, "champion")  # it takes longer than to answer, so not at an answer

    def read(self, roles: Roles, body: bytes, most: int = MAX_ROWS) -> door.Request:
        """Let rows in, or refuse them with every violation.

        Parameters
        ----------
        roles
            Whose champion's contract is the rule.
        body
            Of the request.
        most
            So many rows.
        """
        try:
            request, broken = roles.champion.door.read(body)
        except (ValueError, RecursionError) as error:
            limit = f"1 to {most:,} rows" if most > 1 else "one row"
            raise _refused([violation("rows", limit=limit)], f"the request is not JSON: {error}") from None
        if not broken and len(request.rows) > most:
            broken = [violation("rows", limit="one row")]
        self._count_violations(roles, broken, "refused")
        self._count_violations(roles, request.warnings, "counted")
        if broken:
            raise _refused(broken)
        return request

    def predict(self, roles: Roles, request: door.Request, name: str, key: str) -> Answer:
        """Answer rows, and write the answer down.

        Parameters
        ----------
        roles
            Who answers.
        request
            The rows.
        name
            Of the request.
        key
            By which it falls to the challenger or not.
        """
        assigned = roles.assigned(key)
        other = roles.challenger if assigned else None
        first, role, failed = roles.champion, "champion", None
        if other and roles.release.mode == CANARY:
            try:
                found = other.score(request)
                first, role, other = other, "challenger", roles.champion
            except Exception as error:  # whatever it raises, the champion answers
                metrics.FAILURES.labels(other.version, "challenger", type(error).__name__).inc()
                failed, other = {"version": other.version, "reason": _reason(error)}, None
        if role == "champion":
            try:
                found = first.score(request)
            except Exception as error:
                metrics.FAILURES.labels(first.version, role, type(error).__name__).inc()
                if isinstance(error, UnsoundError):
                    raise RefusedError(500, str(error), []) from None
                raise
        X, output, taken = found
        self._write(
            {
                "kind": "answer",
                "id": name,
                "at": _now(),
                "release": roles.release.id,
                "version": first.version,
                "role": role,
                "assigned": assigned,
                "columns": orjson.Fragment(roles.champion.door.columns),
                "rows": orjson.Fragment(request.json),
                "x": X,
                "output": output.tolist(),
                "ms": taken,
                "failed": failed,
                "warnings": _warnings(first, roles, request),
            }
        )
        self._distributions(first, role).count(X, output, taken)
        named = {"name": first.model.contract.id, "version": first.version}
        body = orjson.dumps({"id": name, "model": named, "predictions": answers(first.model, output)})
        return Answer(body, other, (first.version, role, roles.release.id))

    def ask_as_well(self, roles: Roles, request: door.Request, name: str, other: Loaded) -> None:
        """Ask the model that did not answer, and write down what it would have said.

        Parameters
        ----------
        roles, request, name
            As for `predict`.
        other
            From `predict`.
        """
        role = "challenger" if other is roles.challenger else "champion"
        output, taken, failed = None, 0.0, None
        try:
            X, found, taken = other.score(request)
            output = found.tolist()
            if role == "challenger":
                self._distributions(other, role).count(X, found, taken)
        except Exception as error:  # as in `predict`
            failed = _reason(error)
            metrics.FAILURES.labels(other.version, role, type(error).__name__).inc()
        record = {"kind": "second", "id": name, "at": _now(), "release": roles.release.id, "version": other.version}
        with contextlib.suppress(RefusedError):  # the answer is out, and nobody waits for this
            warnings = _warnings(other, roles, request)
            self._write(record | {"role": role, "output": output, "ms": taken, "failed": failed, "warnings": warnings})

    def settle(self) -> None:
        """Count what is not counted yet; in between at most a second passes, or some hundred requests."""
        for counted in list(self._counters.values()):
            counted.settle()

    def _write(self, record: dict[str, Any]) -> None:
        if self.log is None:
            return
        try:
            self.log.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))  # no lists made of arrays
        except LogFullError:
            metrics.LOG_FAILURES.inc()
            if not self._without_log:
                raise RefusedError(503, "the prediction log cannot be written, so nothing is predicted", []) from None

    def _distributions(self, loaded: Loaded, role: str) -> Distributions:
        key = loaded.version, role
        kept = self._counters.get(key)
        if kept is None or kept.bins is not loaded.bins:  # a version's name may come to mean another model
            if kept:
                kept.settle()
            kept = self._counters[key] = Distributions(loaded, role)
            metrics.FAILURES.labels(*key, UnsoundError.__name__)  # from nothing on: the first one is a change as well
        return kept

    def _count_violations(self, roles: Roles, found: list[Violation], action: str) -> None:
        known = {column.name for column in roles.champion.model.contract.features} if found else set()
        for entry in found[:MAX_LISTED]:  # a name that a client made up is not counted under it
            column = entry.column if entry.column in known else "" if entry.column is None else "unknown"
            metrics.VIOLATIONS.labels(column, entry.rule, action).inc()


def _warnings(loaded: Loaded, roles: Roles, request: door.Request) -> int:
    """Count what breaks a model's own contract in rows that the champion's let in."""
    if loaded.model.contract.digest == roles.champion.model.contract.digest:
        return len(request.warnings)
    names = [column.name for column in roles.champion.model.contract.features]
    rows = [dict(zip(names, row, strict=True)) for row in request.rows]
    asked, broken = loaded.door.read(msgspec.json.encode({"rows": rows}))  # orjson 3.13 drops a zero of some times
    return len(asked.warnings) + len(broken)


def answers(model: Model, output: Floats) -> list[dict[str, Any]]:
    """Put predictions into the words of an answer.

    Parameters
    ----------
    model
        Decides.
    output
        From `Model.predict`.
    """
    decided = model.decide(output)
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


def _refused(violations: list[Violation], detail: str = "") -> RefusedError:
    places = f"{len(violations):,} places" if len(violations) < door.ENOUGH else f"{door.ENOUGH:,} places or more"
    return RefusedError(422, detail or f"the request breaks the contract in {places}", violations)


def _reason(error: Exception) -> str:
    """Name an error by its kind alone: its words may hold what a client sent."""
    return str(error) if isinstance(error, UnsoundError) else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
