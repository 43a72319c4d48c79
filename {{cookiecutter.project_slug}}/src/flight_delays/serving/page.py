"""What does the service say of itself? Requests, answers and an example in OpenAPI's words, from the contract."""

import re
from typing import Any

from flight_delays.contract import Column, Contract
from flight_delays.serving import door

Json = dict[str, Any]

_TYPES: dict[str, Json] = {
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "string": {"type": "string"},
    "time": {"type": "string", "format": "time"},
    "timestamp": {"type": "string", "format": "date-time"},
}
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ANY = {"date": "2024-12-31", "time": "12:00:00", "timestamp": "2024-12-31T12:00:00", "string": "text"}
_SOME_TEXTS = [letter * count for count in range(1, 33) for letter in "Aa0"]

_VIOLATIONS: Json = {
    "type": "object",
    "properties": {
        "detail": {"type": "string"},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "row": {"type": ["integer", "null"]},
                    "column": {"type": ["string", "null"]},
                    "rule": {"type": "string", "enum": list(door.MESSAGES)},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
_DETAIL: Json = {
    "application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}},
}
REFUSALS: dict[int | str, Json] = {
    401: {"description": "A valid key is needed, where the service has keys", "content": _DETAIL},
    408: {"description": "The request did not arrive in time", "content": _DETAIL},
    413: {"description": "The request is too large", "content": _DETAIL},
    429: {"description": "Too many requests of this client: try again after `Retry-After` seconds", "content": _DETAIL},
    500: {"description": "A fault of the service or its model", "content": _DETAIL},
    503: {"description": "Too many requests at once, or the prediction log cannot be written", "content": _DETAIL},
    422: {
        "description": "The request breaks the contract: each place with its row, column and rule",
        "content": {"application/json": {"schema": _VIOLATIONS}},
    },
}

GUARDED: dict[int | str, Json] = {status: REFUSALS[status] for status in (401, 429, 500, 503)}  # whatever is asked


def describe(contract: Contract) -> str:
    """Say what is predicted.

    Parameters
    ----------
    contract
        The model's.
    """
    target = contract.target
    return f"Predicts `{target.name}`: {target.description}" if target.description else f"Predicts `{target.name}`."


def body(contract: Contract, most: int) -> Json:
    """Describe a request.

    Parameters
    ----------
    contract
        The model's.
    most
        So many rows at once.
    """
    row = {
        "type": "object",
        "properties": {column.name: _schema(column) for column in contract.features},
        "required": [column.name for column in contract.features],
        "additionalProperties": False,
    }
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": most}
    request = {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}
    content = {"application/json": {"schema": request, "example": example(contract)}}
    return {"requestBody": {"required": True, "content": content}}


def contract(found: Contract) -> Json:
    """Say what each column of a request must be, and what happens to one that is not.

    Parameters
    ----------
    found
        The model's contract.
    """
    columns = {
        column.name: door.rules(column)
        | {"description": column.description, "onViolation": column.custom.get(door.ON_VIOLATION, "refuse")}
        for column in found.features
    }
    return {"id": found.id, "name": found.name, "digest": found.digest, "columns": columns}


def answers(contract: Contract) -> dict[int | str, Json]:
    """Describe the answers of `/predict`.

    Parameters
    ----------
    contract
        The model's.
    """
    share = {"type": "number", "minimum": 0, "maximum": 1}
    one: Json = {"prediction": {"type": "number"}}
    if contract.classes:
        one = {"prediction": {"enum": [door.plain(value) for value in contract.classes]}}
        names = [str(value) for value in contract.classes]
        several = {"probabilities": {"type": "object", "properties": dict.fromkeys(names, share)}}
        one |= {"probability": share} if contract.task == "binary" else several
    name = {"type": "object", "properties": {key: {"type": "string"} for key in ("name", "version")}}
    predictions = {"type": "array", "items": {"type": "object", "properties": one}}
    schema = {"type": "object", "properties": {"model": name, "predictions": predictions}}
    return REFUSALS | {200: {"description": "A prediction a row", "content": {"application/json": {"schema": schema}}}}


def example(contract: Contract) -> Json:
    """Make up a request of one row: first listed values, middles of ranges.

    Parameters
    ----------
    contract
        The model's.
    """
    return {"rows": [{column.name: _example(column) for column in contract.features}]}


def _schema(column: Column) -> Json:
    found, rules = dict(_TYPES[column.type]), door.rules(column)
    words = [column.description] if column.description else []
    if column.type in _ANY and column.type != "string":  # for whose bounds JSON Schema has no words
        words += [f"{rule}: {rules[rule]}" for rule in _NUMERIC if rule in rules]
    found |= {"description": "; ".join(words)} if words else {}
    if "values" in rules:
        found["enum"] = [door.plain(value) for value in column.values]
    found |= {rule: limit for rule, limit in rules.items() if rule in {"minLength", "maxLength"}}
    if column.type in {"integer", "number"}:
        found |= {rule: limit for rule, limit in rules.items() if rule in _NUMERIC}
    if "pattern" in rules:
        found["pattern"] = f"^(?:{rules['pattern']})$"
    if not column.required:
        found["type"] = [found["type"], "null"]
        found |= {"enum": [*found["enum"], None]} if "enum" in found else {}
    return found


def _example(column: Column) -> Any:
    if column.values:
        return door.plain(column.values[0])
    rules = column.options
    low = rules.get("minimum", rules.get("exclusiveMinimum"))
    high = rules.get("maximum", rules.get("exclusiveMaximum"))
    if column.type in {"integer", "number"}:
        ends = [end for end in (low, high) if end is not None] or [0]
        middle = sum(ends) / 2 if len(ends) == 2 else ends[0] + (1 if high is None else -1)
        return int(middle) if column.type == "integer" else float(middle)
    if column.type == "boolean":
        return True
    if column.type != "string":
        return low or high or _ANY[column.type]
    pattern, shortest = rules.get("pattern", ".*"), rules.get("minLength", 0)
    texts = (*_SOME_TEXTS, "a" * shortest)
    fitting = (one for one in texts if len(one) >= shortest and re.fullmatch(pattern, one, re.DOTALL))
    return next(fitting, _ANY["string"])
