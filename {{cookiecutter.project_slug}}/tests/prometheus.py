"""How do tests ask a real Prometheus? Started on a free port of this machine, stopped by its own process."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

INSTALL = "apt-get install --no-install-recommends prometheus prometheus-alertmanager"
_START_SECONDS, _STOP_SECONDS, _LOOK_SECONDS = 30, 30, 0.2
_OK = 200
_MOST_ERROR = 2000  # characters of its log that are shown


class QueryError(ValueError):
    """Prometheus cannot make sense of a query."""


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs.

    Attributes
    ----------
    url
        Its address.
    """

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now, and give its series: each with `metric`, its labels, and `value`, a number.

        Parameters
        ----------
        expression
            In PromQL.

        Raises
        ------
        QueryError
            It is not PromQL.
        """
        answer = self.get("query", query=expression)
        found = answer["result"]
        if answer["resultType"] == "scalar":
            return [{"metric": {}, "value": float(found[1])}]
        return [{"metric": one["metric"], "value": float(one["value"][1])} for one in found]

    def wait(self, expression: str, seconds: float) -> list[dict[str, Any]]:
        """Evaluate an expression until it gives something, and give that; at the end of the time, nothing.

        Parameters
        ----------
        expression
            In PromQL.
        seconds
            At most.
        """
        end = time.monotonic() + seconds
        while not (found := self.query(expression)) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Give the alerts that are pending or firing, each with `labels`, `annotations` and `state`."""
        found: list[dict[str, Any]] = self.get("alerts")["alerts"]
        return found

    def get(self, what: str, **sent: str) -> Any:
        """Ask the interface for programs.

        Parameters
        ----------
        what
            Below `/api/v1/`, such as `targets`.
        **sent
            With it.

        Raises
        ------
        QueryError
            It refuses.
        """
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=sent, timeout=30, trust_env=False)
        if answer.status_code != _OK:
            raise QueryError(answer.text)
        return answer.json()["data"]


def promtool() -> str:
    """Give the path of `promtool`, or skip the test and say how to have it."""
    return _program("promtool")


def free_port() -> int:
    """Give a port of this machine that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found: int = taken.getsockname()[1]
        return found


@contextmanager
def prometheus(
    targets: dict[str, list[str]],
    rules: list[Path],
    folder: Path,
    scrape: str = "1s",
    alertmanager: str | None = None,
) -> Iterator[Prometheus]:
    """Run a Prometheus for the length of a `with` block, once it has scraped all targets; skip where there is none.

    Parameters
    ----------
    targets
        By job, `host:port` of what is scraped.
    rules
        Rule files; their groups are evaluated as often as is scraped, whatever interval they have.
    folder
        An empty one, for its files.
    scrape
        Time between two scrapes.
    alertmanager
        `host:port` of where alerts are sent.
    """
    program, port = _program("prometheus"), free_port()
    (folder / "rules").mkdir(parents=True)
    for path in rules:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in document["groups"]:
            group.pop("interval", None)
        _write(folder / "rules" / path.name, document)
    jobs = [{"job_name": job, "static_configs": [{"targets": places}]} for job, places in targets.items()]
    _write(
        folder / "prometheus.yaml",
        {
            "global": {"scrape_interval": scrape, "scrape_timeout": scrape, "evaluation_interval": scrape},
            "rule_files": [str(folder.resolve() / "rules" / path.name) for path in rules],
            "scrape_configs": jobs,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []},
        },
    )
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=file,
            stderr=file,
        )
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            _wait_until_it_scrapes(found, sum(map(len, targets.values())), process, log)
            yield found
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _wait_until_it_scrapes(found: Prometheus, targets: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if len(found.query("up")) == targets:
                return
        except (httpx.TransportError, QueryError):  # not yet there
            pass
        time.sleep(_LOOK_SECONDS)
    said = log.read_text(encoding="utf-8", errors="replace")[-_MOST_ERROR:]
    pytest.fail(f"Prometheus does not start: {said}", pytrace=False)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: {INSTALL}")
    return path


def _write(path: Path, document: Any) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
