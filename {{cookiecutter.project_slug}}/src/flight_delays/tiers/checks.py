"""What do this machine and this tier have, what do they lack? A check each; settings.py says who insists on which."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flight_delays.contract import PATH as CONTRACT
from flight_delays.contract import Contract
from flight_delays.errors import InputError, some
from flight_delays.settings import (
    INSISTS,
    PRODUCTION,
    SOURCES,
    given,
    params,
    remote,
    tracking_uri,
    without_password,
)

if TYPE_CHECKING:
    from flight_delays.tracking import Registry, Version

_CONNECT_SECONDS = 5.0  # that a server may take to say that it is there
_PROJECT = re.sub(r"[-_.]+", "-", "flight-delays").lower()


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    ok
        Whether it is as it should be.
    found
        What there is, in a few words.
    do
        What to type where it is not.
    """

    ok: bool
    found: str
    do: str = ""


def look(names: Iterable[str], tier: str) -> dict[str, Finding]:
    """Run checks beside each other; what cannot be looked at is not as it should be.

    Parameters
    ----------
    names
        Keys of `CHECKS`.
    tier
        For which it is asked.
    """

    def one(name: str) -> Finding:
        try:
            return CHECKS[name](tier)
        except (InputError, OSError) as error:
            return Finding(False, " ".join(str(error).split())[:300])

    chosen = list(names)
    with ThreadPoolExecutor(len(chosen) or 1) as pool:
        return dict(zip(chosen, pool.map(one, chosen), strict=True))


def lacking(tier: str) -> list[str]:
    """List what keeps a tier from being given a model, a line each; at the model itself the caller looks.

    Parameters
    ----------
    tier
        `integration` or `production`.
    """
    wanted = [name for name, tiers in INSISTS.items() if tier in tiers and name != "model"]
    found = look([*wanted, "docker"], tier)
    return [f"{name}: {one.found}{f': {one.do}' if one.do else ''}" for name, one in found.items() if not one.ok]


def ask(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Parameters
    ----------
    *command
        The words.
    **environment
        Variables that it gets beside those that are there.

    Raises
    ------
    InputError
        There is no such command, or it takes too long.
    """
    seconds = params("doctor")["seconds"]
    try:
        return subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=seconds
        )
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"`{' '.join(command[:3])}` took more than {seconds} s") from None


def commit() -> str:
    """Name the commit that is checked out; empty where there is none."""
    done = ask("git", "rev-parse", "--short=12", "HEAD")
    return "" if done.returncode else done.stdout.strip()


def python(_: str) -> Finding:
    """Look whether this Python is the project's."""
    wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    here = ".".join(map(str, sys.version_info[:3]))
    fits = not wanted.startswith("==") or fnmatch(f"=={here}", wanted)
    return Finding(fits, here if fits else f"{here}, wanted {wanted}", "install that one, then `make setup`")


def uv(_: str) -> Finding:
    """Look whether uv is there."""
    done = ask(sys.executable, "-m", "uv", "--version")
    return Finding(not done.returncode, done.stdout.strip().partition(" (")[0] or "none", "`make setup`")


def git(_: str) -> Finding:
    """Look whether git is there, and whether this is a repository."""
    number, here = ask("git", "--version").stdout.strip(), commit()
    return Finding(bool(here), f"{number}, at {here}" if here else f"{number}, no commit here", "`git init`, commit")


def disk(_: str) -> Finding:
    """Look whether there is room."""
    free, wanted = shutil.disk_usage(".").free / 1e9, params("doctor")["gigabytes"]
    return Finding(
        free >= wanted, f"{free:.1f} GB free, {wanted} wanted", "`make clean`, `dvc gc`, `docker image prune`"
    )


def contract(_: str) -> Finding:
    """Look whether the contract can be used."""
    found = Contract.read()
    return Finding(True, f"{found.name}, {len(found.features)} features, {found.status}")


def data(_: str) -> Finding:
    """Look whether the source's file is there."""
    path = Path(Contract.read().server.path or "")
    return Finding(path.is_file(), str(path) if path.is_file() else f"{path} is missing", "`make pull`")


def docker(_: str) -> Finding:
    """Look whether an engine runs, and whether its compose plugin is there."""
    engine = ask("docker", "info", "--format", "{{.ServerVersion}}")
    if engine.returncode or not engine.stdout.strip():
        return Finding(False, f"no engine answers: {_last(engine.stderr)}", "start Docker")
    plugin = ask("docker", "compose", "version", "--short")
    if plugin.returncode:
        return Finding(False, f"engine {engine.stdout.strip()}, no compose plugin", "install docker-compose-plugin")
    return Finding(True, f"engine {engine.stdout.strip()}, compose {plugin.stdout.strip()}")


def promtool(_: str) -> Finding:
    """Look whether the tests of the alerts can run."""
    where = shutil.which("promtool")
    return Finding(bool(where), where or "not installed", "`apt-get install prometheus`, `brew install prometheus`")


def environment(_: str) -> Finding:
    """Look whether what is installed is what is locked, and what is locked what is asked for."""
    name = "UV_PROJECT_ENVIRONMENT"
    own = {name: given(name) or sys.prefix}  # in a container, a folder's .venv is of another machine
    if not Path("uv.lock").is_file():
        return Finding(False, "uv.lock is missing", "`make setup`, then commit it")
    if ask(sys.executable, "-m", "uv", "lock", "--check", **own).returncode:
        return Finding(False, "uv.lock is not what pyproject.toml asks for", "`uv lock`, test, commit")
    done = ask(sys.executable, "-m", "uv", "sync", "--check", "--frozen", **own)
    # the project itself counts as another one as soon as its pyproject.toml was touched, and is looked at as `sources`
    changed = sorted(set(re.findall(r"^ [-+~] ([\w.-]+)", done.stderr, re.MULTILINE)) - {_PROJECT})
    if changed:
        return Finding(False, f"not installed as uv.lock says: {some(changed)}", "`make setup`")
    if done.returncode and "outdated" not in done.stderr:
        return Finding(False, f"uv sync: {_last(done.stderr)}", "`make setup`")
    return Finding(True, "as locked")


def sources(_: str) -> Finding:
    """Look whether what a model is made by is committed."""
    return _clean(*SOURCES)


def tree(_: str) -> Finding:
    """Look whether all is committed."""
    return _clean()


def _clean(*paths: str) -> Finding:
    done = ask("git", "status", "--porcelain", "--", *paths)
    here = commit()
    if done.returncode or not here:
        return Finding(False, _last(done.stderr) or "no commit here", "`git init`, commit")
    changed = [line[3:] for line in done.stdout.splitlines()]
    return Finding(not changed, f"not committed: {some(changed)}" if changed else f"clean, at {here}", "commit")


def review(_: str) -> Finding:
    """Look whether somebody has read the contract as it stands."""
    status = Contract.read().status
    if status != "active":
        read = f"read {CONTRACT}, correct it, set `status: active`, train and commit"
        return Finding(False, f"its status is {status!r}, so nobody has reviewed it", read)
    if ask("git", "ls-files", "--error-unmatch", str(CONTRACT)).returncode:
        return Finding(False, f"{CONTRACT} is not in git", "commit it")
    if ask("git", "diff", "--quiet", "HEAD", "--", str(CONTRACT)).returncode:
        return Finding(False, f"{CONTRACT} is not as it was committed", "have the change reviewed, and commit it")
    return Finding(True, "active, as committed")


def secrets(_: str) -> Finding:
    """Look whether the service will have keys; none is shown."""
    from flight_delays.serving.guard import API_KEYS, Keys

    text = given(API_KEYS)
    if not text.strip(" ,"):
        return Finding(False, f"{API_KEYS} is not set", "`make key NAME=…` makes one")
    Keys(text)
    return Finding(True, f"{API_KEYS} holds {len([part for part in text.split(',') if part.strip()])}")


def tracking(tier: str) -> Finding:
    """Look whether MLflow is a server that answers."""
    uri = tracking_uri(tier)
    if uri.startswith("sqlite:"):
        name = f"MLFLOW_TRACKING_URI_{tier.upper()}"
        return Finding(False, "runs and models are in a file on this machine", f"set MLFLOW_TRACKING_URI or {name}")
    _require_answer(uri)
    return Finding(True, f"{without_password(uri)} answers")


def model(tier: str) -> Finding:
    """Look whether there is a model for a tier that has passed the gate: what was promoted there, else the champion."""
    known = open_registry(tier)
    alias = PRODUCTION if tier == PRODUCTION else "champion"
    version = known.behind(alias)
    if version is None:
        how = f"`make promote TO={tier}`" if tier == PRODUCTION else "`make pipeline`"
        return Finding(False, f"no version of {known.name} is {alias}", how)
    wrong = faults(version)
    return Finding(not wrong, f"version {version.number} is {alias}{''.join(f', and {words}' for words in wrong)}")


def remote_has_all(tier: str) -> Finding:
    """Look whether the data and all outputs are where others find them."""
    name = remote(tier)
    if not (Path("dvc.lock").is_file() or list(Path("data").rglob("*.dvc"))):
        return Finding(False, "no data and no run is recorded", "`make pipeline`")
    path = Path(Contract.read().server.path or "")
    inside = Path("data") in path.parents
    if inside and not any(Path(f"{place}.dvc").is_file() for place in (path, *path.parents)):
        return Finding(False, f"{path} is not tracked", f"`dvc add {path}`, commit, `make push`")
    named = ["--remote", name] if name else []
    look = ("data", "status", "--not-in-remote", "--granular", "--json", *named)  # `status` would not look into folders
    done = ask(sys.executable, "-m", "dvc", *look, DVC_NO_ANALYTICS="true")
    push = f"`dvc push --remote {name}`" if name else "`make push`"
    try:
        away = sorted(json.loads(done.stdout).get("not_in_remote", ()))
    except ValueError:
        return Finding(False, f"remote {name or '(default)'}: {_last(done.stderr)}", "see .dvc/config")
    words = f"not in remote {name or '(default)'}: {some(away)}" if away else f"all is in remote {name or '(default)'}"
    return Finding(not away, words, push)


def open_registry(tier: str) -> "Registry":
    """Open the registry of a tier, having seen that it is there; none is made.

    Parameters
    ----------
    tier
        Whose.

    Raises
    ------
    InputError
        It does not answer, or there is none yet.
    """
    _require_answer(tracking_uri(tier))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else it tries a server that is away for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from flight_delays.tracking import Registry

    return Registry(Contract.read().id, tracking_uri(tier))


def faults(version: "Version") -> list[str]:
    """Say why a version may not leave development; the gate's word, and what it was made from.

    Parameters
    ----------
    version
        Of a registry.
    """
    found = []
    if version.tags.get("gate") != "passed":
        found.append(f"it has not passed the gate ({version.tags.get('gate.reason', 'it never stood before it')})")
    if "refused.live" in version.tags:
        found.append(f"it was refused on live requests ({version.tags['refused.live']})")
    if version.tags.get("git.dirty") != "false":
        found.append("it was not made from a clean commit (commit, then `make register`)")
    return found


def _require_answer(uri: str) -> None:
    """Refuse a place where nobody is, within seconds: what MLflow itself does takes minutes."""
    parts, shown = urlsplit(uri), without_password(uri)
    if parts.scheme == "sqlite":
        if not Path(uri.removeprefix("sqlite:///")).is_file():
            raise InputError("no runs and models yet: `make pipeline`")
        return
    try:
        if parts.scheme in {"http", "https"}:
            request = urllib.request.Request(f"{uri.rstrip('/')}/health")  # noqa: S310 (its scheme was looked at)
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()  # noqa: S310
        elif parts.hostname:
            port = parts.port or (5432 if parts.scheme.startswith("postgres") else 3306)
            socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # somebody is there, and MLflow knows how to name itself
    except (OSError, ValueError) as error:
        raise InputError(f"MLflow at {shown} does not answer ({error}): start it, or correct its address") from None


def _last(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return re.sub(r"^ERROR: ", "", lines[-1])[:200] if lines else ""


CHECKS: dict[str, Callable[[str], Finding]] = {
    "python": python,
    "uv": uv,
    "git": git,
    "disk": disk,
    "contract": contract,
    "data": data,
    "docker": docker,
    "promtool": promtool,
    "environment": environment,
    "sources": sources,
    "model": model,
    "tree": tree,
    "review": review,
    "secrets": secrets,
    "tracking": tracking,
    "remote": remote_has_all,
}
