"""Is there a secret in what is generated? In the files, the history, the image of the service and what it logs."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from bakery import git
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings
from engine import need_engine
from projects import Made, commit, ok, small_shop

pytestmark = pytest.mark.slow

SECRET = "AKIA" + "QYLPMN5HHHFPZQAB"  # as AWS shapes them; in two parts, so that no scan of this file stops here
DVC_HASH = r"\bmd5\W+[0-9a-f]{32}(\.dir)?\W*$"  # as in the project's .pre-commit-config.yaml
PUBLIC = r"\bGPG_KEY=[0-9A-F]{40}\b"  # in the base image: whose signature Python's sources bear


def secrets_in(folder: Path, ids: str = "(?!)") -> set[str]:
    """Scan all text under a folder; name the file, line and kind of each secret, but for ids that look like one."""
    found = set()
    with default_settings() as settings:
        settings.filters["detect_secrets.filters.regex.should_exclude_line"] = {"pattern": [DVC_HASH, PUBLIC]}
        settings.filters["detect_secrets.filters.regex.should_exclude_secret"] = {"pattern": [ids]}
        settings.disable_filters("detect_secrets.filters.common.is_ignored_due_to_verification_policies")
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            for secret in scan_file(str(path)):
                found.add(f"{path.relative_to(folder).as_posix()}:{secret.line_number}: {secret.type}")
    return found


def files_of(project: Path, folder: Path) -> Path:
    """Copy what git has or would add."""
    for name in filter(None, git(project, "ls-files", "-coz", "--exclude-standard").split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, folder / name)
    return folder


def patches_of(project: Path, folder: Path) -> Path:
    """Write what each commit says, adds and removes, a file each, without the signs before the lines."""
    for commit_id in git(project, "rev-list", "--all").split():
        patch = git(project, "log", "-1", "--patch", "--no-ext-diff", "--text", commit_id)
        folder.mkdir(exist_ok=True)
        (folder / f"{commit_id[:12]}.txt").write_text(re.sub(r"^[+\- ]", "", patch, flags=re.MULTILINE), encoding="utf-8")
    return folder


def layers_of(folder: Path, *images: str) -> list[Path]:
    """Write each image's configuration with its history, and the text that its layers have under /app."""
    saved = folder / "images.tar"
    subprocess.run(["docker", "save", "--output", str(saved), *(f"{image}:latest" for image in images)], check=True)
    with tarfile.open(saved) as outer:
        for manifest in json.loads(content(outer, "manifest.json")):
            goal = folder / manifest["RepoTags"][0].removesuffix(":latest")
            goal.mkdir()
            config = json.loads(content(outer, manifest["Config"]))
            words = [*(config["config"].get("Env") or ()), *(step.get("created_by", "") for step in config["history"])]
            (goal / "config.txt").write_text("\n".join(words), encoding="utf-8")
            for number, layer in enumerate(manifest["Layers"]):
                with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                    for member in inner:
                        if member.isfile() and member.name.startswith("app/") and not member.name.endswith(".pyc"):
                            path = goal / str(number) / member.name
                            path.parent.mkdir(parents=True, exist_ok=True)
                            path.write_bytes(content(inner, member))
    saved.unlink()
    return [folder / image for image in images]


def content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    """Read a file of an archive."""
    file = archive.extractfile(member)
    assert file is not None, member
    return file.read()


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make a project of small data, with its environment and a trained model, all committed."""
    folder = tmp_path_factory.mktemp("secrets")
    project = small_shop(template, folder, "Tight Shop")
    project.set_up(CI="true")
    commit(project, "Lock the environment")
    train = ["uv", "run", "--no-sync", "dvc", "repro", "--quiet", "train"]
    ok(project.run(*train))
    commit(project, "First model")
    return project


def test_no_file_has_a_secret_and_one_that_is_planted_is_found(made: Made, tmp_path: Path) -> None:
    files = files_of(made.path, tmp_path / "files")
    assert secrets_in(files) == set()
    (files / "docs/notes.md").write_text(f"key {SECRET}\n", encoding="utf-8")
    assert secrets_in(files / "docs") == {"notes.md:1: AWS Access Key"}


def test_no_patch_has_a_secret_and_one_that_was_taken_back_is_found(made: Made, tmp_path: Path) -> None:
    assert secrets_in(patches_of(made.path, tmp_path / "patches")) == set()
    git(tmp_path, "clone", "--quiet", str(made.path), "clone")
    clone = Made(tmp_path / "clone")
    (clone.path / "notes.md").write_text(f"key {SECRET}\n", encoding="utf-8")
    commit(clone, "Write down")
    (clone.path / "notes.md").unlink()
    commit(clone, "Take back")
    planted = tmp_path / "planted"
    for patch in sorted(patches_of(clone.path, tmp_path / "all").iterdir()):
        if not (tmp_path / "patches" / patch.name).exists():  # the others were looked at
            planted.mkdir(exist_ok=True)
            shutil.copy(patch, planted / patch.name)
    assert len({found.partition(":")[0] for found in secrets_in(planted) if "AWS" in found}) == 2  # written, and taken back


def test_no_layer_of_the_image_has_a_secret_and_those_planted_are_found(made: Made, tmp_path: Path) -> None:
    need_engine()
    image = f"tight-shop-{uuid.uuid4().hex[:8]}"
    build = ["docker", "build", "--quiet", "--network", "host", "--build-arg", "COMMIT=abc"]
    try:
        ok(subprocess.run(
            [*build, "--target", "serve", "--tag", image, str(made.path)], capture_output=True, text=True, check=False
        ))  # fmt: skip
        faults = f"FROM {image}\nUSER 0:0\nENV KEY={SECRET}\nRUN echo 'key {SECRET}' > /app/notes.txt\nRUN rm /app/notes.txt\n"
        planting = [*build, "--tag", f"{image}-planted", "-"]
        ok(subprocess.run(planting, input=faults, capture_output=True, text=True, check=False))
        clean, planted = layers_of(tmp_path, image, f"{image}-planted")
        assert list(clean.glob("*/app/src/tight_shop/serving/app.py"))
        assert secrets_in(clean) == set()
        for source in planted.glob("*/app/src"):  # as before
            shutil.rmtree(source)
        found = secrets_in(planted)
        assert any(re.match(r"config\.txt:\d+: AWS", one) for one in found), found
        assert any(re.match(r"\d+/app/notes\.txt:1: AWS", one) for one in found), found
    finally:
        subprocess.run(["docker", "image", "rm", "--force", f"{image}-planted", image], capture_output=True, check=False)


@contextlib.contextmanager
def service(made: Made, log: Path, keys: str) -> Iterator[int]:
    """Run the service with keys for the length of a `with` block, all that it says in a file; give its port."""
    with log.open("w") as said:
        running = subprocess.Popen(
            [".venv/bin/python", "-m", "tight_shop.serving", "--port", "0", "--model", "models/candidate"],
            cwd=made.path, env=os.environ | {"API_KEYS": keys, "LOG": "info"}, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        for _ in range(600):
            if place := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8")):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the service ended with {running.wait(0.1)}: {log.read_text(encoding='utf-8')}")
        else:
            pytest.fail(f"the service does not start: {log.read_text(encoding='utf-8')}")
        yield int(place[1])
    finally:
        running.terminate()
        running.wait(30)


def ask(port: int, path: str, **headers: str) -> int:
    """Send a request; give the status of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    status = connection.getresponse().status
    connection.close()
    return status


def test_no_log_has_the_key_and_one_that_is_planted_is_found(made: Made, tmp_path: Path) -> None:
    key, hashed = json.loads(
        made.python("import json; from tight_shop.serving.guard import make_key; print(json.dumps(make_key('shop')))")
    )
    log = tmp_path / "service.log"
    with service(made, log, hashed) as port:
        assert ask(port, "/example") == 401
        assert ask(port, "/example", Authorization=f"Bearer {key}") == 200
        assert ask(port, "/example", X_API_Key=key) == 200
        assert ask(port, f"/example?key={key}") == 401
        assert ask(port, "/example", Authorization=f"Basic {key}") == 401
    said = log.read_text(encoding="utf-8")
    assert said.count('"/example"') >= 5, said  # it did log the requests
    assert key not in said
    assert hashed.partition(":")[2] not in said
    assert secrets_in(tmp_path, ids="^[0-9a-f]{12,40}$") == set()  # of requests, spans and the model
    with service(made, log, hashed) as port:  # a request's id is logged, so this is how a key gets in
        assert ask(port, "/example", Authorization=f"Bearer {key}", X_Request_Id=key) == 200
    assert key in log.read_text(encoding="utf-8")
