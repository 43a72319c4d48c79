"""What should be served? Commands for people and for the controller, which also keep registry and service in step."""

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flight_delays import golden
from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.model import Model
from flight_delays.serving import moves
from flight_delays.serving.guard import make_key
from flight_delays.serving.release import Release, Store, digest
from flight_delays.settings import params

if TYPE_CHECKING:
    from flight_delays.tracking import Registry, Version

WAIT_SECONDS = 20.0  # for the workers


def registry() -> "Registry":
    """Open the registry; MLflow takes seconds to import, so who only changes the release does without."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else it tries a server that is away for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from flight_delays.tracking import Registry

    return Registry(Contract.read().id)


def champion_of(known: "Registry") -> "Version":
    """Give the registry's champion.

    Raises
    ------
    InputError
        There is none yet.
    """
    champion = known.champion()
    if champion is None:
        raise InputError("the registry has no champion yet: run `make pipeline`, or name a folder with --model")
    return champion


def sync(store: Store) -> Release:
    """Bring what the registry says into the store; where the store is ahead, tell the registry first.

    Parameters
    ----------
    store
        Of the service.

    Raises
    ------
    InputError
        The registry does not answer, has no champion or one that is not sound; or what is served changed meanwhile.
    """
    from flight_delays.tracking import CHALLENGER

    known = registry()
    tell(store, known)
    champion, challenger = champion_of(known), known.behind(CHALLENGER)
    release = store.read()
    if release and release.pending:  # decided since the registry was asked
        return release
    if release is None or release.champion != champion.number or not _has(store, champion):
        fetch(store, known, champion)
        _require_sound(store, champion.number)
        seen = release.id if release else None
        release = moves.serve(store, champion.number, champion.tags, "champion in the registry", seen=seen)
    if challenger and challenger.number not in {release.challenger, release.champion}:
        kept = params("serve")["canary"]
        fetch(store, known, challenger)
        why = "challenger in the registry"
        release = moves.challenge(
            store, challenger.number, kept["mode"], kept["share"], why, challenger.tags, release.id
        )
    describe(known, release)
    return release


def _sync_or_go_on(store: Store) -> None:
    """Serve what the store has where it cannot be brought in step: a registry that is away stops nobody."""
    try:
        sync(store)
    except Exception as error:
        if store.read() is None:
            raise
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        print(f"warning: what the store has is served, as before ({why})", file=sys.stderr)


def tell(store: Store, known: "Registry") -> None:
    """Let the registry follow what was decided here.

    Parameters
    ----------
    store
        Of the service.
    known
        The registry.
    """
    from flight_delays.tracking import CHALLENGER

    release = store.read()
    if release is None or not release.pending:
        return
    decided: dict[str, dict[str, Any]] = {}  # by challenger, the newest decision; others may be waiting in the registry
    for entry in store.past("decision", 20):
        if entry["challenger"] and entry["challenger"] != release.challenger:
            decided.setdefault(entry["challenger"], entry)
    for number, entry in decided.items():
        if entry["action"] != "promote" and number != release.champion:
            with suppress(InputError):  # of a registry that is gone
                known.tag(known.version(number), {"refused.live": entry["reason"][:5000]})
    challenger = known.behind(CHALLENGER)
    if challenger and challenger.number in decided:
        known.demote(CHALLENGER)
    if release.pending != moves.CHALLENGER and release.champion.isdecimal():
        known.promote(known.version(release.champion))
    describe(known, release)
    moves.told(store, release)


def describe(known: "Registry", release: Release) -> None:
    """Write into the registry what is served: since when, by whom and why.

    Parameters
    ----------
    known
        The registry.
    release
        What is served.
    """
    kept = ("id", "champion", "challenger", "mode", "share", "previous", "since", "by", "reason", "commit", "data")
    known.describe({f"release.{key}": str(value) for key, value in asdict(release).items() if key in kept})
    with suppress(InputError):  # a model of a folder has no version
        served = known.version(release.champion)
        known.tag(
            served, {"served.since": release.since, "served.by": release.by, "served.reason": release.reason[:5000]}
        )


def fetch(store: Store, known: "Registry", version: "Version") -> None:
    """Bring a version's model into the store.

    Parameters
    ----------
    store
        Of the service.
    known
        The registry.
    version
        Of it.
    """
    if not _has(store, version):
        with tempfile.TemporaryDirectory() as folder:
            store.add(version.number, known.download(version, Path(folder)))


def canary(store: Store, number: str, mode: str, share: float) -> Release:
    """Try a registered version on live requests.

    Parameters
    ----------
    store
        Of the service.
    number
        Of the version.
    mode, share
        Of `moves.challenge`.

    Raises
    ------
    InputError
        The gate has not let it pass, or it cannot be tried.
    """
    from flight_delays.tracking import CHALLENGER

    known = registry()
    version = known.version(number)
    known.admit(version, CHALLENGER)
    fetch(store, known, version)
    release = moves.challenge(store, number, mode, share, f"{mode} of version {number}", version.tags)
    known.promote(version, CHALLENGER)
    describe(known, release)
    return release


def rollback(store: Store, reason: str) -> None:
    """Go back, say how long it took until all workers had, and then tell the registry.

    Parameters
    ----------
    store
        Of the service.
    reason
        Why, for the record.

    Raises
    ------
    InputError
        There is nothing to go back to, it is not sound, a worker does not follow, or the registry cannot be told yet.
    """
    start = time.monotonic()
    former = store.read()
    release = moves.back(store, reason) or _from_registry(store, reason)
    try:
        count = moves.wait(store, release, WAIT_SECONDS)  # each worker asks the model its golden rows
        if not count:
            _require_sound(store, release.champion)
    except (moves.UnsoundChampionError, _UnsoundError) as error:
        if former:
            moves.undo(store, release, former)
        raise InputError(f"{error}; what was served goes on") from None
    taken = time.monotonic() - start
    who = f"{count} workers switched in {taken:.2f} s" if count else "no worker runs, so from its next start on"
    print(f"version {release.champion} answers all requests: {who}", flush=True)
    if release.previous:
        print(f"`make rollback` once more would go to version {release.previous}")
    try:
        tell(store, registry())
    except Exception as error:
        words = str(error).split("\n")[0][:200]
        raise InputError(f"the registry is not told yet, the controller will ({words})") from None
    print("the registry knows")


def _from_registry(store: Store, reason: str) -> Release:
    """Go back to the version before the champion that the registry knows, where this store never served another."""
    now = store.read()
    known = registry()
    before = known.before(now.champion) if now and now.champion.isdecimal() else None
    if before is None:
        raise InputError("no version before this one has passed the gate: there is nothing to go back to")
    fetch(store, known, before)
    return moves.serve(store, before.number, before.tags, reason, pending=True)


def _has(store: Store, version: "Version") -> bool:
    """Whether the store has the model of a version, and not one of that number from a registry that is gone."""
    folder = store.model(version.number)
    if not folder.is_dir():
        return False
    return version.tags.get("model") in {None, digest(*sorted(folder.iterdir()))}


class _UnsoundError(InputError):
    """A model does not give the answers that it gave when it was made."""


def _require_sound(store: Store, number: str) -> None:
    """Refuse a model that the workers would refuse, before it is named in the release."""
    try:
        golden.check(Model.load(store.model(number)), store.model(number))
    except Exception as error:  # whatever a broken model raises
        raise _UnsoundError(f"version {number} cannot be served: {' '.join(str(error).split())[:300]}") from None


def show(store: Store) -> None:
    """Print what is served, who serves it, and what was decided.

    Parameters
    ----------
    store
        Of the service.
    """
    from rich.console import Console
    from rich.table import Table

    release = store.read()
    if release is None:
        raise InputError("nothing is served here yet: run `make serve` first")
    table = Table("", "", show_header=False)
    for key, value in asdict(release).items():
        table.add_row(key, "" if value is None else str(value))
    for report in store.reports():
        why = "".join(f", refuses {version}: {reason}" for version, reason in report["refused"].items())
        table.add_row(
            f"worker {report['pid']}", f"champion {report['champion']}, challenger {report['challenger']}{why}"
        )
    for entry in store.past("decision", 5):
        table.add_row(
            entry["at"][:19], f"{entry['action']} {entry['challenger'] or entry['champion']}: {entry['reason']}"
        )
    Console(width=110, highlight=False).print(table, markup=False)


@report_errors
def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.serving.control",
        description=__doc__,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="what is served, and what was decided")
    syncing = commands.add_parser("sync", help="bring what the registry says into the service, and the other way round")
    syncing.add_argument(
        "--if-possible", action="store_true", help="where it is not, what the store has is served: then end well"
    )
    trying = commands.add_parser("canary", help="try a registered version on live requests")
    trying.add_argument("version")
    trying.add_argument("--mode", default=None, help="canary or shadow")
    trying.add_argument("--share", type=float, default=None, help="of the requests, up to 1")
    going = commands.add_parser("rollback", help="go back to the champion alone, or to the one before")
    going.add_argument("--reason", default="asked for")
    keyed = commands.add_parser("key", help="make a key for a client")
    keyed.add_argument("name")
    chosen = parser.parse_args()
    if chosen.command == "key":
        key, entry = make_key(chosen.name)
        print(f"for {chosen.name}, shown only now: {key}\nfor the service, add to API_KEYS: {entry}")
        return
    store = Store()
    if chosen.command == "show":
        show(store)
    elif chosen.command == "sync":
        _sync_or_go_on(store) if chosen.if_possible else sync(store)
    elif chosen.command == "rollback":
        rollback(store, chosen.reason)
    else:
        kept = params("serve")["canary"]
        share = kept["share"] if chosen.share is None else chosen.share
        release = canary(store, chosen.version, chosen.mode or kept["mode"], share)
        print(f"version {release.challenger} is tried on {release.share:.0%} of the requests, see `make release`")


if __name__ == "__main__":
    main()
