"""Does the service take what the contract allows and nothing else, naming each fault by row, column and rule?"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_delays.contract import ARROW_TYPES, Column, Contract
from flight_delays.serving import door, page
from flight_delays.serving.door import Door

from tests.conftest import Project

Rows = list[dict[str, Any]]
MOST = 3  # rows of a request
ISO = ("2024-01-01", "2024-01-01T00:00:00", "12:00:00")
LIMITS: dict[str, list[Any]] = {
    "integer": [-(2**63), -1, 0, 3, 2**63 - 1, 2**64, 0.5, 2.5, 1e300],
    "number": [-(2**63), -1, 0, 0.5, 3, 2**53 + 1, 1e300],
    "date": ["2024-01-01"],
    "time": ["12:00:00"],
    "timestamp": ["2024-01-01T00:00:00", "2024-01-01T00:00:00+01:00"],
}
LISTED: dict[str, tuple[Any, ...]] = {
    "boolean": (True,),
    "date": ("2024-01-01",),
    "integer": (1, 5, -7),
    "number": (0.5, 1, 5),
    "string": ("a", "é", "", "ABC"),
    "time": ("12:00:00",),
    "timestamp": ("2024-01-01T00:00:00",),
}
TOKENS = [
    "null", "true", "false", "0", "-0", "-0.0", "1", "5", "5.0", "5e0", "0.5", "-7", "1e999", "-1e999", "1e300",
    "1e-400", "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1",
    *(str(number) for number in (2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**400)),
    "9" * 5000, "", "[]", "{}", "[1]", '{"x": 1}', "[" * 2000, "nul", "5 5",
    *(json.dumps(text) for text in ("", "a", "aa", "ABC", "ABC\n", "abcd", "é", "\0", "5", "true", "\U0001f600")),
    '"\x01"', '"a\n"', '"', "'a'", '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\x"', "\ud800",
    *(f'"{text}"' for text in (
        *ISO, "20240101", "2024-W01-1", "2024-1-1", "2024-02-30", "0000-01-01", "2024-01-01T00", "2024-01-01t00:00:00z",
        "2024-01-01 00:00:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00+02:00", "2024-01-01T00:00:00+24:00",
        "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "2024-01-01T00:00:00.5", "2024-01-01T00:00:00,5",
        "2024-01-01T00:00:00.1234565", "9999-12-31T23:59:59.9999999", "2024-01-01T24:00:00", "2024-01-01T23:59:60",
        "12:00", "12", "120000", "12:00:00.123456789", "23:59:59.9999999", "12:00:00Z", "12:00:00+01:00", "12:00:60",
    )),
]  # fmt: skip
WRONG = {"string": 5, "integer": True}  # of another type than this; for all others, text
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "date": st.dates(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "time": st.times(),
    "timestamp": st.datetimes(),
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def contracts(draw: st.DrawFn, contract: Contract, names: tuple[str, ...]) -> Contract:
    """Draw a contract of columns of any type with any rules."""

    def column(name: str) -> Column:
        kind = draw(st.sampled_from(list(ARROW_TYPES)))
        some: dict[str, st.SearchStrategy[Any]] = {}
        if kind == "string":
            some = dict.fromkeys(("minLength", "maxLength"), st.integers(0, 3))
            some["pattern"] = st.sampled_from(["a+", "^[A-Z]{3}$", "a|ab", "(?s).*", "é"])
        elif kind in LIMITS:
            some = dict.fromkeys(("minimum", "maximum"), st.sampled_from(LIMITS[kind]))
            some |= dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), st.sampled_from(LIMITS[kind]))
        options = draw(st.fixed_dictionaries({}, optional=some))
        values = draw(st.sampled_from([(), (), LISTED[kind]]))
        given = {"required": draw(st.booleans()), "options": options, "values": values}
        return replace(of_one(contract, kind, **given).columns[0], name=name)

    return replace(contract, columns=tuple(map(column, names)))


@st.composite
def bodies(draw: st.DrawFn, contract: Contract) -> bytes:
    """Draw what a client may send: healthy rows, and whatever else."""

    def value(column: Column) -> str:
        healthy = VALUES[column.type] | st.sampled_from(column.values or (None,))
        made = healthy.map(lambda one: json.dumps(door.plain(one), ensure_ascii=False))
        return draw(made if draw(st.booleans()) else st.sampled_from(TOKENS))

    def row() -> str:
        pairs = [(column.name, value(column)) for column in contract.features]
        match draw(st.integers(0, 20)):
            case 0:
                return draw(st.sampled_from(TOKENS))
            case 1:
                pairs = pairs[1:]
            case 2:
                pairs += [("stranger", draw(st.sampled_from(TOKENS)))]
            case 3:
                pairs += [(contract.features[0].name, value(contract.features[0]))]  # twice
            case 4:
                pairs.reverse()
        return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}"

    rows = (
        "["
        + ",".join(row() for _ in range(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, MOST + 1))))
        + "]"
    )
    forms = ["%s", "[%s]", "%s x", "%s\0", "\ufeff%s", '{"rows": 1, %s'] if draw(st.integers(0, 9)) == 0 else [" %s\n"]
    text = draw(st.sampled_from(forms)) % f'{{"rows": {rows}}}'
    return text.encode(draw(st.sampled_from(["utf-8"] * 20 + ["utf-16", "utf-32"])), "surrogatepass")


def arbitrated(body: bytes, contract: Contract) -> tuple[Any, list[door.Violation]] | None:
    """Say what the slow way makes of a body; `None` where it is no JSON."""
    try:
        sent = json.loads(body)
        rows = sent.get("rows") if isinstance(sent, dict) and len(sent) == 1 else None
        if not isinstance(rows, list) or not 1 <= len(rows) <= MOST:
            return None, [door.violation("rows", limit=f"1 to {MOST} rows")]
        return door.read(rows, contract)
    except (ValueError, RecursionError):
        return None


def agree(body: bytes, contract: Contract) -> None:
    """Require that both ways agree on acceptance, violations, table, values and JSON."""
    quick = Door(contract, MOST)
    meant = arbitrated(body, contract)
    if meant is None:
        with pytest.raises((ValueError, RecursionError)):
            quick.read(body)
        return
    table, broken = meant
    request, found = quick.read(body)
    assert found == broken
    if not broken:
        assert quick.table(request).equals(table)
        assert request.rows == list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        assert [[type(value) for value in row] for row in request.rows] == [
            [type(value) for value in row]
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ]
        logged = [dict(zip(json.loads(quick.columns), row, strict=True)) for row in json.loads(request.json)]
        assert door.read(logged, contract)[0].equals(table)


@pytest.fixture(scope="module")
def table(fresh_project: Project) -> pa.Table:
    """A hundred rows of the data, feature columns only."""
    contract = fresh_project.contract
    names = [column.name for column in contract.features]
    return (
        pq.read_table(fresh_project.sample, columns=names)
        .select(names)
        .slice(0, 100)
        .cast(contract.schema(contract.features))
    )


@pytest.fixture
def rows(table: pa.Table, contract: Contract) -> Rows:
    """The same, as they are sent."""
    found: Rows = json.loads(json.dumps(door.to_json(table, contract)))
    return found


def of_one(contract: Contract, kind: str, **given: Any) -> Contract:
    """Make a contract whose only feature is `x`, whatever this project's own are."""
    plain: dict[str, Any] = {
        "required": False,
        "values": (),
        "options": {},
        "custom": {},
        "roles": frozenset({"feature"}),
    }
    return replace(contract, columns=(replace(contract.features[0], name="x", type=kind, **(plain | given)),))


def faults(contract: Contract, *values: Any) -> list[str]:
    """List the rules that values of `x` break."""
    return [entry.rule for entry in door.read([{"x": value} for value in values], contract)[1]]


def ways_to_break(column: Column) -> Iterator[tuple[str, Any]]:
    """List rules of a column, each with a value that breaks it."""
    yield "type", WRONG.get(column.type, "many")
    if column.required:
        yield "required", None
    if column.type == "number":
        yield from (("finite", value) for value in (math.nan, math.inf, -math.inf))
    if column.values and column.type == "string":
        yield "values", "never seen"
    if column.type in {"integer", "number"}:
        yield from (("minimum", column.minimum - 1) for _ in [0] if column.minimum is not None)
        yield from (("maximum", column.maximum + 1) for _ in [0] if column.maximum is not None)
    if column.type == "timestamp" and column.minimum:
        yield "minimum", "0001-01-01T00:00:00"
    if column.options.get("pattern"):
        yield "pattern", "\n"


def test_rows_of_the_data_pass_the_door_unchanged(table: pa.Table, rows: Rows, contract: Contract) -> None:
    received, broken = door.read(rows, contract)
    assert broken == []
    assert received.equals(table)


def test_each_rule_of_each_column_is_kept(rows: Rows, contract: Contract) -> None:
    for column in contract.features:
        for rule, value in ways_to_break(column):
            sent = [*rows[:7], rows[7] | {column.name: value}, *rows[8:]]
            _, broken = door.read(sent, contract)
            assert (7, column.name, rule) in [(entry.row, entry.column, entry.rule) for entry in broken]
            assert {(entry.row, entry.column) for entry in broken} == {(7, column.name)}


def test_all_faults_are_named_row_by_row(rows: Rows, contract: Contract) -> None:
    first, last = contract.features[0].name, contract.features[-1].name
    sent = [{name: value for name, value in rows[0].items() if name != last}, 5, rows[1] | {"stranger": 1, first: {}}]
    _, broken = door.read(sent, contract)
    assert [(entry.row, entry.column, entry.rule) for entry in broken] == [
        (0, last, "missing"),
        (1, None, "row"),
        (2, "stranger", "unknown"),
        (2, first, "type"),
    ]
    assert str(broken[2]) == "row 2, column 'stranger': is not asked for: leave it out"


def test_of_columns_that_are_not_asked_for_no_value_is_shown(rows: Rows, contract: Contract) -> None:
    others = [column.name for column in contract.columns if "feature" not in column.roles]
    _, broken = door.read([rows[0] | dict.fromkeys([*others, "stranger"], "marker-4711")], contract)
    assert {entry.rule for entry in broken} == {"unknown"}
    assert {entry.column for entry in broken} == {*others, "stranger"}
    assert "marker-4711" not in str(broken)


@pytest.mark.parametrize("kind", ARROW_TYPES)
@given(data=st.data())
def test_a_value_of_any_type_comes_through_json_unchanged(contract: Contract, kind: str, data: st.DataObject) -> None:
    one = of_one(contract, kind)
    sent = pa.table({"x": pa.array(data.draw(st.lists(st.none() | VALUES[kind], max_size=5)), ARROW_TYPES[kind])})
    received, broken = door.read(json.loads(json.dumps(door.to_json(sent, one))), one)
    assert broken == []
    assert received.equals(sent)


@given(sent=st.lists(ANY_JSON | st.dictionaries(st.just("x"), ANY_JSON), max_size=5))
def test_whatever_is_sent_is_read_or_refused(contract: Contract, sent: list[Any]) -> None:
    for kind in ARROW_TYPES:
        received, broken = door.read(
            sent, of_one(contract, kind, options={"pattern": "a+"} if kind == "string" else {})
        )
        assert received.num_rows == len(sent)
        assert all(0 <= (entry.row or 0) < len(sent) for entry in broken)
        json.dumps([entry.message for entry in broken], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        ("integer", 5.0, "5"),
        ("number", 5, "5.0"),
        ("date", "2024-12-31", "2024-12-31"),
        ("time", "23:59", "23:59:00"),
        ("timestamp", "2024-12-31", "2024-12-31 00:00:00"),
        ("timestamp", "2024-01-01T01:00:00+02:00", "2023-12-31 23:00:00"),
        ("timestamp", "2024-01-01T01:00:00Z", "2024-01-01 01:00:00"),
    ],
)
def test_what_is_clear_is_understood(contract: Contract, kind: str, value: Any, meant: str) -> None:
    received, broken = door.read([{"x": value}], of_one(contract, kind))
    assert broken == []
    assert str(received["x"][0].as_py()) == meant


@pytest.mark.parametrize(
    ("kind", "value", "rule"),
    [
        ("boolean", 1, "type"),
        ("date", "2024-02-30", "type"),
        ("date", 20240131, "type"),
        ("integer", 5.5, "type"),
        ("integer", 2**63, "type"),
        ("integer", "5", "type"),
        ("integer", math.nan, "type"),
        ("number", True, "type"),
        ("number", "5", "type"),
        ("number", 10**400, "finite"),
        ("string", "\ud800", "type"),
        ("time", "12:00:00+01:00", "type"),
        ("timestamp", "epoch", "type"),
        ("timestamp", "0001-01-01T00:00:00+02:00", "type"),
    ],
)
def test_what_is_of_another_type_is_refused(contract: Contract, kind: str, value: Any, rule: str) -> None:
    assert faults(of_one(contract, kind), value) == [rule]


def test_bounds_lengths_and_patterns_are_kept(contract: Contract) -> None:
    closed = of_one(contract, "number", options={"minimum": 0, "maximum": 1})
    assert faults(closed, 0, 1, None) == []
    assert faults(closed, -1, 2) == ["minimum", "maximum"]
    assert faults(of_one(contract, "integer", options={"exclusiveMinimum": 0, "exclusiveMaximum": 2}), 0, 1, 2) == [
        "exclusiveMinimum",
        "exclusiveMaximum",
    ]
    text = of_one(contract, "string", options={"minLength": 2, "maxLength": 3, "pattern": "a|ab+"})
    assert faults(text, "abb", "ab", None) == []
    assert faults(text, "a", "abbb", "ab\n") == ["minLength", "maxLength", "pattern"]
    days = of_one(contract, "date", options={"minimum": "2024-01-01"}, values=("2024-01-05", "2023-01-05"))
    assert faults(days, "2024-01-05", "2023-01-05", "2024-01-06") == ["minimum", "values"]


def test_the_example_in_the_documentation_can_be_sent(contract: Contract) -> None:
    assert door.read(page.example(contract)["rows"], contract)[1] == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("string", {"pattern": "^[A-Z]{3}$"}),
        ("string", {"pattern": "[0-9]+", "minLength": 5}),
        ("number", {"minimum": 3}),
        ("number", {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        ("integer", {"maximum": -3}),
        ("date", {"maximum": "2020-01-01"}),
        ("timestamp", {"minimum": "2030-01-01T00:00:00"}),
        ("time", {}),
        ("boolean", {}),
    ],
)
def test_the_example_keeps_the_rules_of_any_column(contract: Contract, kind: str, options: dict[str, Any]) -> None:
    one = of_one(contract, kind, options=options, required=True)
    assert door.read(page.example(one)["rows"], one)[1] == []


@settings(max_examples=400)
@given(data=st.data())
def test_the_quick_way_and_the_slow_one_agree_on_whatever_is_sent(contract: Contract, data: st.DataObject) -> None:
    asked = data.draw(contracts(contract, ("x", "ein Wört", 'a "b"\\\n') if data.draw(st.booleans()) else ("x", "y")))
    agree(data.draw(bodies(asked)), asked)


@pytest.mark.parametrize("kind", ARROW_TYPES)
def test_both_ways_agree_on_each_token_under_each_rule_alone(contract: Contract, kind: str) -> None:
    rules: list[dict[str, Any]] = [
        {rule: limit} for rule in ("minimum", "exclusiveMaximum") for limit in LIMITS.get(kind, [])
    ]
    rules += [{"minimum": limit, "exclusiveMinimum": limit} for limit in LIMITS.get(kind, [])]
    rules += [{"minLength": 2}, {"maxLength": 1}, {"pattern": "a+"}] if kind == "string" else []
    chosen: list[dict[str, Any]] = [{"options": options} for options in ({}, *rules)]
    for given_ in (*chosen, {"values": LISTED[kind]}, {"required": True}):
        asked = of_one(contract, kind, **given_)
        for token in TOKENS:
            agree(f'{{"rows": [{{"x": {token}}}]}}'.encode("utf-8", "surrogatepass"), asked)


def test_rows_of_the_data_go_the_quick_way(rows: Rows, contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Door, "_explain")
    request, broken = Door(contract, 100).read(json.dumps({"rows": rows}).encode())
    assert (len(request.rows), broken) == (len(rows), [])


def test_limits_that_contradict_their_column_are_kept_by_the_slow_way(contract: Contract) -> None:
    for kind, values in (("string", (1, "a")), ("integer", (1, True)), ("integer", (2**70, 1)), ("integer", (1.0, 2))):
        asked = of_one(contract, kind, values=values)
        for token in ("1", '"a"', "true", "2", "2.0", str(2**70)):
            agree(f'{{"rows": [{{"x": {token}}}]}}'.encode(), asked)


def test_of_many_faults_the_first_are_named_soon(contract: Contract) -> None:
    asked, many = of_one(contract, "integer"), 10_000
    _, broken = Door(asked, many).read(json.dumps({"rows": [{"x": "a"}] * many}).encode())
    assert door.ENOUGH <= len(broken) < 2 * door.ENOUGH
    assert [entry.row for entry in broken] == list(range(len(broken)))
    _, broken = Door(asked, many).read(json.dumps({"rows": [dict.fromkeys(map(str, range(many)), 1)]}).encode())
    assert len(broken) == door.ENOUGH + 1


def test_a_column_may_let_a_broken_rule_pass_and_count_it_but_no_other_type(contract: Contract) -> None:
    lenient: dict[str, Any] = {"custom": {door.ON_VIOLATION: door.WARN}, "required": True}
    asked = of_one(contract, "integer", options={"minimum": 0, "maximum": 9}, **lenient)
    quick = Door(asked, 1_000)
    many: Rows = [{"x": 5}] * 400 + [{"x": -1}, {"x": 10}, {"x": None}]
    request, broken = quick.read(json.dumps({"rows": many}).encode())
    assert broken == []
    assert [(entry.row, entry.column, entry.rule) for entry in request.warnings] == [
        (400, "x", "minimum"),
        (401, "x", "maximum"),
        (402, "x", "required"),
    ]
    assert json.loads(request.json) == [[row["x"]] for row in many]
    assert quick.table(request)["x"].to_pylist() == [row["x"] for row in many]
    for value, rule in (("5", "type"), (5.5, "type"), (2**63, "type"), ({}, "type")):
        request, broken = quick.read(json.dumps({"rows": [{"x": -1}, {"x": value}]}).encode())
        assert [(entry.row, entry.rule) for entry in broken] == [(1, rule)]
        assert [entry.rule for entry in request.warnings] == ["minimum"]
    assert [entry.rule for entry in quick.read(b'{"rows": [{}]}')[1]] == ["missing"]
    text = of_one(contract, "string", values=("a",), options={"pattern": "a"}, **lenient)
    request, broken = Door(text, 1).read(b'{"rows": [{"x": "b"}]}')
    assert (broken, [entry.rule for entry in request.warnings]) == ([], ["values", "pattern"])
    number = of_one(contract, "number", **lenient)
    assert [entry.rule for entry in Door(number, 1).read(b'{"rows": [{"x": NaN}]}')[1]] == ["finite"]


def test_only_columns_that_say_so_let_a_broken_rule_pass(contract: Contract) -> None:
    strict = of_one(contract, "integer", options={"minimum": 0}, custom={door.ON_VIOLATION: "refuse"})
    request, broken = Door(strict, 1).read(b'{"rows": [{"x": -1}]}')
    assert ([entry.rule for entry in broken], request.warnings) == (["minimum"], [])
