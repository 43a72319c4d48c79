"""How do reviewers see what CI found? A comment on the pull request; or, after a retraining, a pull request of its own.

It speaks to the code host's API (GitHub's and GitLab's, where a pull request is called merge request) with the token
in `CODE_HOST_TOKEN`, and knows from the CI's own variables where it runs. It stands on Python's library alone, so that
CI can run it from the base branch, without installing what a pull request asks for.
"""

import argparse
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from flight_delays.errors import InputError, report_errors

PAGE = Path("reports/comparison.md")
MARK = "<!-- what `make compare` found -->"  # by which the comment is found again
TOKEN = "CODE_HOST_TOKEN"  # noqa: S105 (the variable's name)
_LONGEST = 60_000  # characters; GitHub takes 65,536
_SECONDS = 30
_CHANGED = ("dvc.lock", "reports")  # by a retraining


@dataclass(frozen=True)
class Host:
    """Where the project's code is.

    Attributes
    ----------
    kind
        `github` or `gitlab`.
    api
        Address of its API, up to and with the project.
    web
        Address that git pushes to.
    number
        Of the pull request that CI runs for; empty where it runs for none.
    """

    kind: str
    api: str
    web: str
    number: str

    def comments(self) -> str:
        """Give the path of the pull request's comments."""
        return f"issues/{self.number}/comments" if self.kind == "github" else f"merge_requests/{self.number}/notes"

    def comment(self, identity: int) -> str:
        """Give the path of one comment."""
        return f"issues/comments/{identity}" if self.kind == "github" else f"{self.comments()}/{identity}"


def find_host(environment: Mapping[str, str]) -> Host | None:
    """Tell from CI's variables where the code is, and for which pull request CI runs.

    Parameters
    ----------
    environment
        `os.environ`: as GitHub Actions, GitLab CI, Jenkins (multibranch) or Travis set it.
    """
    get = environment.get
    if get("GITHUB_ACTIONS"):
        merge = re.fullmatch(r"refs/pull/(\d+)/merge", get("GITHUB_REF", ""))
        places = (get("GITHUB_API_URL"), get("GITHUB_SERVER_URL"))
        return _github(environment["GITHUB_REPOSITORY"], merge[1] if merge else "", *places)
    if get("GITLAB_CI"):
        api = f"{environment['CI_API_V4_URL']}/projects/{environment['CI_PROJECT_ID']}"
        return Host("gitlab", api, f"{environment['CI_PROJECT_URL']}.git", get("CI_MERGE_REQUEST_IID", ""))
    if get("TRAVIS"):
        number = get("TRAVIS_PULL_REQUEST", "false").replace("false", "")
        return _github(environment["TRAVIS_REPO_SLUG"], number)
    if get("JENKINS_URL") and (address := get("CHANGE_URL") or get("GIT_URL")):
        return _from_address(address, get("CHANGE_ID", ""))
    return None


def _github(name: str, number: str, api: str | None = None, web: str | None = None) -> Host:
    places = (api or "https://api.github.com", web or "https://github.com")
    return Host("github", f"{places[0]}/repos/{name}", f"{places[1]}/{name}.git", number)


def _from_address(address: str, number: str) -> Host | None:
    parts = urlsplit(address)
    path = re.sub(r"(/-)?/(pull|merge_requests)/\d+$|\.git$", "", parts.path).strip("/")
    web = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in {"http", "https"}:
        return None
    if parts.hostname == "github.com":
        return _github(path, number)
    if "/-/" in parts.path or "gitlab" in (parts.hostname or ""):
        return Host("gitlab", f"{web}/api/v4/projects/{quote(path, safe='')}", f"{web}/{path}.git", number)
    return _github(path, number, f"{web}/api/v3", web)


def write_comment(host: Host, token: str, text: str) -> str:
    """Write the comparison under the pull request, in the place of what an earlier run wrote.

    Parameters
    ----------
    host
        With the number of a pull request.
    token
        That may write comments.
    text
        Markdown.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    InputError
        The host cannot be reached, or refuses.
    """
    body = {"body": f"{MARK}\n{text[:_LONGEST]}" + ("\n\n…" if len(text) > _LONGEST else "")}
    earlier = _find_comment(host, token)
    if earlier is None:
        _ask(host, token, "POST", host.comments(), body)
        return f"commented on {host.number}"
    _ask(host, token, "PATCH" if host.kind == "github" else "PUT", host.comment(earlier), body)
    return f"renewed the comment on {host.number}"


def _find_comment(host: Host, token: str) -> int | None:
    page = 1
    while found := _ask(host, token, "GET", f"{host.comments()}?per_page=100&page={page}"):
        for comment in found:
            if MARK in comment["body"]:
                return int(comment["id"])
        page += 1
    return None


def propose(host: Host, token: str, base: str) -> str:
    """Commit what a retraining changed to a branch of its own, and ask for its review.

    Parameters
    ----------
    host
        Where to.
    token
        That may push, and open pull requests.
    base
        The branch that it is to reach.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    InputError
        Git or the host refuses.
    """
    if not _git("status", "--porcelain", "--", *_CHANGED):
        return "nothing has changed: the data are those that the model was made from"
    branch = f"retrained/{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
    who = ("-c", "user.name=Retraining", "-c", "user.email=retraining@localhost", "-c", "commit.gpgsign=false")
    _git("switch", "--quiet", "--create", branch)
    _git("add", "--", *_CHANGED)
    _git(*who, "commit", "--quiet", "--no-verify", "--message", "Train on the newest data")
    helper = f'!f() {{ echo username=x-access-token; echo "password=${TOKEN}"; }}; f'  # so that it is in no argument
    _git("-c", "credential.helper=", "-c", f"credential.helper={helper}", "push", "--quiet", host.web, branch)
    text = PAGE.read_text(encoding="utf-8")[:_LONGEST] if PAGE.is_file() else ""
    title = "Train on the newest data"
    if host.kind == "github":
        _ask(host, token, "POST", "pulls", {"title": title, "head": branch, "base": base, "body": text})
    else:
        sent = {"title": title, "source_branch": branch, "target_branch": base, "description": text}
        _ask(host, token, "POST", "merge_requests", sent)
    return f"asked for a review of {branch}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"git {arguments[-2]}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout.strip()


def _ask(host: Host, token: str, method: str, path: str, body: dict[str, str] | None = None) -> Any:
    authority = {"Authorization": f"Bearer {token}"} if host.kind == "github" else {"PRIVATE-TOKEN": token}
    request = urllib.request.Request(  # noqa: S310 (its scheme is CI's own)
        f"{host.api}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Content-Type": "application/json", "Accept": "application/json"} | authority,
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(f"{method} {request.full_url}: {error.code} {error.reason}: may {TOKEN} do that?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{method} {request.full_url}: {error}") from None


@report_errors
def main() -> None:
    """Comment, or propose; where there is nobody to tell, say so."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.pull_request",
        description=__doc__,
    )
    parser.add_argument("what", choices=("comment", "propose"))
    parser.add_argument("--base", default="main", help="the branch that a proposal is to reach")
    chosen = parser.parse_args()
    host, token = find_host(os.environ), os.environ.get(TOKEN, "")
    if host is None or (chosen.what == "comment" and not host.number):
        print(f"nobody to tell: this is not CI{' of a pull request' if chosen.what == 'comment' else ''}")
    elif not token:
        print(f"nobody is told: {TOKEN} is not set")
    elif chosen.what == "propose":
        print(propose(host, token, chosen.base))
    elif not PAGE.is_file():
        raise InputError(f"{PAGE} is missing: run `make compare BASE=…`")
    else:
        print(write_comment(host, token, PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
