"""Does the replayed traffic bring real rows at its rate, and each fault where the contract has a place for it?"""

import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.monitoring import traffic
from flight_delays.serving import door
from flight_delays.serving.door import Door

from tests.conftest import Project


@pytest.fixture(scope="module")
def rows(finished_project: Project) -> list[dict[str, Any]]:
    """Held-out rows."""
    table = pq.read_table(finished_project.path / "data/test.parquet").slice(0, 200)
    return door.to_json(table, finished_project.contract)


def rules(contract: Contract, sent: list[bytes]) -> Counter[str]:
    """Count what the door says to each body: the first rule that it breaks, or none."""
    at_the_door, found = Door(contract, 10), Counter[str]()
    for body in sent:
        try:
            _, violations = at_the_door.read(body)
        except ValueError:
            found["no JSON"] += 1
        else:
            found[violations[0].rule if violations else "none"] += 1
    return found


def test_rows_without_a_fault_are_let_in(rows: list[dict[str, Any]], finished_project: Project) -> None:
    assert rules(finished_project.contract, traffic.bodies(rows, finished_project.contract)) == {"none": len(rows)}


def plant(rows: list[dict[str, Any]], contract: Contract, fault: str) -> list[bytes]:
    """Plant a fault; where the contract has no place for it, require that this is said, and skip."""
    try:
        return traffic.bodies(rows, contract, fault)
    except InputError as error:
        does_not_apply(str(error))


@pytest.mark.parametrize("fault", ["drift", "nulls"])
def test_a_fault_that_is_allowed_is_let_in_and_changes_one_column(
    rows: list[dict[str, Any]], finished_project: Project, fault: str
) -> None:
    sent = plant(rows, finished_project.contract, fault)
    changed = [json.loads(body)["rows"][0] for body in sent]
    names = {name for old, new in zip(rows, changed, strict=True) for name in old if old[name] != new[name]}
    assert len(names) == 1
    assert rules(finished_project.contract, sent) == {"none": len(rows)}
    if fault == "drift":
        (name,) = names
        assert len({row[name] for row in changed}) < len({row[name] for row in rows})


@pytest.mark.parametrize("fault", ["categories", "broken"])
def test_a_fault_that_is_not_allowed_is_refused(
    rows: list[dict[str, Any]], finished_project: Project, fault: str
) -> None:
    found = rules(finished_project.contract, plant(rows, finished_project.contract, fault))
    assert "none" not in found
    assert found["missing" if fault == "broken" else "values"] >= len(rows) // 2


def test_a_fault_that_has_no_place_is_named(rows: list[dict[str, Any]], finished_project: Project) -> None:
    contract = finished_project.contract
    required = replace(contract, columns=tuple(replace(column, required=True) for column in contract.columns))
    with pytest.raises(InputError, match=r"FAULT=nulls: contract.yaml requires a value"):
        traffic.bodies(rows, required, "nulls")
    free = replace(contract, columns=tuple(replace(column, values=()) for column in contract.columns))
    with pytest.raises(InputError, match=r"FAULT=categories: contract.yaml lists the values of no text"):
        traffic.bodies(rows, free, "categories")
    with pytest.raises(InputError, match="FAULT=drift: no feature has more than one value"):
        traffic.bodies(rows[:1], contract, "drift")


def test_the_rate_is_kept_and_a_burst_is_ten_times_as_much() -> None:
    assert len(list(traffic.moments(50, 20))) == pytest.approx(1000, abs=2)
    bursts = Counter(int(moment) for moment in traffic.moments(10, 20, burst=True))
    assert {second for second, count in bursts.items() if count > 90} == {9, 19}
    assert all(count == pytest.approx(10, abs=1) for second, count in bursts.items() if second not in {9, 19})


@pytest.fixture
def counting() -> Iterator[tuple[str, list[tuple[bytes, str]]]]:
    """A server that answers each second request with 503, and keeps what came."""
    came: list[tuple[bytes, str]] = []
    turn = threading.Lock()

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # all may come at once

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with turn:
                came.append((body, self.headers.get("authorization", "")))
                status = 503 if len(came) % 2 else 200
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()


def test_all_is_sent_with_the_key_and_counted_by_status(counting: tuple[str, list[tuple[bytes, str]]]) -> None:
    url, came = counting
    ticks: list[None] = []
    seen = traffic.send(url, "secret", [b"1", b"2"], iter([0.0] * 40), lambda: ticks.append(None))
    assert Counter(status for status, _ in seen.answers) == {"200": 20, "503": 20}
    assert Counter(body for body, _ in came) == {b"1": 20, b"2": 20}
    assert {key for _, key in came} == {"Bearer secret"}
    assert len(ticks) == 40
    assert "p99" in str(traffic.show(seen, 1.0).caption)


def test_where_nobody_answers_it_says_what_to_start() -> None:
    with pytest.raises(InputError, match=r"does not answer .*: start it with `make stack` or `make serve`"):
        traffic.send("http://127.0.0.1:9", "", [b""], iter([]), lambda: None)
