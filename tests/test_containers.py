"""Do the images and the compose file hold? Built and run by a real engine: closed, under load, stopped and killed.

Where no registry is reached, what stands before the replicas is Debian's package of the pinned program.
"""

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine import docker, need_engine, need_image
from projects import Made, commit, ok, small_shop

pytestmark = pytest.mark.slow

HERE, THERE = "127.0.0.1:18473", "127.0.0.1:18474"
CLOSED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108
PASSWORD = "of-the-store-" + "9c41d07be25f" * 2
READ_LOG = """
import json
from pathlib import Path
from PACKAGE.serving import log
print(json.dumps([record["id"] for record in log.read(Path("/store/predictions"))]))
"""


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    need_engine()


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Make a project of small data with a model, and its images; the images go in the end."""
    folder = tmp_path_factory.mktemp("containers")
    project = small_shop(template, folder, "Boxed Shop")
    printed = project.set_up()
    commit(project, "Lock the environment")
    printed += project.python("from boxed_shop.stack import make_secrets; print(make_secrets())")
    (project.path / ".dvc/config.local").write_text(
        f"['remote \"team\"']\n    url = s3://shop/dvc\n    secret_access_key = {PASSWORD}\n"
    )
    printed += ok(project.make("pipeline"))
    (folder / "printed.log").write_text(printed, encoding="utf-8")
    for target in ("serve", "baked"):  # the host's network, so that a registry of packages is reached as from here
        options = ("--network", "host", "--build-arg", "MODEL_VERSION=first", "--build-arg", "COMMIT=abc")
        docker("build", *options, "--target", target, "--tag", f"boxed-shop-{target}:latest", str(project.path))
    try:
        yield project
    finally:
        docker("image", "rm", "--force", "boxed-shop-serve:latest", "boxed-shop-baked:latest")


@contextmanager
def load(place: str, key: str = "") -> Iterator[tuple[list[str], list[str]]]:
    """Ask for predictions from four threads for the length of a `with` block; give the ids acknowledged, and the faults."""
    acknowledged: list[str] = []
    faults: list[str] = []
    stop = threading.Event()
    allowed = {"authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(f"http://{place}/example", headers=allowed), timeout=10) as answer:
        body = answer.read()

    def ask() -> None:
        while not stop.is_set():
            name = uuid.uuid4().hex
            request = urllib.request.Request(
                f"http://{place}/predict", body, {"content-type": "application/json", "x-request-id": name} | allowed
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    answer.read()
                    acknowledged.append(name)
            except OSError as fault:
                faults.append(repr(fault))
                time.sleep(0.05)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            yield acknowledged, faults
        finally:
            stop.set()


def logged(volume: str) -> list[str]:
    """Give the ids in the prediction log of a volume."""
    code = READ_LOG.replace("PACKAGE", "boxed_shop")
    run = ("run", "--rm", "--volume", f"{volume}:/store", "--entrypoint", "python")
    found: list[str] = json.loads(docker(*run, "boxed-shop-serve:latest", "-c", code))
    return found


def until_healthy(name: str) -> None:
    """Wait for a container's health check."""
    for _ in range(120):
        if docker("inspect", "--format", "{{.State.Health.Status}}", name).strip() == "healthy":
            return
        time.sleep(0.5)
    pytest.fail(f"{name} does not become healthy: {docker('logs', name)}")


@pytest.mark.usefixtures("made")
def test_the_image_serves_closed_and_loses_nothing_when_it_is_stopped_under_load() -> None:
    name, volume = "boxed-shop-test", "boxed-shop-test"
    docker(
        "run",
        "--detach",
        "--name",
        name,
        *CLOSED,
        "--volume",
        f"{volume}:/store",
        "--publish",
        f"{HERE}:8000",
        "boxed-shop-baked",
    )
    try:
        until_healthy(name)
        assert "uid=10001" in docker("exec", name, "id")
        for absent in ("pip", "uv", "cc", "mlflow", "sklearn", "scipy", "dvc"):
            look = f"import shutil, importlib.util as u; print(shutil.which({absent!r}), u.find_spec({absent!r}))"
            assert docker("exec", name, "python", "-c", look).strip() == "None None", absent
        labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", name))
        assert labels["org.opencontainers.image.revision"] == "abc"
        assert labels["org.opencontainers.image.version"] == "first"
        with load(HERE) as (acknowledged, _):
            time.sleep(3)
            docker("stop", name)
            assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
        assert len(acknowledged) > 100
        assert set(acknowledged) <= set(logged(volume))
    finally:
        docker("rm", "--force", name)
        docker("volume", "rm", "--force", volume)


@pytest.mark.usefixtures("made")
def test_an_empty_store_ends_the_image_that_only_serves_in_one_line() -> None:
    ran = subprocess.run(["docker", "run", "--rm", *CLOSED, "boxed-shop-serve"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert re.fullmatch(r"error: /store/release.json is missing, and no MLflow is here .*\n", ran.stderr)


@pytest.fixture(scope="module")
def stack(made: Made) -> Iterator[list[str]]:
    """Two replicas behind the proxy, from the project's compose file; gives the command that goes on with it."""
    need_image(made, "proxy")
    compose = ["docker", "compose", "--project-directory", str(made.path), "--project-name", "boxed-shop-test"]
    environment = {"PORT": THERE.rpartition(":")[2], "PATH": "/usr/local/bin:/usr/bin:/bin"}
    try:
        # its champion reaches the store as the one-shot `release` would bring it
        docker("run", "--detach", "--name", "boxed-shop-first", "--volume", "boxed-shop-test_store:/store", "boxed-shop-baked")
        until_healthy("boxed-shop-first")
        docker("rm", "--force", "boxed-shop-first")
        for part in ("service", "proxy"):
            up = [*compose, "up", "--no-build", "--no-deps", "--detach", "--wait", part]
            ok(subprocess.run(up, env=environment, capture_output=True, text=True, check=False))
        yield compose
    finally:
        subprocess.run([*compose, "down", "--volumes"], env=environment, capture_output=True, check=False)
        docker("volume", "rm", "--force", "boxed-shop-test_store")  # which compose did not make


def test_a_replica_that_is_killed_or_stopped_is_replaced_by_the_other(made: Made, stack: list[str]) -> None:
    key = (made.path / ".secrets/client_key").read_text(encoding="utf-8")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://{THERE}/example", timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="404"):  # counts are for those inside
        urllib.request.urlopen(f"http://{THERE}/metrics", timeout=10)
    first, second = subprocess.run([*stack, "ps", "-q", "service"], capture_output=True, text=True, check=True).stdout.split()
    with load(THERE, key) as (acknowledged, faults):
        time.sleep(2)
        docker("stop", first)
        time.sleep(1)
        assert faults == []  # it said before that it would
        docker("start", first)
        until_healthy(first)
        time.sleep(3)  # until the proxy has seen it
        docker("kill", second)
        before = len(acknowledged)
        time.sleep(3)
    assert len(acknowledged) > before + 100
    assert len(faults) <= 4, faults  # of each thread, what the second was about to answer
    assert set(acknowledged) <= set(logged("boxed-shop-test_store"))


def in_use(made: Made) -> list[bytes]:
    """List the secrets of the stack, and of a remote."""
    texts = [path.read_text(encoding="utf-8") for path in (made.path / ".secrets").iterdir()]
    return [PASSWORD.encode(), *sorted({word.encode() for text in texts for word in re.findall(r"[0-9a-f]{20,}", text)})]


def found_in(image: str, secrets: list[bytes]) -> set[bytes]:
    """Give those that stand anywhere in the layers of an image, what a later one removes included, or in how it was made."""
    command = ["docker", "save", image]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as saving:
        assert saving.stdout
        found, end = set[bytes](), b""
        while block := saving.stdout.read(1 << 24):
            found |= {secret for secret in secrets if secret in end + block}
            end = block[-max(map(len, secrets)) :]
    assert saving.returncode == 0
    return found


@pytest.mark.parametrize("target", ["serve", "baked"])
def test_no_secret_in_use_is_in_an_image(made: Made, target: str) -> None:
    assert len(in_use(made)) > 8
    assert found_in(f"boxed-shop-{target}:latest", in_use(made)) == set()
    assert found_in(f"boxed-shop-{target}:latest", [b"boxed_shop"])  # layers are read as they are


def test_a_secret_is_found_in_an_image_though_a_later_layer_removes_it(made: Made, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(in_use(made)[1])
    lines = ("FROM boxed-shop-serve:latest", "USER 0:0", "COPY key /app/key", "RUN rm /app/key", f"ENV PASSED={PASSWORD}")
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    docker("build", "--tag", "boxed-shop-leaky:latest", str(tmp_path))
    try:
        assert found_in("boxed-shop-leaky:latest", in_use(made)) == {PASSWORD.encode(), in_use(made)[1]}
    finally:
        docker("image", "rm", "--force", "boxed-shop-leaky:latest")


def test_no_secret_in_use_is_in_what_commands_print_and_the_stack_writes(made: Made, stack: list[str]) -> None:
    key, wrong = (made.path / ".secrets/client_key").read_text(encoding="utf-8"), "b81d5fe0" * 6
    with load(THERE, key) as (acknowledged, _):
        time.sleep(1)
    assert acknowledged
    refused = urllib.request.Request(f"http://{THERE}/example", headers={"authorization": f"Bearer {wrong}"})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(refused, timeout=10)  # noqa: S310
    ran = subprocess.run([*stack, "logs", "--no-color"], capture_output=True, check=True)
    assert acknowledged[-1].encode() in ran.stdout
    written = (made.path.parent / "printed.log").read_bytes() + ran.stdout + ran.stderr
    assert [secret for secret in [*in_use(made), wrong.encode()] if secret in written] == []
