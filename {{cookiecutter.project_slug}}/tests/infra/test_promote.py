"""Does a model go from tier to tier unchanged, in its one image, and not at all where something is lacking?"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flight_delays.errors import InputError
from flight_delays.serving.release import digest
from flight_delays.settings import tracking_uri
from flight_delays.tiers import images
from flight_delays.tiers.checks import commit
from flight_delays.tiers.deploy import deploy
from flight_delays.tiers.promote import promote
from flight_delays.tracking import Registry, Version

from tests.releasing import IDENTITY, Releasable, pass_the_gate

LABELS = "org.opencontainers.image"
needs_docker = pytest.mark.skipif(
    shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0,
    reason="no Docker engine runs here: see https://docs.docker.com/engine/install",
)


@pytest.fixture
def registry(ready: Releasable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A copy of the project's registry, with a champion; a test may change it."""
    shutil.copy(ready.path / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    pass_the_gate(ready)
    return Registry(ready.contract.id)


@pytest.fixture
def imported() -> Iterator[Callable[..., images.Image]]:
    """Make an image of no content, with the labels that it would have; the images go in the end."""
    made = []

    def make(model: str, made_from: str) -> images.Image:
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w").close()
        labels = [f"LABEL {LABELS}.version={model} {LABELS}.revision={made_from} once={uuid.uuid4().hex}"]
        command = ["docker", "import", *(word for label in labels for word in ("--change", label)), "-"]
        done = subprocess.run(command, input=empty.getvalue(), capture_output=True, check=True)
        made.append(done.stdout.decode().strip())
        found = images.find(made[-1])
        assert found
        return found

    yield make
    if made:
        subprocess.run(["docker", "image", "rm", "--force", *made], capture_output=True, check=True)


def champion(registry: Registry) -> Version:
    """Give the champion."""
    found = registry.champion()
    assert found
    return found


def aliases(registry: Registry) -> dict[str, str]:
    """Give all aliases of the registered model."""
    found = registry.client.get_registered_model(registry.name).aliases
    return {name: str(number) for name, number in found.items()}


def refused(to: str, number: str = "") -> str:
    """Give the words with which a promotion is refused."""
    with pytest.raises(InputError) as caught:
        promote(to, number)
    return str(caught.value)


def test_all_that_production_lacks_is_said_at_once_and_nothing_is_moved(ready: Releasable, registry: Registry) -> None:
    before = aliases(registry)
    ready.edit("contract.yaml", lambda document: document.update(status="draft"))
    pyproject = ready.path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text(encoding="utf-8").replace("numpy>=2.3", "numpy>=2.2"), encoding="utf-8")
    (ready.path / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    lines = refused("production").splitlines()
    assert lines[0] == "nothing goes to production, as it lacks"
    said = {line.split(":")[0].strip() for line in lines[1:]}
    assert {"environment", "sources", "tree", "review", "secrets", "tracking", "remote", "model"} <= said
    assert aliases(registry) == before


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"gate": "refused", "gate.reason": "it is worse"}, "it has not passed the gate (it is worse)"),
        ({"git.dirty": "true"}, "it was not made from a clean commit"),
        ({"refused.live": "it failed"}, "it was refused on live requests (it failed)"),
        ({"model": "0" * 64}, "are not those that were registered"),
    ],
)
def test_a_model_that_may_not_leave_development_stays_there(
    registry: Registry, tags: dict[str, str], words: str
) -> None:
    registry.tag(champion(registry), tags)
    before = aliases(registry)
    assert words in refused("integration")
    assert aliases(registry) == before


def test_a_model_of_a_contract_that_nobody_had_read_stays_out_of_production(
    ready: Releasable, registry: Registry
) -> None:
    folder = ready.path / "models/draft"
    shutil.copytree(ready.path / "models/candidate", folder)
    try:
        text = (folder / "contract.yaml").read_text(encoding="utf-8")
        (folder / "contract.yaml").write_text(text.replace("status: active", "status: draft"), encoding="utf-8")
        tags = champion(registry).tags | {"model": digest(*sorted(folder.iterdir()))}
        with registry.run("draft", {}) as run:
            registry.client.log_artifacts(run, str(folder), "model/data/draft")
            made = registry.client.create_model_version(registry.name, f"runs:/{run}/model", run, tags=tags)
        registry.client.set_registered_model_alias(registry.name, "integration", made.version)
        assert "was made for a contract of status 'draft': train it again" in refused("production")
    finally:
        shutil.rmtree(folder)


def test_production_takes_what_integration_names_and_nothing_else(registry: Registry) -> None:
    assert "is integration: `make promote TO=integration`" in refused("production")
    registry.promote(champion(registry), "integration")
    assert "version 99 is not the one that integration names, which is 1" in refused("production", "99")
    assert "version 1 names no image" in refused("production")
    assert "TO=prod is no tier to promote to" in refused("prod")


def test_a_version_is_carried_into_another_registry_whole_and_once(
    ready: Releasable, registry: Registry, tmp_path: Path
) -> None:
    version = champion(registry)
    other = Registry(registry.name, f"sqlite:///{tmp_path}/other.db")
    other.client.create_experiment(registry.name, f"{tmp_path}/artifacts")
    (tmp_path / "first").mkdir()
    carried = other.carry(version, registry, tmp_path / "first")
    assert {key: value for key, value in carried.tags.items() if key != "carried.from"} == version.tags
    assert other.metrics(carried) == registry.metrics(version)
    assert other.client.get_run(carried.run).data.params == registry.client.get_run(version.run).data.params
    (tmp_path / "here").mkdir()
    files = other.download(carried, tmp_path / "here")
    assert digest(*sorted(files.iterdir())) == version.tags["model"]
    assert other.carry(version, registry, tmp_path / "first").number == carried.number
    assert registry.carry(version, registry, tmp_path).number == version.number
    assert ready.path.exists()


def test_to_open_one_registry_does_not_change_where_another_tier_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        Registry("any", f"sqlite:///{tmp_path}/own.db")
        assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://of-all-tiers")
    Registry("any", f"sqlite:///{tmp_path}/other.db")
    assert tracking_uri("production") == "http://of-all-tiers"


@needs_docker
def test_an_image_that_was_built_from_these_sources_is_not_built_again(
    registry: Registry, imported: Callable[..., images.Image]
) -> None:
    version = champion(registry)
    image = imported(version.tags["model"][:12], commit())
    registry.tag(version, {images.ID: image.id, images.DIGEST: "", images.COMMIT: image.commit})
    promoted = promote("integration", version.number)
    assert aliases(registry)["integration"] == version.number
    assert promoted.tags[images.ID] == promoted.tags["integration.image"] == image.id
    assert promoted.tags["integration.commit"] == commit()
    assert promoted.tags["integration.from"] == f"development, version {version.number}"
    assert {"integration.since", "integration.by"} <= promoted.tags.keys()
    described = registry.client.get_registered_model(registry.name).tags
    assert described["integration.version"] == version.number
    assert described["integration.image"] == image.id


@needs_docker
def test_an_image_that_is_not_the_recorded_one_is_refused(
    registry: Registry, imported: Callable[..., images.Image]
) -> None:
    version = champion(registry)
    model, here = version.tags["model"][:12], commit()
    right, of_another, of_other_code = imported(model, here), imported("0" * 12, here), imported(model, "0" * 12)

    def recorded(image: str, made_from: str = here, pushed: str = "") -> Version:
        return registry.tag(version, {images.ID: image, images.DIGEST: pushed, images.COMMIT: made_from})

    assert images.verified(recorded(right.id)) == right
    for faulty, words in (
        (recorded("sha256:" + "0" * 64), "is not in this engine, and was pushed nowhere"),
        (recorded(of_another.id), f"holds model {'0' * 12}, not {model}"),
        (recorded(of_other_code.id), f"was built from commit {'0' * 12}, and {here} was recorded"),
        (recorded(right.id, pushed=of_other_code.id), "was recorded for version 1"),
        (recorded(right.id, pushed=f"127.0.0.1:9/nobody@{right.id}"), "`docker pull`"),
    ):
        with pytest.raises(InputError) as caught:
            images.verified(faulty)
        assert words in str(caught.value)


@needs_docker
def test_nothing_is_deployed_where_the_tier_lacks_something(
    ready: Releasable, registry: Registry, imported: Callable[..., images.Image]
) -> None:
    with pytest.raises(InputError, match="is integration: `make promote TO=integration`"):
        deploy("integration")
    version = champion(registry)
    image = imported(version.tags["model"][:12], commit())
    registry.tag(version, {images.ID: image.id, images.DIGEST: "", images.COMMIT: image.commit})
    registry.promote(version, "integration")
    ready.edit("params.yaml", lambda document: document["train"].update(seed=7))
    with pytest.raises(
        InputError, match="nothing is deployed, as integration lacks\n  sources: not committed"
    ) as caught:
        deploy("integration")
    assert len(str(caught.value).splitlines()) == 2


def test_development_deploys_nothing(ready: Releasable) -> None:
    with pytest.raises(InputError, match="development deploys nothing"):
        deploy("development")
    ran = ready.run("git", *IDENTITY, "status", "--porcelain")
    assert json.dumps(ran.stdout) == '""'
