"""How is a service kept busy while something happens to it? Rows sent from several threads, all counted."""

import http.client
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from flight_delays.serving import door

from tests.conftest import Project

THREADS = 4
USERS = 40  # who ask, by their sticky keys
_SECONDS = 30  # that an answer may take


@dataclass
class Sent:
    """What was asked so far.

    Attributes
    ----------
    answers
        By the request's id, the version that answered.
    faults
        What came in place of answers, and how often.
    """

    answers: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def require_answers(self, meanwhile: str) -> None:
        """Fail the test, with what came instead, if a request was not answered.

        Parameters
        ----------
        meanwhile
            What happened, for the message.
        """
        if self.faults:
            count, (most, _) = self.faults.total(), self.faults.most_common(1)[0]
            pytest.fail(
                f"{count:,} of {count + len(self.answers):,} requests failed {meanwhile}: {most}", pytrace=False
            )


def user(name: str) -> str:
    """Give the sticky key of the request with an id."""
    return name.partition(".")[0]


@contextmanager
def traffic(client: httpx.Client, project: Project) -> Iterator[Sent]:
    """Send the project's test rows, one in each request, over and over, for the length of a `with` block.

    Parameters
    ----------
    client
        Of the service.
    project
        Whose test rows are sent.
    """
    rows = door.to_json(pq.read_table(project.path / "data/test.parquet"), project.contract)
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
    sent, numbers, stop = Sent(), itertools.count(), threading.Event()
    place = client.base_url.host, client.base_url.port or 80
    threads = [threading.Thread(target=_ask, args=(place, bodies, sent, numbers, stop)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(holds: Callable[[], Any], seconds: float) -> Any:
    """Wait until something holds, and give it; at the end of the time give what is there then.

    Parameters
    ----------
    holds
        Asked over and over.
    seconds
        At most.
    """
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _ask(
    place: tuple[str, int], bodies: list[bytes], sent: Sent, numbers: Iterator[int], stop: threading.Event
) -> None:
    connection = _Connection(*place, timeout=_SECONDS)
    while not stop.is_set():
        number = next(numbers)
        name = f"user-{number % USERS}.{number}"
        headers = {"content-type": "application/json", "x-sticky-key": user(name), "x-request-id": name}
        try:
            connection.request("POST", "/predict", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == httpx.codes.OK:
                sent.answers[name] = json.loads(text)["model"]["version"]
            else:
                sent.faults[f"{answer.status} {text[:200].decode(errors='replace')}"] += 1
        except (OSError, http.client.HTTPException) as error:
            sent.faults[f"{type(error).__name__}: {error}"] += 1
            with suppress(OSError):
                connection.close()
    connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection that sends the head and the body of a request without waiting in between."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
