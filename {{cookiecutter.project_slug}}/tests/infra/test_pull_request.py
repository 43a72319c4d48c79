"""Does what CI found reach the reviewers, on each code host, once, and with no more said than the token allows?"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flight_delays.errors import InputError
from flight_delays.pull_request import (
    MARK,
    PAGE,
    TOKEN,
    Host,
    find_host,
    propose,
    write_comment,
)

GITHUB = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "team/shop", "GITHUB_REF": "refs/pull/7/merge"}
GITLAB = {"GITLAB_CI": "true", "CI_API_V4_URL": "https://git.example.org/api/v4", "CI_PROJECT_ID": "3"}
GITLAB |= {"CI_PROJECT_URL": "https://git.example.org/team/shop", "CI_MERGE_REQUEST_IID": "7"}
SECRET = "a-word-that-nobody-may-read"  # noqa: S105 (planted)  # pragma: allowlist secret


class CodeHost(ThreadingHTTPServer):
    """What an API of a code host does with comments and pull requests, for `SECRET` alone."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.comments: dict[int, str] = {1: "By a person"}
        self.opened: list[dict[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: CodeHost

    def do_GET(self) -> None:
        first = "page=1" in urlsplit(self.path).query.split("&")
        comments = [{"id": key, "body": body} for key, body in self.server.comments.items()]
        self.answer(comments if first else [])

    def do_POST(self) -> None:
        body = self.read()
        if self.path.endswith(("/pulls", "/merge_requests")):
            self.server.opened.append(body)
        else:
            self.server.comments[max(self.server.comments) + 1] = body["body"]
        self.answer({})

    def do_PATCH(self) -> None:
        self.server.comments[int(self.path.rsplit("/", 1)[1])] = self.read()["body"]
        self.answer({})

    def do_PUT(self) -> None:
        self.do_PATCH()

    def read(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def answer(self, found: Any) -> None:
        known = SECRET in (self.headers.get("PRIVATE-TOKEN"), (self.headers.get("Authorization") or "").split(" ")[-1])
        text = json.dumps(found if known else {"message": "no"}).encode()
        self.send_response(200 if known else 403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def code_host() -> Iterator[CodeHost]:
    with CodeHost() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def at(server: CodeHost, kind: str, web: str = "") -> Host:
    found = find_host(
        GITHUB | {"GITHUB_API_URL": server.address}
        if kind == "github"
        else GITLAB | {"CI_API_V4_URL": server.address, "CI_PROJECT_URL": web}
    )
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_second_run_renews_the_comment_and_leaves_those_of_people(code_host: CodeHost, kind: str) -> None:
    host = at(code_host, kind)
    assert write_comment(host, SECRET, "roc_auc 0.7") == "commented on 7"
    assert write_comment(host, SECRET, "roc_auc 0.8") == "renewed the comment on 7"
    assert code_host.comments == {1: "By a person", 2: f"{MARK}\nroc_auc 0.8"}


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_token_without_rights_is_one_clear_line_without_the_token(code_host: CodeHost, kind: str) -> None:
    with pytest.raises(InputError, match=rf"403 .*may {TOKEN} do that\?") as caught:
        write_comment(at(code_host, kind), "another", "roc_auc 0.7")
    assert "another" not in str(caught.value)


def test_a_page_that_is_too_long_is_cut(code_host: CodeHost) -> None:
    write_comment(at(code_host, "github"), SECRET, "x" * 100_000)
    assert len(code_host.comments[2]) < 65_536
    assert code_host.comments[2].endswith("\n\n…")


@pytest.mark.parametrize(
    ("variables", "api", "number"),
    [
        (GITHUB, "https://api.github.com/repos/team/shop", "7"),
        (GITHUB | {"GITHUB_REF": "refs/heads/main"}, "https://api.github.com/repos/team/shop", ""),
        (GITLAB, "https://git.example.org/api/v4/projects/3", "7"),
        (
            {"TRAVIS": "true", "TRAVIS_REPO_SLUG": "team/shop", "TRAVIS_PULL_REQUEST": "7"},
            "https://api.github.com/repos/team/shop",
            "7",
        ),
        (
            {"TRAVIS": "true", "TRAVIS_REPO_SLUG": "team/shop", "TRAVIS_PULL_REQUEST": "false"},
            "https://api.github.com/repos/team/shop",
            "",
        ),
        (
            {"JENKINS_URL": "x", "CHANGE_URL": "https://github.com/team/shop/pull/7", "CHANGE_ID": "7"},
            "https://api.github.com/repos/team/shop",
            "7",
        ),
        (
            {"JENKINS_URL": "x", "CHANGE_URL": "https://git.example.org/team/shop/-/merge_requests/7"},
            "https://git.example.org/api/v4/projects/team%2Fshop",
            "",
        ),
        (
            {"JENKINS_URL": "x", "GIT_URL": "https://gitlab.example.org/team/shop.git"},
            "https://gitlab.example.org/api/v4/projects/team%2Fshop",
            "",
        ),
    ],
)  # fmt: skip
def test_each_ci_tells_where_the_code_is_and_for_which_pull_request_it_runs(
    variables: dict[str, str], api: str, number: str
) -> None:
    host = find_host(variables)
    assert host is not None
    assert (host.api, host.number) == (api, number)
    assert host.web.endswith("/team/shop.git")


def git(where: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(where), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a lock file and reports, cloned from `shop.git` beside it; the current folder."""
    git(tmp_path, "init", "--quiet", "--bare", "shop.git")
    git(tmp_path, "clone", "--quiet", "shop.git", "clone")
    where = tmp_path / "clone"
    (where / "reports").mkdir()
    for name in ("dvc.lock", "reports/metrics.json"):
        (where / name).write_text("old", encoding="utf-8")
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "--message", "First")
    monkeypatch.chdir(where)
    monkeypatch.setenv(TOKEN, SECRET)
    return where


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_what_a_retraining_gave_is_pushed_and_its_review_asked_for(code_host: CodeHost, clone: Path, kind: str) -> None:
    host = Host(kind, at(code_host, kind).api, f"{clone.parent.as_uri()}/shop.git", "")
    Path("dvc.lock").write_text("new", encoding="utf-8")
    PAGE.write_text("roc_auc 0.8", encoding="utf-8")
    Path("mine.txt").write_text("not of the retraining", encoding="utf-8")
    assert propose(host, SECRET, "main").startswith("asked for a review of retrained/")
    branch = git(clone.parent / "shop.git", "branch", "--list", "retrained/*").strip("* ")
    assert git(clone.parent / "shop.git", "show", f"{branch}:dvc.lock") == "new"
    assert "mine.txt" not in git(clone.parent / "shop.git", "ls-tree", "-r", "--name-only", branch)
    names = ("head", "base", "body") if kind == "github" else ("source_branch", "target_branch", "description")
    assert [code_host.opened[0][name] for name in names] == [branch, "main", "roc_auc 0.8"]


def test_data_that_did_not_change_open_no_pull_request(code_host: CodeHost, clone: Path) -> None:
    host = Host("github", at(code_host, "github").api, f"{clone.parent.as_uri()}/shop.git", "")
    assert propose(host, SECRET, "main").startswith("nothing has changed")
    assert code_host.opened == []
    assert git(clone.parent / "shop.git", "branch", "--list", "retrained/*") == ""


def test_a_push_that_is_refused_is_one_clear_line(code_host: CodeHost, clone: Path) -> None:
    host = Host("github", at(code_host, "github").api, f"{clone.parent.as_uri()}/gone.git", "")
    Path("dvc.lock").write_text("new", encoding="utf-8")
    with pytest.raises(InputError, match=r"^git .*gone\.git"):
        propose(host, SECRET, "main")
    assert code_host.opened == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "nobody to tell: this is not CI of a pull request"),
        (GITHUB | {"GITHUB_REF": "refs/heads/main"}, "nobody to tell"),
        (GITHUB, f"nobody is told: {TOKEN} is not set"),
        (GITHUB | {TOKEN: SECRET}, "error: reports/comparison.md is missing: run `make compare BASE=…`"),
    ],
)
def test_where_there_is_nobody_to_tell_it_says_so(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    source = Path(__file__).parents[2] / "src"
    known = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    alone = [sys.executable, "-S", "-m"]  # with Python's library alone
    ran = subprocess.run(
        [*alone, "flight_delays.pull_request", "comment"],
        cwd=tmp_path,
        env=known | variables | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout + ran.stderr).startswith(said)
    assert (ran.returncode != 0) == said.startswith("error")
