"""Do requests keep the contract by the same rules as the data, and is what breaks it refused, named and counted?"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.pipeline.ingest import ingest
from flight_delays.pipeline.validate import message, validate
from flight_delays.serving import door
from flight_delays.serving.app import build
from flight_delays.serving.guard import Guard, Keys, Rates
from flight_delays.serving.roles import Loaded, Roles, Served
from flight_delays.serving.service import Service

from tests.conftest import Project
from tests.service import serve
from tests.tiny import running

PLACE = 2  # among the rows, of the one that breaks a rule
NAME = 'stranger " \\ {}'  # that a client makes up
WRONG = {"string": 5, "integer": "many", "number": "many", "boolean": "yes"}  # else text that is no time
# What each rule is called where the pipeline finds it broken.
_SAID = {
    "required": "not be null",
    "values": "in set",
    "minimum": "between",
    "maximum": "between",
    "exclusiveMinimum": "between",
    "exclusiveMaximum": "between",
    "minLength": "length",
    "maxLength": "length",
    "pattern": "matches",
    "unknown": "is not in contract.yaml",
    "missing": "is missing",
    "type": "is no",
}


@dataclass(frozen=True)
class Violation:
    """A way to break the contract.

    Attributes
    ----------
    column
        Its name; `None` for the request as a whole.
    rule
        By which the door names it.
    change
        Makes the request from one that keeps the contract.
    value
        As it would stand in the data, where it could.
    """

    column: str | None
    rule: str
    change: Callable[[list[dict[str, Any]]], Any]
    value: Any = ...


def battery(project: Project) -> list[Violation]:
    """Break each rule of each feature, and each of the request's form."""
    found = []
    for column in project.contract.features:
        for rule, value in _broken(column):
            found.append(Violation(column.name, rule, _put(column.name, value), value))
        found.append(Violation(column.name, "missing", _drop(column.name)))
    return [
        *found,
        Violation(NAME, "unknown", _put(NAME, 1)),
        Violation(None, "row", lambda rows: {"rows": [*rows[:PLACE], "no row", *rows[PLACE + 1 :]]}),
        Violation(None, "rows", lambda rows: {"rows": rows, NAME: 1}),
        Violation(None, "rows", lambda _: {"rows": []}),
    ]


def _broken(column: Column) -> list[tuple[str, Any]]:
    rules, number = column.options, column.type in {"integer", "number"}
    found: list[tuple[str, Any]] = [("type", WRONG.get(column.type, "no time"))]
    found += [("required", None)] if column.required else []
    found += [("finite", float("nan")), ("finite", float("inf"))] if column.type == "number" else []
    found += [("values", "never seen")] if column.values and column.type == "string" else []
    for rule, step in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
        if rule in rules and number:
            found.append((rule, rules[rule] + step if column.type == "number" else int(rules[rule]) + step))
    if column.type == "timestamp" and "minimum" in rules:
        found.append(("minimum", "1700-01-01T00:00:00"))
    if column.type == "date" and "minimum" in rules:
        found.append(("minimum", "1700-01-01"))
    if "pattern" in rules and not column.values:
        found.append(("pattern", "\t"))
    return found


def _put(name: str, value: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: {"rows": [*rows[:PLACE], rows[PLACE] | {name: value}, *rows[PLACE + 1 :]]}


def _drop(name: str) -> Callable[[list[dict[str, Any]]], Any]:
    def change(rows: list[dict[str, Any]]) -> Any:
        left = {key: value for key, value in rows[PLACE].items() if key != name}
        return {"rows": [*rows[:PLACE], left, *rows[PLACE + 1 :]]}

    return change


def counts(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Read how often each rule of each column was broken, as Prometheus does."""
    pattern = r'service_violations_total\{action="refused",column="((?:[^"\\]|\\.)*)",rule="(\w+)"\} (\S+)'
    found = re.findall(pattern, client.get("/metrics").text)
    return {(json.loads(f'"{column}"'), rule): float(count) for column, rule, count in found}


def require_all_named(project: Project, client: httpx.Client) -> None:
    """Send every violation, and require that each is answered by its row, column and rule, and counted."""
    table = pq.read_table(project.path / "data/test.parquet").slice(0, 4)
    rows = json.loads(json.dumps(door.to_json(table, project.contract)))
    assert client.post("/predict", json={"rows": rows}).status_code == httpx.codes.OK
    names = {column.name for column in project.contract.features}
    problems = []
    for entry in battery(project):
        before = counts(client)
        answer = client.post("/predict", content=json.dumps(entry.change(rows)))
        told = {(one["row"], one["column"], one["rule"]) for one in answer.json().get("violations", [])}
        row = None if entry.rule == "rows" else PLACE
        what = f"column {entry.column!r}, rule {entry.rule!r}, value {entry.value!r}"
        if answer.status_code != httpx.codes.UNPROCESSABLE_ENTITY or (row, entry.column, entry.rule) not in told:
            problems.append(f"{what}: answered {answer.status_code} {sorted(told, key=str)}")
            continue
        label = entry.column if entry.column in names else "" if entry.column is None else "unknown"
        after = counts(client)
        if after.get((label, entry.rule), 0) != before.get((label, entry.rule), 0) + 1:
            problems.append(f"{what}: not counted in /metrics")
    if NAME in client.get("/metrics").text or "stranger" in client.get("/metrics").text:
        problems.append("a name that a client made up is used as a label")
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.mark.ml_test("mon-2")
def test_every_violation_of_a_request_is_refused_named_and_counted(finished_project: Project) -> None:
    with serve(finished_project, "--model", "models/candidate") as client:
        require_all_named(finished_project, client)


def in_this_process(loaded: Loaded) -> Any:
    """Serve a model that is loaded already."""
    served = Served(Roles(Served.of(loaded.model, "1").now.release, loaded))
    return running(Guard(build(Service(served)), Keys(""), Rates(0)))


@pytest.mark.sabotage(
    of=test_every_violation_of_a_request_is_refused_named_and_counted,
    fault="a door that lets a rule of one column be broken",
)
def test_a_rule_that_the_door_skips_is_named(finished_project: Project) -> None:
    loaded = Loaded.read("1", finished_project.path / "models/candidate")
    contract = loaded.model.contract
    name, blind = blinded(contract)
    loaded.door = door.Door(blind, 10_000)
    with in_this_process(loaded) as port:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        with client, pytest.raises(pytest.fail.Exception, match=re.escape(f"column {name!r}, rule")):
            require_all_named(finished_project, client)


def blinded(contract: Contract) -> tuple[str, Contract]:
    """Name a column, and give the contract without this column's rules."""
    broken = {column.name: {rule for rule, _ in _broken(column)} - {"type", "finite"} for column in contract.features}
    name = next((name for name, rules in broken.items() if rules), None)
    if name is None:
        does_not_apply("no feature of the contract has a rule")
    columns = (
        replace(one, required=False, values=(), options={}, minimum=None, maximum=None) for one in contract.columns
    )
    chosen = tuple(blind if one.name == name else one for one, blind in zip(contract.columns, columns, strict=True))
    return name, replace(contract, columns=chosen)


def found_by_the_pipeline(project: Project, entry: Violation, folder: Path) -> list[str]:
    """Put a violation into the data, and give what the pipeline says of it."""
    contract = project.contract
    table = pq.read_table(project.path / "data/rows.parquet").slice(0, 50)
    if entry.rule == "unknown":
        table = table.append_column("stranger", pa.array(range(len(table))))
    elif entry.rule == "missing":
        table = table.drop_columns([str(entry.column)])
    else:
        column = next(column for column in contract.features if column.name == entry.column)
        values = table[column.name].to_pylist()
        if entry.rule == "type":
            values = [None if value is None else str(value) for value in values]
            values[PLACE], kind = str(entry.value), pa.string()
        else:
            parse = door._PARSERS[column.type] if isinstance(entry.value, str) else lambda value: value
            values[PLACE], kind = parse(entry.value), column.arrow_type
        table = table.set_column(table.column_names.index(column.name), column.name, pa.array(values, kind))
    folder.mkdir()
    pq.write_table(table, folder / "broken.parquet")
    moved = replace(contract, source=contract.source | {"path": str(folder / "broken.parquet")})
    try:
        ingest(moved, folder / "rows.parquet")
    except InputError as error:
        return [str(error)]
    judged = validate(moved, folder / "rows.parquet", docs=None)
    return [message(one, folder / "rows.parquet") for one in judged if not one["success"]]


@pytest.mark.ml_test("mon-2")
def test_the_pipeline_finds_the_same_violations_in_the_data(finished_project: Project, tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    problems = []
    for place, entry in enumerate(battery(finished_project)):
        column = next((one for one in finished_project.contract.features if one.name == entry.column), None)
        kind = column.type if column else ""
        if (
            entry.rule in {"row", "rows", "finite"}
            or (kind, entry.rule) in seen
            or (kind, entry.rule) == ("string", "type")
        ):
            continue  # a file has no such faults: its rows are rows, and its NaN is null; all can be text
        seen.add((kind, entry.rule))
        found = found_by_the_pipeline(finished_project, entry, tmp_path / str(place))
        name = "stranger" if entry.rule == "unknown" else entry.column
        if not any(repr(name) in words and _SAID[entry.rule] in words for words in found):
            problems.append(f"column {entry.column!r}, rule {entry.rule!r}: the pipeline says {found}")
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.mark.sabotage(
    of=test_the_pipeline_finds_the_same_violations_in_the_data,
    fault="a validation that lets the rules of one column be broken",
)
def test_a_rule_that_the_pipeline_skips_is_named(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = blinded(finished_project.contract)
    real = validate

    def skip(contract: Contract, rows: Path, docs: Path | None) -> list[dict[str, Any]]:
        return real(blinded(contract)[1], rows, docs)

    monkeypatch.setitem(globals(), "validate", skip)
    with pytest.raises(pytest.fail.Exception, match=re.escape(f"column {name!r}, rule")):
        test_the_pipeline_finds_the_same_violations_in_the_data(finished_project, tmp_path)
