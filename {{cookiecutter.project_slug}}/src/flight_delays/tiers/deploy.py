"""How does a tier's model come to answer requests? By its promoted image, on this machine's engine: `make deploy`.

Replicas and proxy are those of `compose.yaml`, in a project of the tier's own. They are asked before this ends; where
they do not answer, or not with this model, what ran before comes back.
"""

import hashlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.settings import DEVELOPMENT, INTEGRATION, PRODUCTION, given, tier
from flight_delays.stack import FOLDER, make_secrets
from flight_delays.tiers import images
from flight_delays.tiers.checks import ask, faults, lacking, open_registry

if TYPE_CHECKING:
    from flight_delays.tracking import Version

_HEALTHY_SECONDS = 120  # that containers have
_ROWS, _ASKED = 3, 4  # rows of a request, and how many requests
_TRIES, _AGAIN_SECONDS = 20, 0.5  # until the proxy has seen its replicas


def deploy(of: str) -> "tuple[Version, images.Image, list[Any]]":
    """Let the version that a tier's alias names answer requests on this machine.

    Parameters
    ----------
    of
        `integration` or `production`.

    Returns
    -------
    tuple
        The version, its image, and the predictions that it gave when it was asked.

    Raises
    ------
    InputError
        Something is lacking, and nothing was touched; or it does not answer, and what ran before runs again.
    """
    if of == DEVELOPMENT:
        raise InputError(f"{of} deploys nothing: use `make stack`, or TIER={INTEGRATION} or {PRODUCTION}")
    version, image = _promoted(of)
    make_secrets()
    keys, key = _keys(of)
    former = _running(of)
    try:
        _up(of, images.reference(version), keys)
        if (runs := _running(of)) != {image.id}:
            raise InputError(f"{', '.join(one[:19] for one in runs) or 'nothing'} runs, not {image.id[:19]}")
        answers = _smoke(key, image.model)
    except InputError as error:
        raise InputError(f"version {version.number} was not deployed: {error}; {_back(of, former, keys)}") from None
    return version, image, answers


def _promoted(of: str) -> "tuple[Version, images.Image]":
    """Give what the tier's alias names, having seen that nothing is lacking."""
    wrong = lacking(of)
    version, image = None, None
    try:
        known = open_registry(of)
        version = known.behind(of)
        if version is None:
            raise InputError(f"no version of {known.name} at {known.place} is {of}: `make promote TO={of}`")
        wrong += [f"model: version {version.number}: {words}" for words in faults(version)]
        image = images.verified(version)
    except InputError as error:
        wrong.append(f"model: {error}")
    if wrong or version is None or image is None:
        raise InputError(f"nothing is deployed, as {of} lacks\n" + "\n".join(f"  {words}" for words in wrong))
    return version, image


def _keys(of: str) -> tuple[Path, str]:
    """Give the file with the hashes of the keys that open the service, and one key of those to ask it with."""
    file, own = FOLDER / "service.env", FOLDER / "client_key"
    key = given("API_KEY") or own.read_text(encoding="utf-8")
    if given("API_KEYS"):
        file = FOLDER / f"{of}.env"
        file.touch(mode=0o600)
        file.write_text(f"API_KEYS={given('API_KEYS')}\n", encoding="utf-8")
    if hashlib.sha256(key.encode()).hexdigest() not in file.read_text(encoding="utf-8"):
        raise InputError("API_KEY is not one of API_KEYS: set it to a client's key, with which the service is asked")
    return file, key


def project(of: str) -> str:
    """Name the compose project of a tier, beside which the one of `make stack` may run.

    Parameters
    ----------
    of
        The tier.
    """
    return re.sub(r"[^a-z0-9-]", "-", f"flight-delays-{of}")


def _compose(of: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", "--project-name", project(of), *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def _running(of: str) -> set[str]:
    """Give the ids of the images that the tier's replicas run."""
    label = f"label=com.docker.compose.project={project(of)}"
    service = "label=com.docker.compose.service=service"
    found = ask("docker", "ps", "--quiet", "--filter", label, "--filter", service).stdout.split()
    return set(ask("docker", "inspect", "--format", "{{.Image}}", *found).stdout.split()) if found else set()


def _up(of: str, image: str, keys: Path) -> None:
    for part in ("service", "proxy"):
        wait = ("--detach", "--wait", "--wait-timeout", str(_HEALTHY_SECONDS))
        done = _compose(of, "up", "--no-build", "--no-deps", *wait, part, IMAGE=image, KEYS_FILE=str(keys))
        if done.returncode:
            said = _compose(of, "logs", "--no-log-prefix", "--tail", "3", part, IMAGE=image, KEYS_FILE=str(keys)).stdout
            why = [*done.stderr.strip().splitlines()[-1:], *said.strip().splitlines()[-1:]]
            raise InputError(f"`{part}` does not start: {' | '.join(line.strip()[:200] for line in why)}")


def _back(of: str, former: set[str], keys: Path) -> str:
    """Bring back what ran before, and say so."""
    if not former:
        _compose(of, "rm", "--stop", "--force", "service", "proxy", KEYS_FILE=str(keys))
        return "nothing ran before, so nothing runs now"
    before = min(former)
    try:
        _up(of, before, keys)
    except InputError as error:
        return f"and the image before, {before[:19]}, does not start any more ({error})"
    return f"the image before, {before[:19]}, answers again"


def _smoke(key: str, model: str) -> list[Any]:
    """Ask the service about a few rows, through its proxy, and require that this model answers."""
    place = f"http://127.0.0.1:{given('PORT') or 8000}"
    body, answers = json.dumps({"rows": _rows(place, key)}).encode(), []
    for _ in range(_ASKED):
        answer = _ask(f"{place}/predict", key, body)
        if answer["model"]["version"] != model:
            other = answer["model"]["version"]
            raise InputError(f"model {other} answers, not {model}: was it rolled back in this store?")
        answers = answer["predictions"]
    return answers


def _rows(place: str, key: str) -> list[dict[str, Any]]:
    """Give held-out rows, where they are here and of the contract that is served; else what the service proposes."""
    import pyarrow.parquet as pq

    from flight_delays.pipeline.split import PARTS
    from flight_delays.serving import door

    contract = Contract.read()
    if PARTS["test"].is_file() and _ask(f"{place}/model", key)["contract"] == contract.digest:
        return door.to_json(pq.read_table(PARTS["test"]).slice(0, _ROWS), contract)
    found: list[dict[str, Any]] = _ask(f"{place}/example", key)["rows"]
    return found


def _ask(url: str, key: str, body: bytes | None = None) -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    why = ""
    for _ in range(_TRIES):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.read().decode(errors='replace')[:200]}"
            if error.code != 503:
                break
        except (OSError, ValueError) as error:
            why = str(error)
        time.sleep(_AGAIN_SECONDS)
    raise InputError(f"{url} does not answer: {why}")


@report_errors
def main() -> None:
    """Deploy, and print what answers."""
    of = tier()
    version, image, answers = deploy(of)
    table = Table(show_header=False, title=f"{of} answers at http://127.0.0.1:{given('PORT') or 8000}/docs")
    table.add_column()
    table.add_column(overflow="fold")  # digests are to be copied
    table.add_row("version", f"{version.number}, model {image.model}")
    table.add_row("image", f"{images.reference(version)}, built from commit {image.commit}")
    table.add_row("asked", f"{_ASKED} times; this model predicts {json.dumps(answers)[:200]}")
    Console(width=120, highlight=False).print(table, markup=False)


if __name__ == "__main__":
    main()
