"""What does the contract say of one column? Its entry, written from what was decided."""

from dataclasses import dataclass, field
from typing import Any

from flight_delays.infer.rules import bounds, listed, mean_bounds, null_limit
from flight_delays.infer.survey import Facts
from flight_delays.infer.target import Target


@dataclass
class Proposal:
    """What the contract could say of one column.

    Attributes
    ----------
    facts
        What the column holds.
    roles
        Its tags.
    why
        The reason, in a few words.
    look
        What a person should check, if anything.
    entry
        The column's entry of the contract.
    """

    facts: Facts
    roles: list[str]
    why: str
    look: str = ""
    personal: bool = False
    unique: bool = False
    position: int = 0
    parts: list[str] = field(default_factory=list)
    entry: dict[str, Any] = field(default_factory=dict)


def describe(proposal: Proposal, target: Target) -> dict[str, Any]:
    """Write a column's entry of the contract.

    Parameters
    ----------
    proposal
        What was decided.
    target
        What is predicted.
    """
    facts, roles = proposal.facts, proposal.roles
    is_target = "target" in roles
    entry: dict[str, Any] = {"name": facts.name, "logicalType": facts.kind.name}
    if not facts.nulls or is_target:
        entry["required"] = True
    if proposal.unique:
        entry["unique"] = True
    if proposal.position:
        entry |= {"primaryKey": True, "primaryKeyPosition": proposal.position}
    if proposal.personal:
        entry["classification"] = "restricted"
    if roles:
        entry["tags"] = list(roles)
    ruled = not proposal.personal and bool({"feature", "time", "target"} & set(roles))
    measured = ruled and not (is_target and target.task == "classification")
    options = {"format": facts.kind.pattern} if facts.kind.pattern else {}
    if measured:
        options |= bounds(facts, open_end="time" in roles)
    parts = {
        "logicalTypeOptions": options,
        "enum": [{"value": value} for value in _values(proposal, target)] if ruled else [],
        "customProperties": _custom(proposal, target),
        "quality": _quality(proposal, measured and facts.kind.name in {"integer", "number"}),
    }
    return entry | {word: part for word, part in parts.items() if part}


def _values(proposal: Proposal, target: Target) -> list[Any]:
    if proposal.facts.kind.name == "boolean":
        return []
    return list(target.classes) if "target" in proposal.roles else listed(proposal.facts)


def _custom(proposal: Proposal, target: Target) -> list[dict[str, Any]]:
    custom: list[dict[str, Any]] = []
    if "target" in proposal.roles:
        custom.append({"property": "task", "value": target.task})
    if proposal.parts and "feature" in proposal.roles:
        custom.append({"property": "parts", "value": proposal.parts})
    if proposal.facts.kind.decimal != ".":
        custom.append({"property": "decimal", "value": proposal.facts.kind.decimal})
    return custom


def _quality(proposal: Proposal, with_mean: bool) -> list[dict[str, Any]]:
    quality: list[dict[str, Any]] = []
    limit = null_limit(proposal.facts)
    if limit is not None and "target" not in proposal.roles:
        quality.append({"type": "library", "metric": "nullValues", "mustBeLessThan": limit, "unit": "percent"})
    mean = mean_bounds(proposal.facts) if with_mean else None
    if mean:
        kwargs = {"min_value": mean[0], "max_value": mean[1]}
        rule = {"type": "expect_column_mean_to_be_between", "kwargs": kwargs}
        quality.append({"type": "custom", "engine": "greatExpectations", "implementation": rule})
    return quality
