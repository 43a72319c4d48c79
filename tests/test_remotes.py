"""Do data and models come back from S3, Google Cloud Storage and Azure, whatever happens on the way? Asked of emulators."""

import http.server
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bakery import git
from projects import Made, commit, kill, ok, small_shop
from stores import KEY, S3_KEY, WRONG, Store, cut_in_the_middle, emulated, tracking_server

pytestmark = pytest.mark.slow

BUCKET = """
import os
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
from dvc.repo import Repo
with Repo() as repo:
    remote = repo.cloud.get_remote_odb()
    remote.fs.fs.mkdir(remote.path.split("/")[0])
"""
DAMAGE = """
import os
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
from dvc.repo import Repo
with Repo() as repo:
    remote = repo.cloud.get_remote_odb()
    path = remote.oid_to_path("NAME")
    good = remote.fs.cat_file(path)
    with remote.fs.open(path, "wb") as file:
        file.write(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
"""
ANSWERS = "import pyarrow.parquet as p; t = p.read_table('answers.parquet'); print(t.num_rows, *t.column_names)"
TOKEN = "a.signed.token-of-the-job"  # noqa: S105, of nobody
LARGE = 24 << 20  # bytes
RAW = Path("data/raw/shop.csv")


@dataclass(frozen=True)
class Shared:
    """Two people who share a project by a remote.

    Attributes
    ----------
    store
        The remote.
    author
        Whose project it is; the first commit with a model is tagged `v1`.
    colleague
        Whose clone of it it is.
    """

    store: Store
    author: Made
    colleague: Made

    def make(self, who: Made, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make as one of them, with the right address and credentials."""
        return who.make(*targets, **(self.store.environment() | environment))

    def dvc(self, who: Made, *arguments: str) -> str:
        """Run DVC as one of them."""
        command = ["uv", "run", "--no-sync", "dvc", *arguments]
        return ok(who.run(*command, **self.store.environment()))

    def nothing_left_to_run(self, who: Made) -> None:
        """See that what one of them has is what the commit says, to the bit."""
        printed = ok(self.make(who, "pipeline"))
        assert "Running stage" not in printed
        assert "Data and pipelines are up to date" in printed


@pytest.fixture(scope="session", params=["s3", "gcs", "azure"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One cloud after the other."""
    with emulated(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture(scope="session")
def trained(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make the model that all start from, since these projects are alike but for the remote."""
    made = small_shop(template, tmp_path_factory.mktemp("trained"), "Shop")
    made.set_up()
    ok(made.make("pipeline"))
    return made


@pytest.fixture(scope="session")
def shared(template: Path, trained: Made, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Make a project with a model in its first tagged commit, pushed; and a clone, set up."""
    folder = tmp_path_factory.mktemp(f"shared-{store.kind}")
    author = small_shop(template, folder, "Shop", remote=store.kind)
    author.set_up()
    shutil.copy(trained.path / "dvc.lock", author.path)
    for name in ("reports", ".dvc/cache", "data", "models/candidate"):
        shutil.copytree(trained.path / name, author.path / name, dirs_exist_ok=True)
    commit(author, "First model")
    git(author.path, "tag", "v1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        author.python(BUCKET)
    both = Shared(store, author, Made(folder / "colleague"))
    assert "11 objects to" in ok(both.make(author, "push"))
    git(folder, "clone", "--quiet", str(author.path), "colleague")
    both.colleague.set_up(**store.environment())
    return both


def test_a_fresh_clone_has_the_same_bits_and_nothing_left_to_run(shared: Shared) -> None:
    assert shared.colleague.hashes() == shared.author.hashes()
    assert (shared.colleague.path / RAW).read_bytes() == (shared.author.path / RAW).read_bytes()
    shared.nothing_left_to_run(shared.colleague)


def test_an_older_commit_comes_back_after_newer_data(shared: Shared) -> None:
    author, colleague = shared.author, shared.colleague
    old = (author.path / RAW).read_bytes()
    (author.path / RAW).write_bytes(old + b"3,g,no\n" * 6)
    ok(shared.make(author, "setup"))  # leaves new data in peace
    shared.dvc(author, "repro", "ingest")
    assert author.changed >= {f"{RAW}.dvc", "dvc.lock"}
    commit(author, "Newer data")
    ok(shared.make(author, "push"))

    forget(colleague)
    git(colleague.path, "pull", "--quiet")
    assert str(RAW) in ok(shared.make(colleague, "pull"))
    assert (colleague.path / RAW).read_bytes() == (author.path / RAW).read_bytes()
    for who in (author, colleague):
        git(who.path, "checkout", "--quiet", "v1")
        ok(shared.make(who, "pull"))
        assert (who.path / RAW).read_bytes() == old
    shared.nothing_left_to_run(colleague)


def forget(who: Made) -> None:
    """Remove all data and models that one of them has, as in a fresh clone."""
    shutil.rmtree(who.path / ".dvc/cache")
    shutil.rmtree(who.path / "models/candidate")
    for path in [who.path / RAW, *(who.path / "data").glob("*.parquet")]:
        path.unlink()


def begin(shared: Shared, who: Made, target: str, port: int) -> "subprocess.Popen[bytes]":
    """Start a push or pull by another port."""
    environment = os.environ | shared.store.environment(port)
    return subprocess.Popen(
        ["make", target],
        cwd=who.path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_what_is_killed_in_the_middle_is_whole_after_it_is_repeated(shared: Shared) -> None:
    author, colleague, large = shared.author, shared.colleague, Path("data/raw/large.bin")
    git(author.path, "checkout", "--quiet", "-B", "large", "v1")
    content = os.urandom(LARGE)
    (author.path / large).write_bytes(content)
    ok(shared.make(author, "setup"))  # tracks it
    commit(author, "Something large")
    cut_in_the_middle(lambda port: begin(shared, author, "push", port), kill, shared.store, LARGE // 2)
    assert "1 objects to" in ok(shared.make(author, "push"))

    git(colleague.path, "fetch", "--quiet")
    git(colleague.path, "checkout", "--quiet", "origin/large")
    cut_in_the_middle(lambda port: begin(shared, colleague, "pull", port), kill, shared.store, LARGE // 2)
    assert not (colleague.path / large).exists()
    ok(shared.make(colleague, "pull"))
    assert (colleague.path / large).read_bytes() == content
    for who in (author, colleague):
        (who.path / large).unlink()
        git(who.path, "checkout", "--quiet", "v1")


def test_wrong_credentials_end_in_one_line_and_nothing_is_lost(shared: Shared) -> None:
    author = shared.author
    before = {path: path.stat().st_mtime_ns for path in (author.path / ".dvc/cache").rglob("*")}
    with shared.store.strict():
        refused = author.make("push", **shared.store.environment(secret=WRONG))
    assert refused.returncode != 0
    said = [line for line in refused.stderr.splitlines() if not line.startswith("make: ")]
    assert len(said) == 1, refused.stderr
    assert said[0].startswith(f"error: {shared.store.url} cannot be used: ")
    assert not {WRONG, KEY} & set(said[0].split())
    assert {path: path.stat().st_mtime_ns for path in (author.path / ".dvc/cache").rglob("*")} == before
    shared.nothing_left_to_run(author)


def test_what_is_damaged_in_the_remote_is_refused_until_it_is_pushed_again(shared: Shared) -> None:
    author, colleague = shared.author, shared.colleague
    name = git(author.path, "show", f"v1:{RAW}.dvc").split("md5: ")[1].split()[0]
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in shared.store.environment().items():
            patch.setenv(variable, value)
        author.python(DAMAGE.replace("NAME", name))
    forget(colleague)
    refused = shared.make(colleague, "pull")
    assert refused.returncode != 0
    assert f"lacks {RAW}, or what it has is damaged: let somebody who has it run `make push AGAIN=1`" in refused.stderr
    assert refused.stderr.count("\n") == 2  # and what make says
    assert not (colleague.path / RAW).exists()
    ok(shared.make(author, "push", "AGAIN=1"))
    ok(shared.make(colleague, "pull"))
    assert (colleague.path / RAW).read_bytes() == (author.path / RAW).read_bytes()


def test_what_is_damaged_in_the_cache_is_not_pushed_and_is_fetched_again(shared: Shared) -> None:
    colleague = shared.colleague
    good = (colleague.path / RAW).read_bytes()
    name = git(colleague.path, "show", f"v1:{RAW}.dvc").split("md5: ")[1].split()[0]
    cached = colleague.path / ".dvc/cache/files/md5" / name[:2] / name[2:]
    bad = good.replace(b"yes", b"yas", 1)
    cached.chmod(0o644)
    cached.write_bytes(bad)
    cached.chmod(0o444)  # which DVC takes for good
    (colleague.path / RAW).unlink()
    shared.dvc(colleague, "checkout")
    assert (colleague.path / RAW).read_bytes() == bad
    refused = shared.make(colleague, "push")
    assert refused.returncode != 0
    assert f"error: {RAW} in DVC's cache was damaged, and is taken out of it: `make pull` first\n" in refused.stderr
    ok(shared.make(colleague, "pull"))
    assert (colleague.path / RAW).read_bytes() == good
    assert cached.read_bytes() == good


def test_two_who_push_at_once_both_find_theirs_again(shared: Shared) -> None:
    versions = {}
    for who, line in ((shared.author, b"1,r,yes\n"), (shared.colleague, b"2,b,no\n")):
        git(who.path, "checkout", "--quiet", "-B", f"of-{who.path.name}", "v1")
        versions[who] = (who.path / RAW).read_bytes() + line * 5
        (who.path / RAW).write_bytes(versions[who])
        shared.dvc(who, "add", "--quiet", str(RAW))
        commit(who, "A version of one's own")
    pushes = [begin(shared, who, "push", shared.store.port) for who in versions]
    assert [push.wait(60) for push in pushes] == [0, 0]
    git(shared.author.path, "fetch", "--quiet", str(shared.colleague.path), "of-colleague:theirs")
    forget(shared.author)
    for who, branch in ((shared.author, f"of-{shared.author.path.name}"), (shared.colleague, "theirs")):
        git(shared.author.path, "checkout", "--quiet", branch)
        ok(shared.make(shared.author, "pull"))
        assert (shared.author.path / RAW).read_bytes() == versions[who]


def test_mlflow_keeps_the_models_files_in_the_same_store(shared: Shared) -> None:
    author, store = shared.author, shared.store
    git(author.path, "checkout", "--quiet", "--force", "v1")
    ok(shared.make(author, "pull"))
    direct = (f"--default-artifact-root={store.artifacts}", "--no-serve-artifacts")
    with tracking_server(author, store.folder, *direct, **store.environment()) as address:
        there = {"MLFLOW_TRACKING_URI": address}
        assert "champion" in ok(shared.make(author, "register", **there))
        ok(shared.make(author, "predict", f"INPUT={RAW}", "OUTPUT=answers.parquet", **there))
    assert author.python(ANSWERS).startswith("600 ")
    (author.path / "answers.parquet").unlink()


def credentials_in(who: Made) -> set[str]:
    """Give the places in one of the two projects where a credential stands: files, and commits on any branch."""
    secrets = (KEY, S3_KEY, WRONG)
    found = {line for secret in secrets for line in git(who.path, "log", "--all", "--format=%s", f"-S{secret}").splitlines()}
    for path in who.path.rglob("*"):
        if ".venv" not in path.parts and path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            found.add(path.name)
    return found


def test_no_credential_is_left_behind(shared: Shared) -> None:
    assert credentials_in(shared.author) == credentials_in(shared.colleague) == set()
    planted = shared.colleague.path / "planted.txt"
    planted.write_text(KEY)
    assert credentials_in(shared.colleague) == {"planted.txt"}
    commit(shared.colleague, "Plant")
    planted.unlink()
    assert credentials_in(shared.colleague) == {"Plant"}


@pytest.fixture
def provider() -> Iterator[tuple[str, list[str]]]:
    """Stand for GitHub, which gives each job a token: an address, and whom it was asked by and for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.extend([self.headers["authorization"], self.path])
            body = json.dumps({"value": TOKEN}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token?version=2", asked
        server.shutdown()


def test_a_job_is_let_in_by_the_token_of_its_provider_alone(
    template: Path, provider: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Go the way of GitHub's and GitLab's jobs: token, role for an hour, store; no key stands anywhere."""
    with emulated("s3", tmp_path) as store:
        made = small_shop(template, tmp_path, "Shop", remote="s3")
        made.set_up()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in store.environment().items():
                patch.setenv(name, value)
            made.python(BUCKET)
        role = {
            "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.port}",
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/shop",
            "AWS_WEB_IDENTITY_TOKEN_FILE": ".secrets/identity",
        }  # fmt: skip
        identity = made.path / ".secrets/identity"
        assert made.make("push", **role).returncode != 0  # no token yet
        address, asked = provider
        job = {"ACTIONS_ID_TOKEN_REQUEST_URL": address, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job", "OIDC_AUDIENCE": "shop"}
        said = ok(made.make("identity", **job))
        assert asked == ["Bearer of-the-job", "/token?version=2&audience=shop"]
        assert TOKEN not in said
        assert (identity.read_text(), identity.stat().st_mode & 0o777) == (TOKEN, 0o600)
        assert "1 objects to" in ok(made.make("push", **role))
        with urllib.request.urlopen(f"http://127.0.0.1:{store.port}/moto-api/data.json", timeout=10) as answer:
            roles = json.load(answer)["sts"]["AssumedRole"]
        assert {entry["role_arn"] for entry in roles} == {role["AWS_ROLE_ARN"]}
        identity.unlink()
        ok(made.make("identity", OIDC_TOKEN="of-gitlab"))  # noqa: S106
        assert identity.read_text() == "of-gitlab"
        assert not {name for name in made.changed if ".secrets" in name}
