"""Does `make stack` bring up what it promises? The service with its registry on a database and a store of objects.

All runs from the project's compose file, built by it; where no registry is reached, what others publish as images is
made of packages: most of Debian's, the store of objects of Moto, which speaks S3 as well.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import docker, need_engine, need_image, remove_images
from projects import Made, commit, ok, small_shop

pytestmark = pytest.mark.slow

PORTS = {"PORT": "18493", "MLFLOW_PORT": "18494", "PROMETHEUS_PORT": "18495"}
REGISTRY = f"http://127.0.0.1:{PORTS['MLFLOW_PORT']}"


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Make a project, committed and without a model; what it runs is gone in the end, with what that stored."""
    need_engine()
    project = small_shop(template, tmp_path_factory.mktemp("stack"), "Stacked Shop")
    project.set_up()
    commit(project, "Lock the environment")
    for name in ("proxy", "postgres", "objects", "prometheus", "node-exporter"):
        need_image(project, name)
    parts = yaml.safe_load((project.path / "compose.yaml").read_text(encoding="utf-8"))["services"]
    by_host = {name: {"build": {"network": "host"}} for name, part in parts.items() if "build" in part}  # as packages are reached
    (project.path.parent / "here.yaml").write_text(yaml.safe_dump({"services": by_host}), encoding="utf-8")
    try:
        yield project
    finally:
        compose = ["docker", "compose", "--project-directory", str(project.path), "--profile", "*", "down", "--volumes"]
        subprocess.run(compose, capture_output=True, check=False)
        remove_images("stacked-shop")


def stack(made: Made) -> subprocess.CompletedProcess[str]:
    """Type it as the README has it."""
    files = f"{made.path}/compose.yaml:{made.path.parent}/here.yaml"
    return made.make("stack", "PROFILE=tracking", COMPOSE_FILE=files, **PORTS)


def ask(made: Made, path: str, body: bytes | None = None) -> dict[str, object]:
    """Ask the service, through the proxy, with the key that the stack made."""
    key = (made.path / ".secrets/client_key").read_text(encoding="utf-8")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{PORTS['PORT']}{path}", body, headers)) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def states(made: Made) -> dict[str, set[str]]:
    """Give the states of all containers by what they are."""
    listed = docker("compose", "--project-directory", str(made.path), "--profile", "*", "ps", "--all", "--format", "json")
    found: dict[str, set[str]] = {}
    for container in map(json.loads, listed.splitlines()):
        found.setdefault(container["Service"], set()).add(container["Health"] or f"{container['State']} {container['ExitCode']}")
    return found


def test_a_registry_a_first_model_and_a_service_come_up_one_after_the_other_and_again(made: Made) -> None:
    with socket.create_server(("127.0.0.1", int(PORTS["MLFLOW_PORT"]))):
        taken = stack(made)
    assert taken.returncode
    assert PORTS["MLFLOW_PORT"] in taken.stderr
    assert "is empty" not in taken.stderr  # nobody knows that yet

    empty = stack(made)
    assert empty.returncode
    assert "error: the registry has no champion yet: " in empty.stdout, empty.stdout + empty.stderr
    assert f"MLFLOW_TRACKING_URI={REGISTRY} make register` and then this once more" in empty.stderr
    assert states(made)["mlflow"] == states(made)["postgres"] == {"healthy"}

    ok(made.make("pipeline"))  # which registers in the project's own file
    assert "version 1" in ok(made.make("register", MLFLOW_TRACKING_URI=REGISTRY))
    ok(stack(made))
    ended = {name: {"exited 0"} for name in ("bucket", "release")}
    running = ("service", "proxy", "controller", "monitor", "mlflow", "postgres", "objects")
    assert states(made) == ended | {name: {"healthy"} for name in running}

    answer = ask(made, "/predict", json.dumps(ask(made, "/example")).encode())
    assert answer["model"] == {"name": "stacked-shop", "version": "1"}
    assert "champion in the registry" in ok(made.make("release", STACK="1"))
    assert "skew: none" in ok(made.make("skew", STACK="1"))  # of what is in the stack's store, reported in this folder
    assert (made.path / "reports/skew.json").is_file()
    inside = ("compose", "--project-directory", str(made.path), "--profile", "tracking", "exec", "--no-TTY", "postgres")
    count = "SELECT count(*) FROM model_versions WHERE name = 'stacked-shop'"
    assert docker(*inside, "psql", "-h", "/var/run/postgresql", "-U", "mlflow", "-tAc", count).strip() == "1"
    assert "healthy" in ok(made.make("stack-status"))

    ok(made.make("stack-down"))
    assert states(made) == {}
    ok(stack(made))
    assert ask(made, "/release")["release"]["champion"] == "1"  # type: ignore[index]


def prometheus(path: str) -> Any:
    """Ask the stack's Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}/api/v1/{path}", timeout=10) as answer:
        return json.load(answer)["data"]


def test_each_part_that_counts_is_found_and_each_rule_is_evaluated(made: Made) -> None:
    if stack(made).returncode:  # where it has not been up yet
        ok(made.make("pipeline"))
        ok(made.make("register", MLFLOW_TRACKING_URI=REGISTRY))
        ok(stack(made))
    more = ("up", "--no-deps", "--no-build", "--detach", "--wait", "prometheus", "node-exporter")
    command = ["docker", "compose", "--project-directory", str(made.path), "--profile", "metrics", *more]
    ok(subprocess.run(command, env=os.environ | PORTS, capture_output=True, text=True, check=False))
    known = {"service": ["up", "up"], "monitor": ["up"], "node": ["up"], "prometheus": ["up"]}
    absent = {"alertmanager": ["down"], "containers": ["down"]}  # of the first, Debian 12 has one too old; of the second none
    until, found = time.monotonic() + 120, dict[str, list[str]]()
    while found != known | absent and time.monotonic() < until:
        time.sleep(2)
        found = {}
        for target in prometheus("targets")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
    assert found == known | absent
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, [rule for rule in rules if rule.get("lastError")]

    def counted() -> int:
        series = prometheus("query?query=sum(model_rows_total)")["result"]
        return int(series[0]["value"][1]) if series else 0

    before, body = counted(), json.dumps(ask(made, "/example")).encode()
    for _ in range(20):
        ask(made, "/predict", body)
    until = time.monotonic() + 60
    while counted() < before + 20 and time.monotonic() < until:
        time.sleep(2)
    assert counted() == before + 20
