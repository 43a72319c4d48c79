"""Is somebody told when a library, the data's columns or a base image changes?"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.monitoring import dependencies

from tests.alerts import firing
from tests.conftest import Project

Copy = Callable[[Project], Project]


class Advisories(BaseHTTPRequestHandler):
    """Speaks as https://osv.dev does, and knows of one hole: in NumPy."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        hole = {"vulns": [{"id": "HOLE-1", "modified": "2026-01-01T00:00:00Z"}]}
        self._answer({"results": [hole if one["package"]["name"] == "numpy" else {} for one in asked]})

    def do_GET(self) -> None:
        package = {"name": "numpy", "ecosystem": "PyPI"}
        events = [{"introduced": "0"}, {"fixed": "999"}]
        self._answer(
            {
                "id": "HOLE-1",
                "summary": "planted",
                "modified": "2026-01-01T00:00:00Z",
                "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
            }
        )

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def advisories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The advisory service of this test alone."""
    with HTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(dependencies.SERVICE, f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.fixture
def sample(fresh_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, in the current folder."""
    project = copy(fresh_project)
    monkeypatch.chdir(project.path)
    return project


@pytest.mark.ml_test("mon-1")
def test_what_this_project_rests_on_is_as_locked_and_as_agreed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    if found := [*dependencies.installed(), *dependencies.lock(), *dependencies.schema()]:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.sabotage(
    of=test_what_this_project_rests_on_is_as_locked_and_as_agreed, fault="the source loses a column over night"
)
def test_a_column_that_is_gone_fails_the_row(sample: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.rewrite(f'SELECT * EXCLUDE ("{sample.contract.features[0].name}") FROM sample')
    with pytest.raises(pytest.fail.Exception, match=r"column .* is gone: `make contract` shows it all"):
        test_what_this_project_rests_on_is_as_locked_and_as_agreed(sample, monkeypatch)


@pytest.mark.usefixtures("advisories", "sample")
@pytest.mark.ml_test("mon-1", twin="plants its own faults")
def test_a_hole_in_a_library_is_named() -> None:
    (line,) = dependencies.vulnerable()
    assert line.startswith("numpy ")
    assert "HOLE-1 (planted), mended in 999" in line
    found = dependencies.look()
    assert found["changes"]["vulnerable"] == [line]


@pytest.mark.ml_test("mon-1", twin="plants its own faults")
def test_a_changed_column_is_named(sample: Project) -> None:
    assert dependencies.schema() == []
    feature = sample.contract.features[0]
    others = [f'"{column.name}"' for column in sample.contract.columns if column.name != feature.name]
    sample.rewrite(f"SELECT {', '.join(others)}, 1 AS newcomer FROM sample")
    assert [line.split(":")[0] for line in dependencies.schema()] == [
        f"column {feature.name!r} is gone",
        "column 'newcomer' is new",
    ]


@pytest.mark.ml_test("mon-1", twin="plants its own faults")
def test_a_column_of_another_type_is_named(sample: Project) -> None:
    typed = next((c for c in sample.contract.features if c.type in {"integer", "number", "timestamp", "date"}), None)
    if typed is None:
        does_not_apply("every feature is text, which anything is")
    sample.rewrite(f"""SELECT * REPLACE ('about ' || "{typed.name}" AS "{typed.name}") FROM sample""")
    (line,) = dependencies.schema()
    assert line.startswith(f"column {typed.name!r} holds ")
    assert f"no {typed.type}" in line


@pytest.mark.ml_test("mon-1", twin="plants its own faults")
def test_a_lock_that_is_not_kept_is_named(sample: Project) -> None:
    path = sample.path / "pyproject.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("dependencies = [", 'dependencies = ["six",', 1))
    (line,) = dependencies.lock()
    assert line.startswith("uv.lock is not what pyproject.toml asks for")


@pytest.mark.usefixtures("sample")
@pytest.mark.ml_test("mon-1", twin="plants its own faults")
def test_a_library_that_is_not_the_locked_one_is_named() -> None:
    assert dependencies.installed() == []
    text = dependencies.LOCK.read_text(encoding="utf-8")
    changed, count = re.subn(r'(name = "numpy"\nversion = )"[^"]+"', r'\1"0.0.1"', text)
    assert count
    dependencies.LOCK.write_text(changed, encoding="utf-8")
    (line,) = dependencies.installed()
    assert re.fullmatch(r"numpy \S+ is installed, 0\.0\.1 locked: run `make setup`", line)


def test_an_image_that_was_built_anew_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Dockerfile").write_text("FROM python:3.11-slim AS base\nFROM base AS serve\n", encoding="utf-8")
    digests = iter(["sha256:one", "sha256:one", "sha256:two"])
    program = tmp_path / "docker"

    def inspect() -> list[str]:
        program.write_text(f"#!/bin/sh\necho {next(digests)}\n", encoding="utf-8")
        program.chmod(0o755)
        return dependencies.rebuilt(images)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    images: dict[str, str] = {}
    assert inspect() == []
    assert inspect() == []
    (line,) = inspect()
    assert line.startswith("python:3.11-slim was built anew (sha256:two)")


@pytest.mark.usefixtures("sample")
def test_what_cannot_be_looked_at_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dependencies.SERVICE, "http://127.0.0.1:9")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    found = dependencies.look()
    assert "vulnerable" not in found["changes"]
    assert found["unknown"]["vulnerable"].startswith("uv audit: ")
    assert found["changes"]["schema"] == []


def test_an_urgent_change_ends_in_one_clear_line(sample: Project) -> None:
    sample.rewrite(f'SELECT * EXCLUDE ("{sample.contract.features[0].name}") FROM sample')
    ran = sample.run("python", "-m", dependencies.__name__)
    assert ran.returncode == 1
    (line,) = ran.stderr.strip().splitlines()
    assert line.startswith("error: ")
    (change,) = json.loads((sample.path / dependencies.REPORT).read_text(encoding="utf-8"))["changes"]["schema"]
    assert change.startswith(f"column {sample.contract.features[0].name!r} is gone")


@pytest.mark.ml_test("mon-1", twin="plants its own faults")
@pytest.mark.parametrize("kind", dependencies.URGENT)
def test_a_change_of_each_kind_reaches_a_person(kind: str) -> None:
    found = firing({f'dependency_changes{{kind="{kind}"}}': "0x10 1x600"}, "1h")
    assert found == {"DependencyChanged"}
