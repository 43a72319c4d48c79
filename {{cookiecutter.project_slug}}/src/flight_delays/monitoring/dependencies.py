"""Has something changed that this project rests on? Libraries, the data's columns, base images: `make dependencies`.

In `reports/dependencies.json`, by kind, what changed, a line each; under `unknown`, why a kind could not be looked at:

    vulnerable   locked releases with a known hole, from https://osv.dev by `uv audit`
    lock         what is installed is not what uv.lock says, or uv.lock not what pyproject.toml asks for
    schema       columns of the source that are gone, new, or of another type than in the contract
    image        base images that were built anew under the same name since the last look; where Docker is
    outdated     newer releases than the locked ones, the least urgent
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.settings import given
from flight_delays.source import cast_column, connect, open_source, quote

REPORT, LOCK = Path("reports/dependencies.json"), Path("uv.lock")
KINDS = ("vulnerable", "lock", "schema", "image", "outdated")
URGENT = KINDS[:4]
SERVICE = "OSV_URL"  # of a mirror, where the public service cannot be reached
_SECONDS = 300
_ROWS = 100_000  # of the source, in which a type is looked for
_FILES = (Path("Dockerfile"), Path("compose.yaml"))
_IMAGE = re.compile(r"^\s*(?:FROM(?: --platform=\S+)?|image:)\s+(\S+)(?: AS (\S+))?", re.MULTILINE | re.IGNORECASE)
_ARGUMENT = re.compile(r"^ARG (\w+)=(\S+)", re.MULTILINE)

Json = dict[str, Any]


def look(before: Json | None = None) -> Json:
    """Look at all kinds; what cannot be looked at does not keep the others from it.

    Parameters
    ----------
    before
        What this found the last time, for the images.

    Returns
    -------
    dict
        As `reports/dependencies.json` has it.
    """
    changes: dict[str, list[str]] = {}
    unknown: dict[str, str] = {}
    images: dict[str, str] = dict((before or {}).get("images", {}))
    looks: dict[str, Callable[[], list[str]]] = {
        "vulnerable": vulnerable,
        "lock": lambda: [*installed(), *lock()],
        "schema": schema,
        "image": lambda: rebuilt(images),
        "outdated": outdated,
    }
    if shutil.which("docker") is None:  # as inside a container; where images are built, somebody looks at them
        del looks["image"]
    for kind, ask in looks.items():
        try:
            changes[kind] = ask()
        except (InputError, OSError, subprocess.TimeoutExpired) as error:
            unknown[kind] = " ".join(str(error).split())[:300]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "changes": changes, "unknown": unknown, "images": images}


def vulnerable() -> list[str]:
    """List the locked releases that have a known hole."""
    place = ["--service-url", given(SERVICE)] if given(SERVICE) else []
    done = _uv("audit", "--frozen", "--output-format", "json", *place)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise InputError(f"uv audit: {_last(done.stderr)}") from None
    return [
        f"{one['dependency']['name']} {one['dependency']['version']}: {one['display_id']} ({one['summary']}), "
        + (f"mended in {', '.join(one['fix_versions'])}" if one["fix_versions"] else "not mended yet")
        for one in found["vulnerabilities"]
    ]


def lock() -> list[str]:
    """Say where uv.lock is not what pyproject.toml asks for."""
    done = _uv("lock", "--check")
    if done.returncode > 1:
        raise InputError(f"uv lock --check: {_last(done.stderr)}")
    words = "uv.lock is not what pyproject.toml asks for: run `uv lock`, test, and commit it"
    return [words] if done.returncode else []


def installed() -> list[str]:
    """List what is installed in another version than uv.lock says; what is not installed here may be elsewhere."""
    locked: dict[str, set[str]] = {}
    for entry in tomllib.loads(LOCK.read_text(encoding="utf-8"))["package"]:
        if "version" in entry:
            locked.setdefault(entry["name"], set()).add(entry["version"])
    names = [(re.sub(r"[-_.]+", "-", one.name).lower(), one.version) for one in distributions()]
    return [
        f"{name} {version} is installed, {' or '.join(sorted(locked[name]))} locked: run `make setup`"
        for name, version in names
        if name in locked and version not in locked[name]
    ]


def outdated() -> list[str]:
    """List the locked packages of which there is a newer release that fits."""
    today = datetime.now(UTC).isoformat(timespec="seconds")
    done = _uv("lock", "--upgrade", "--dry-run", "--exclude-newer", today)
    if done.returncode:
        raise InputError(f"uv lock: {_last(done.stderr)}")
    pairs = re.findall(r"^Update (\S+) v(\S+) -> v(\S+)$", done.stderr, re.MULTILINE)
    return [f"{name} {old}: {new} is out" for name, old, new in pairs]


def schema() -> list[str]:
    """Compare the source's columns with the contract's."""
    contract = Contract.read()
    with connect() as connection:
        stored = open_source(connection, contract.server)
        known = [column for column in contract.columns if column.name in stored]
        found = [f"column {column.name!r} is gone" for column in contract.columns if column not in known]
        found += [f"column {name!r} is new" for name in stored if name not in {column.name for column in known}]
        pairs = [(quote(column.name), cast_column(column, stored[column.name])) for column in known]
        wrong = ", ".join(f"count(*) FILTER (WHERE {name} IS NOT NULL AND {value} IS NULL)" for name, value in pairs)
        counts = connection.execute(f"SELECT {wrong} FROM (SELECT * FROM source LIMIT {_ROWS})").fetchone() or ()
    for column, count in zip(known, counts, strict=True):
        if count:
            found.append(f"column {column.name!r} holds {count:,} values that are no {column.type}")
    return [f"{words}: `make contract` shows it all" for words in found]


def rebuilt(images: dict[str, str]) -> list[str]:
    """List the base images that are not those of the last look.

    Parameters
    ----------
    images
        Of the last look, each with its digest; brought up to date.
    """
    found = []
    for name in _bases():
        done = _run("docker", "buildx", "imagetools", "inspect", name, "--format", "{{.Manifest.Digest}}")
        if done.returncode:
            raise InputError(f"{name}: {_last(done.stderr)}")
        digest = done.stdout.strip()
        if images.get(name, digest) != digest:
            found.append(f"{name} was built anew ({digest}): build and test with it")
        images[name] = digest
    return found


def _bases() -> list[str]:
    """Name the images that are built on or run, but for those made here."""
    found: set[str] = set()
    for content in [file.read_text(encoding="utf-8") for file in _FILES if file.is_file()]:
        text = content
        for word, value in _ARGUMENT.findall(content):
            text = text.replace(f"${{{word}}}", value).replace(f"${word}", value)
        named = _IMAGE.findall(text)
        found |= {name for name, _ in named if "$" not in name and name != "scratch"} - {stage for _, stage in named}
    return sorted(found)


def _uv(*command: str) -> subprocess.CompletedProcess[str]:
    own = {"UV_PROJECT_ENVIRONMENT": sys.prefix}  # in a container, a folder's .venv is of another machine
    return _run(sys.executable, "-m", "uv", *command, **own)


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = os.environ | environment
    return subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=_SECONDS)


def _last(said: str) -> str:
    return said.strip().split("\n")[-1][:200]


@report_errors
def main() -> None:
    """Look, and say what changed."""
    argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.dependencies",
        description="Look at locked libraries, the source's columns and base images.",
    ).parse_args()
    before = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else None
    found = look(before)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = Table("kind", "changes", title="dependencies", title_justify="left")
    for kind in KINDS:
        lines = found["changes"].get(kind)
        unknown = f"not known: {found['unknown'].get(kind, 'Docker is not here')}"
        table.add_row(kind, unknown if lines is None else "\n".join(lines) or "none")
    Console(width=120).print(table, markup=False)
    if urgent := [words for kind in URGENT for words in found["changes"].get(kind, ())]:
        more = f", and {len(urgent) - 1} more" if len(urgent) > 1 else ""
        raise InputError(f"{urgent[0]}{more}: see {REPORT}")
    print(f"dependencies: {REPORT}")


if __name__ == "__main__":
    main()
