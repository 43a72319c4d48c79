"""Are the containers what they should be: small, closed, pinned, with secrets that are nobody's default?"""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flight_delays import stack
from flight_delays.errors import InputError
from flight_delays.serving import guard

from tests.conftest import ROOT

PROFILES = ("", "tracking", "metrics", "logs", "all")
ENDING = {"release", "bucket", "elastic-setup", "kibana-setup"}
_needs_compose = pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="no `docker compose` here: see https://docs.docker.com/compose/install",
)


@pytest.fixture
def compose() -> dict[str, Any]:
    """The compose file as it is written."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what `docker compose config` reads, and secrets."""
    for name in ("compose.yaml", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    stack.make_secrets(tmp_path / stack.FOLDER)
    return tmp_path


@_needs_compose
@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_is_accepted_and_its_parts_find_each_other(fresh: Path, profile: str) -> None:
    chosen = ["--profile", "*" if profile == "all" else profile] if profile else []
    command = ["docker", "compose", *chosen, "config"]
    ran = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    services = yaml.safe_load(ran.stdout)["services"]
    assert {"service", "proxy", "controller", "monitor", "release"} <= services.keys()
    networks = {name: set(service["networks"]) for name, service in services.items()}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services or not how["required"], f"{name} waits for {other}, which is in no such profile"
            if other in services and other not in ENDING:
                assert networks[name] & networks[other], f"{name} waits for {other}, and cannot reach it"


def test_each_container_is_pinned_limited_and_has_no_more_rights_than_it_needs(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":(v?\d+(\.\d+)+|\$\{COMMIT:-latest\}\}?)$", service["image"]), f"{name}: {service['image']}"
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert not service.get("privileged"), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["restart"] == ("no" if name in ENDING else "unless-stopped"), name
        assert name in ENDING or "healthcheck" in service, name
        assert "docker.sock" not in str(service.get("volumes")), name
    elastic = {service["image"] for service in compose["services"].values() if "elastic.co" in service["image"]}
    assert len({image.rpartition(":")[2] for image in elastic}) == 1
    assert len(elastic) == 4
    ours = [name for name, service in compose["services"].items() if "build" in service]
    assert all(compose["services"][name].get("read_only") for name in ours)


def test_no_password_is_written_into_the_compose_file(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        given = {key.upper(): str(value) for key, value in dict(service.get("environment") or {}).items()}
        for key, value in given.items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEY$", key):
                assert value.startswith("/run/secrets/"), f"{name}: {key}"
    assert all(entry["file"].startswith(f"{stack.FOLDER}/") for entry in compose["secrets"].values())


@pytest.mark.parametrize("folder", ["prometheus", "alertmanager", "grafana", "logstash", "filebeat", "elastic"])
def test_each_secret_that_a_configuration_names_is_given_to_its_container(compose: dict[str, Any], folder: str) -> None:
    services = [service for service in compose["services"].values() if f"./ops/{folder}" in str(service.get("volumes"))]
    assert services
    given = {name for service in services for name in service.get("secrets", ())}
    files = [path for path in (ROOT / "ops" / folder).rglob("*") if path.is_file()]
    named = {name for path in files for name in re.findall(r"/run/secrets/(\w+)", path.read_text(encoding="utf-8"))}
    assert named <= given


def test_what_is_not_to_leave_the_house_is_not_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed[0] == "*"
    kept = {line.removeprefix("!") for line in listed if line.startswith("!")}
    for name in (
        "data",
        ".git",
        ".dvc",
        str(stack.FOLDER),
        "reports",
        "mlflow.db",
        "mlruns",
        "models/serving",
        "models",
    ):
        assert name not in kept
    assert f"/{stack.FOLDER}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_images_have_the_python_of_the_project_and_run_as_nobody() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    found = re.search(r"^ARG PYTHON=(.*)$", text, re.MULTILINE)
    assert found
    assert wanted == f"=={found[1]}.*"
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    final = {
        stage.split()[2]: stage for stage in stages[1:] if stage.split()[2] in {"serve", "train", "mlflow", "baked"}
    }
    assert len(final) == 4
    for name, stage in final.items():
        assert re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1] == "10001:10001", name
        assert re.search(r"^(CMD|ENTRYPOINT) \[", stage, re.MULTILINE), (
            f"{name}: signals reach what is started directly"
        )


def test_an_image_without_scikit_learn_is_made_for_lightgbm_alone() -> None:
    found = re.search(r"grep -Eq '([^']+)' params.yaml", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert found
    path = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]["estimator"]
    lean = re.search(found[1], (ROOT / "params.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert bool(lean) == (path == "auto" or path.startswith("lightgbm."))
    assert not re.search(found[1], "train:\n  estimator: sklearn.linear_model.Ridge\n", re.MULTILINE)


def test_secrets_are_random_closed_to_others_and_never_changed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert len(stack.make_secrets(folder)) == len(list(folder.iterdir()))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}  # whoever a container runs as
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(set(before.values())) == len(before)
    assert stack.make_secrets(folder) == []
    (folder / "grafana_password").unlink()
    assert stack.make_secrets(folder) == ["grafana_password"]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"grafana_password"}
    other = tmp_path / "other"
    stack.make_secrets(other)
    assert before.keys() == {path.name for path in other.iterdir()}
    alike = {name for name, text in before.items() if (other / name).read_bytes() == text}
    assert alike == {"alert_webhook"}  # which holds an address


def test_the_keys_open_the_service_and_all_secrets_of_the_compose_file_are_made(
    tmp_path: Path, compose: dict[str, Any]
) -> None:
    stack.make_secrets(tmp_path)
    keys = guard.Keys((tmp_path / "service.env").read_text(encoding="utf-8").strip().partition("=")[2])
    for name in ("client", "metrics", "monitor"):
        assert keys.client((tmp_path / f"{name}_key").read_bytes()) == name
    assert {Path(entry["file"]).name for entry in compose["secrets"].values()} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_registry_that_no_container_reaches_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    with pytest.raises(InputError, match="is missing: run `make pipeline` first"):
        stack.require_registry(f"sqlite:///{path}")
    path.touch()
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(InputError, match="no container runs as root"):
        stack.require_registry(f"sqlite:///{path}")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    stack.require_registry(f"sqlite:///{path}")
    with pytest.raises(InputError, match="another place within a container"):
        stack.require_registry("http://127.0.0.1:5000")
    stack.require_registry("http://mlflow:5000")
