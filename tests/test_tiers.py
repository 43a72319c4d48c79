"""Does a model reach production as a person brings it there? Real commands, engine, registries, remote and requests."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import clear, docker, need_engine, need_image
from projects import Made, commit, ok, small_shop
from stores import tracking_server

pytestmark = pytest.mark.slow

PORTS = {"integration": "18483", "production": "18484"}
KEY = "a-key-of-the-test"
LABELS = "org.opencontainers.image"
TAG = """
from PACKAGE.tracking import Registry
known = Registry("tier-shop")
known.tag(known.behind("integration"), {"image": "IMAGE"})
"""


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Make a project with a model, whose contract was read, committed and pushed; what it ran is gone in the end."""
    need_engine()
    folder = tmp_path_factory.mktemp("tiers")
    project = small_shop(template, folder, "Tier Shop")
    project.set_up()
    contract = project.path / "contract.yaml"
    contract.write_text(contract.read_text().replace("status: draft", "status: active"))
    commit(project, "Lock the environment, and read the contract")
    ok(project.make("pipeline"))
    commit(project, "First model")
    ok(project.run("uv", "run", "dvc", "push"))
    need_image(project, "proxy")
    try:
        yield project
    finally:
        clear(project, "tier-shop")


@pytest.fixture
def server(made: Made, tmp_path: Path) -> Iterator[str]:
    """Run an MLflow server of production's own, and give its address."""
    with tracking_server(made, tmp_path) as address:
        yield address


def runs(tier: str) -> set[str]:
    """Give the ids of the images that a tier's replicas run."""
    label = ("--filter", f"label=com.docker.compose.project=tier-shop-{tier}")
    found = docker("ps", "--quiet", *label, "--filter", "label=com.docker.compose.service=service").split()
    assert len(found) == 2
    return set(docker("inspect", "--format", "{{.Image}}", *found).split())


def answers(tier: str, key: str) -> bool:
    """Whether a tier's service answers."""
    asked = urllib.request.Request(f"http://127.0.0.1:{PORTS[tier]}/example", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
        return bool(json.load(answer)["rows"])


def test_one_image_goes_from_development_to_production_and_a_broken_one_goes_back(made: Made, server: str) -> None:
    printed = ok(made.make("promote", "TO=integration", BUILD="--network host"))
    assert "integration names version 1" in printed
    image = next(word for word in printed.split() if word.startswith("sha256:"))
    assert "this model predicts" in ok(made.make("deploy", TIER="integration", PORT=PORTS["integration"]))
    assert runs("integration") == {image}

    # an image that does not start, where the right one is recorded
    labels = json.loads(docker("image", "inspect", image))[0]["Config"]["Labels"]
    kept = " ".join(f"{LABELS}.{name}={labels[f'{LABELS}.{name}']}" for name in ("title", "version", "revision"))
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    change = ["--change", f"LABEL {kept}", "--change", 'CMD ["nothing"]']
    done = subprocess.run(["docker", "import", *change, "-"], input=empty.getvalue(), capture_output=True, check=True)
    broken = done.stdout.decode().strip()
    made.python(TAG.replace("PACKAGE", "tier_shop").replace("IMAGE", broken))
    failed = made.make("deploy", TIER="integration", PORT=PORTS["integration"])
    assert failed.returncode
    assert "version 1 was not deployed: `service` does not start" in failed.stderr
    assert f"the image before, {image[:19]}, answers again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert runs("integration") == {image}
    assert answers("integration", (made.path / ".secrets/client_key").read_text())
    made.python(TAG.replace("PACKAGE", "tier_shop").replace("IMAGE", image))

    refused = made.make("promote", "TO=production")
    assert refused.returncode
    assert {line.split(":")[0].strip() for line in refused.stderr.splitlines()[1:-1]} == {"secrets", "tracking"}

    own = {"API_KEYS": f"shop:{hashlib.sha256(KEY.encode()).hexdigest()}", "MLFLOW_TRACKING_URI_PRODUCTION": server}
    assert image in ok(made.make("promote", "TO=production", **own))
    here = own | {"TIER": "production", "PORT": PORTS["production"]}
    wrong = made.make("deploy", **here)
    assert "API_KEY is not one of API_KEYS" in wrong.stderr
    assert "this model predicts" in ok(made.make("deploy", API_KEY=KEY, **here))
    assert runs("production") == {image}
    assert answers("production", KEY)
    looked = made.make("doctor", **here)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert KEY not in looked.stdout + looked.stderr
    assert os.environ.get("TIER") is None
