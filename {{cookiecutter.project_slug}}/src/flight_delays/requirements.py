"""May a model see this column? The contract's rules beyond type and range, the same in training and in serving.

Each is a word of the column's entry: the standard's `deprecated` and `classification`, and, as `customProperties`,
`forbidden` (with the reason), `available` (`before` or `after` the prediction) and `source` (whose data it is). The
document's own `customProperties` say how far the project may go: `clearance` and `allowedSources`.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

CLASSIFICATIONS = ("public", "internal", "confidential", "restricted")  # the order in which they rise
PERSONAL = CLASSIFICATIONS[2:]  # never reach features, models, logs or artifacts
_AVAILABLE = ("before", "after")


def refusals(document: Json) -> Iterator[str]:
    """Say which columns tagged `feature` must not be one, and which rules cannot be understood, one line each.

    Parameters
    ----------
    document
        A contract with one table, valid against the standard's JSON schema.
    """
    project = _custom(document)
    clearance = project.get("clearance", "internal")
    if clearance not in CLASSIFICATIONS[:2]:
        yield f"clearance {clearance!r} is not one of public, internal: what is above them is personal, and kept out"
        return
    sources = {str(server.get("server")) for server in document["servers"]} | set(project.get("allowedSources", ()))
    for entry in document["schema"][0]["properties"]:
        for words in _of_column(entry, clearance, sources):
            yield f"column {entry['name']!r} {words}"


def _of_column(entry: Json, clearance: str, sources: set[str]) -> Iterator[str]:
    custom = _custom(entry)
    level, available = entry.get("classification"), custom.get("available", "before")
    if level is not None and level not in CLASSIFICATIONS:
        yield f"has the classification {level!r}: use one of {', '.join(CLASSIFICATIONS)}"
    elif available not in _AVAILABLE:
        yield f"is available {available!r}: say `before` or `after` the prediction"
    elif "feature" in (entry.get("tags") or ()):
        yield from (
            f"cannot be tagged `feature`: {words}" for words in _against(entry, custom, available, clearance, sources)
        )


def _against(entry: Json, custom: Json, available: str, clearance: str, sources: set[str]) -> Iterator[str]:
    level, source = entry.get("classification"), custom.get("source")
    if entry.get("deprecated"):
        yield "it is `deprecated`: drop the tag, and train on what takes its place"
    if "forbidden" in custom:
        yield f"it is `forbidden` ({custom['forbidden']}): drop the tag, or have the rule lifted by who set it"
    if available == "after":
        yield "it is `available: after` the prediction, so the service never has it: drop the tag"
    if source is not None and source not in sources:
        known = ", ".join(sorted(sources))
        yield f"its `source` {source!r} is not allowed (allowed: {known}): drop the tag, or add it to `allowedSources`"
    if level is not None and level not in PERSONAL and CLASSIFICATIONS.index(level) > CLASSIFICATIONS.index(clearance):
        yield f"its classification {level!r} is above the project's `clearance` {clearance!r}: drop the tag"


def _custom(element: Json) -> Json:
    return {item["property"]: item["value"] for item in element.get("customProperties") or ()}
