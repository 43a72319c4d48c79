"""How does a model come from development to integration, and on to production? Unchanged, and in its one image.

To `integration` goes the registry's champion, or a version that the gate has passed: its image is built, once, from the
files in the registry. To `production` goes what `integration` names, in that image, and never another. All that the
tier insists on is looked at before; where something is lacking, nothing is moved.
"""

import argparse
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.settings import DEVELOPMENT, INTEGRATION, PRODUCTION, insists
from flight_delays.tiers import images
from flight_delays.tiers.checks import commit, faults, lacking, open_registry

if TYPE_CHECKING:
    from flight_delays.tracking import Registry, Version


@dataclass(frozen=True)
class Chosen:
    """What is to be promoted.

    Attributes
    ----------
    version
        Of the registry of the tier before.
    source
        That registry.
    alias
        By which it was named there, or its number.
    """

    version: "Version"
    source: "Registry"
    alias: str


def promote(to: str, number: str = "") -> "Version":
    """Give a version, with its image, to a tier.

    Parameters
    ----------
    to
        `integration` or `production`.
    number
        Of the version; empty for the champion, or for what `integration` names.

    Returns
    -------
    Version
        As it is in the tier's registry.

    Raises
    ------
    InputError
        Something is lacking; the message names all of it, a line each.
    """
    if to not in {INTEGRATION, PRODUCTION}:
        raise InputError(f"TO={to} is no tier to promote to: use {INTEGRATION} or {PRODUCTION}")
    wrong = lacking(to)
    with tempfile.TemporaryDirectory() as folder:
        chosen, goal, files = None, None, None
        try:
            chosen, goal = choose(to, number), open_registry(to)
            wrong += [f"model: version {chosen.version.number}: {words}" for words in faults(chosen.version)]
            files = _files(chosen, Path(folder))
            wrong += _contract(chosen, files, to)
            if to == PRODUCTION:
                images.verified(chosen.version)
        except InputError as error:
            wrong.append(f"model: {error}")
        if wrong or chosen is None or goal is None or files is None:
            raise InputError(f"nothing goes to {to}, as it lacks\n" + "\n".join(f"  {words}" for words in wrong))
        version = chosen.version
        if to == INTEGRATION:
            version = chosen.source.tag(version, _image(version, files))
        image = {key: version.tags[key] for key in images.TAGS}
        return _move(goal.tag(goal.carry(version, chosen.source, Path(folder)), image), goal, chosen, to)


def choose(to: str, number: str) -> Chosen:
    """Say which version is meant.

    Parameters
    ----------
    to, number
        As for `promote`.

    Raises
    ------
    InputError
        There is none, or it may not be that one.
    """
    before = DEVELOPMENT if to == INTEGRATION else INTEGRATION
    source = open_registry(before)
    alias = "champion" if to == INTEGRATION else INTEGRATION
    if to == INTEGRATION and number:
        return Chosen(source.version(number), source, f"version {number}")
    version = source.behind(alias)
    if version is None:
        how = "`make pipeline`" if to == INTEGRATION else f"`make promote TO={INTEGRATION}`"
        raise InputError(f"no version of {source.name} at {source.place} is {alias}: {how}")
    if number not in {"", version.number}:
        raise InputError(f"version {number} is not the one that {INTEGRATION} names, which is {version.number}")
    return Chosen(version, source, alias)


def _files(chosen: Chosen, folder: Path) -> Path:
    """Bring the model's own files, and require that they are those that were registered."""
    from flight_delays.serving.release import digest

    found = chosen.source.download(chosen.version, folder)
    if digest(*sorted(found.iterdir())) != chosen.version.tags.get("model"):
        raise InputError(f"the files of version {chosen.version.number} are not those that were registered")
    return found


def _contract(chosen: Chosen, files: Path, to: str) -> list[str]:
    """Say whether the model was made for a contract that somebody had read."""
    status = Contract.read(files / "contract.yaml").status
    if not insists("review", to) or status == "active":
        return []
    return [f"review: version {chosen.version.number} was made for a contract of status {status!r}: train it again"]


def _image(version: "Version", files: Path) -> dict[str, str]:
    """Give the tags of a version's image, which is built where it was not built from these sources yet."""
    with suppress(InputError):
        if images.verified(version).commit == commit():
            return {key: version.tags[key] for key in images.TAGS}
    tag = version.tags["model"][: images.HASH_DIGITS]
    print(f"building the image of model {tag}, which takes some minutes the first time", flush=True)
    return images.build(files, tag)


def _move(version: "Version", goal: "Registry", chosen: Chosen, to: str) -> "Version":
    """Record the promotion, and let the tier's alias name the version."""
    from flight_delays.serving.release import whoever

    record = {
        "version": version.number,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": whoever(),
        "commit": commit(),
        "from": f"{DEVELOPMENT if to == INTEGRATION else INTEGRATION}, {chosen.alias}",
        "image": images.reference(version),
    }
    tags = {f"{to}.{key}": value for key, value in record.items()}
    version = goal.tag(version, tags)
    goal.promote(version, to)
    goal.describe(tags)
    return version


@report_errors
def main() -> None:
    """Promote, and print what was moved."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.tiers.promote",
        description="Promote a model.",
    )
    parser.add_argument("to", help="integration or production")
    parser.add_argument(
        "version", nargs="?", default="", help="its number; else the champion, or what integration names"
    )
    chosen = parser.parse_args()
    version = promote(chosen.to, chosen.version)
    table = Table(show_header=False, title=f"{chosen.to} names version {version.number}", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")  # digests are to be copied
    for key, value in version.tags.items():
        if key.startswith(f"{chosen.to}."):
            table.add_row(key.partition(".")[2], value)
    Console(width=120, highlight=False).print(table, markup=False)
    print(f"next: `make deploy TIER={chosen.to}`")


if __name__ == "__main__":
    main()
