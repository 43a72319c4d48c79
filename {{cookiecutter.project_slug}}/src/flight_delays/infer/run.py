"""How does a contract follow from its data? Measures, proposes, compares, writes and prints."""

import difflib
import tempfile
from pathlib import Path
from typing import Any

import duckdb
from open_data_contract_standard.model import Server
from rich.console import Console

from flight_delays.contract import read_document
from flight_delays.errors import InputError
from flight_delays.infer.differences import Difference, differences
from flight_delays.infer.document import Document, kind_of
from flight_delays.infer.entry import Proposal
from flight_delays.infer.roles import propose
from flight_delays.infer.show import show_differences, show_proposals
from flight_delays.infer.survey import Survey
from flight_delays.infer.target import TASKS, aim, given, most_classes, present
from flight_delays.source import connect, open_source, unreadable


def infer(path: Path, *, if_missing: bool = False, accept: list[str] | None = None, accept_all: bool = False) -> None:
    """Complete a contract from its data, print what was decided, and what the data contradicts.

    Parameters
    ----------
    path
        The contract.
    if_missing
        Do nothing if it describes features already.
    accept, accept_all
        The columns, or all, in which the contract follows the data.

    Raises
    ------
    InputError
        The contract or the data cannot be used.
    """
    document = Document(path)
    refresh = document.described
    if refresh and if_missing:
        return
    console = Console(highlight=False, markup=False, soft_wrap=False)
    with tempfile.TemporaryDirectory(prefix=".infer_", suffix="_cache", dir=path.parent) as folder:
        try:
            proposals, found = _compare(document, str(Path(folder) / "rows.duckdb"))
        except duckdb.Error as error:
            if "No space left" in str(error):
                raise OSError(str(error)) from None
            raise unreadable(Path(str(document.server.get("path"))), error) from None
    accepted = _accept(found, accept or [], accept_all, path)
    if not refresh:
        document.follow_standard()
    if proposals:
        show_proposals(console, proposals)
    if found:
        console.print("The data breaks these rules of the contract:")
        show_differences(console, found)
    before, after = document.text, document.write(read_document) if proposals or accepted else document.text
    if refresh and after != before:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=2)
        print("\n".join(lines), end="\n\n")
    _close(console, proposals, found, accepted, path)


def _compare(document: Document, file: str) -> tuple[list[Proposal], list[Difference]]:
    """Measure the data, add to the document what it lacks, and list the differences."""
    target = document.target
    entries = document.entries
    known = {name: kind_of(entry, document.path) for name, entry in entries.items() if "logicalType" in entry}
    with connect() as connection:
        stored = open_source(connection, Server.model_validate(document.server))
        where = str(document.server.get("path"))
        task = _task(target)
        survey = Survey(connection, stored, file, {target["name"]: most_classes(task)}, known)
        try:
            present(survey, target["name"], where)
            goal = given(target) if "logicalType" in target else aim(survey, target["name"], task, where)
            new = [name for name in stored if name not in known]
            proposals = propose(survey, goal, document.roles(), new)
            for proposal in proposals:
                if proposal.facts.name in entries:
                    document.complete(entries[proposal.facts.name], proposal.entry)
                else:
                    document.add(proposal.entry, "" if proposal.roles else proposal.why)
            return proposals, differences(document, survey, goal, list(known))
        finally:
            survey.close()


def _task(target: Any) -> str:
    """Read which task was asked for."""
    asked = [item["value"] for item in target.get("customProperties") or () if item["property"] == "task"]
    if asked and asked[0] not in TASKS:
        raise InputError(f"contract.yaml: task {asked[0]!r} of {target['name']!r} is none of {', '.join(TASKS)}")
    return asked[0] if asked else "auto"


def _accept(found: list[Difference], names: list[str], everything: bool, path: Path) -> list[Difference]:
    columns = {difference.column for difference in found}
    for name in names:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "run `make contract` to see the differences"
            raise InputError(f"{path}: column {name!r} has nothing to accept: {hint}")
    chosen = [difference for difference in found if everything or difference.column in names]
    for difference in chosen:
        if difference.accept is None and difference.column in names:
            raise InputError(
                f"{path}: column {difference.column!r} ({difference.rule}) cannot follow the data, "
                "the model needs it so: mend the data, or change the column's tags"
            )
        if difference.accept is not None:
            difference.accept()
    return [difference for difference in chosen if difference.accept is not None]


def _close(
    console: Console,
    proposals: list[Proposal],
    found: list[Difference],
    accepted: list[Difference],
    path: Path,
) -> None:
    """Say what needs a look, where to correct it, and what comes next."""
    looks: dict[str, list[str]] = {}
    for proposal in proposals:
        if proposal.look:
            looks.setdefault("likely personal, kept out" if proposal.personal else proposal.look, []).append(
                repr(proposal.facts.name)
            )
    for look, names in looks.items():
        console.print(f"Look at {', '.join(names)}: {look}.")
    if proposals and not any("feature" in proposal.roles for proposal in proposals) and not Document(path).described:
        console.print("No column is a feature: tag at least one before you go on.")
    left = [difference for difference in found if difference not in accepted]
    if left:
        console.print("Mend the data, or let the contract follow it:")
        console.print("  python -m flight_delays.infer --accept COLUMN   (or --accept-all)")
    if proposals:
        console.print(f"Correct it in {path}: `tags` say what a column is for. Next: make pipeline")
    elif not found:
        console.print(f"{path} describes the data.")
    elif accepted and not left:
        console.print(f"{path} follows the data now. Next: make pipeline")
