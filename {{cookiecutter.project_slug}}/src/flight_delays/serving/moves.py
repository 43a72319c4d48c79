"""How does what is served change? Each move replaces the release at once for all workers, and is written down."""

import time
from dataclasses import replace
from typing import Any

from flight_delays.errors import InputError
from flight_delays.serving.release import CANARY, SHADOW, Release, Store

CHAMPION, CHALLENGER = "champion", "challenger"  # what the registry is to be told of
OFFERED = "brought at the start:"
_LOOK_SECONDS = 0.02


class UnsoundChampionError(InputError):
    """A worker has looked at a release and does not serve its champion."""


def serve(
    store: Store, version: str, tags: dict[str, str], reason: str, pending: bool = False, seen: str | None = None
) -> Release:
    """Let a version whose model is in the store answer all requests.

    Parameters
    ----------
    store
        Of the service.
    version
        The new champion; the old one becomes `previous`.
    tags
        What the registry says of it.
    reason
        Why.
    pending
        Whether the registry has yet to be told.
    seen
        The id of the release that this rests on; `None` where it does not matter.

    Raises
    ------
    InputError
        Something else is served by now.
    """
    with store.locked():
        now = store.read()
        _unchanged(now, seen)
        before = (now.previous if now.champion == version else now.champion) if now else None
        commit, data = _origin(tags)
        made = Release(version, previous=before, reason=reason, commit=commit, data=data)
        return store.publish(replace(made, pending=CHAMPION if pending else ""))


def offer(store: Store, version: str, reason: str, new: bool) -> Release:
    """Let a model that an image or a person brought take over, once.

    Each replica brings it at each start. Whoever brings the same again changes nothing, so that what was rolled back
    meanwhile stays so, however often a container is restarted.

    Parameters
    ----------
    store
        Of the service; the model is in it.
    version
        The new champion.
    reason
        Why; what was brought before is told by it.
    new
        Whether its files were not in the store yet.
    """
    with store.locked():
        now = store.read()
        brought = (entry for entry in store.past("release", 1000) if entry["reason"].startswith(OFFERED))
        last = next(brought, None)
        if now and not new and last and last["champion"] == version:
            return now
        before = (now.previous if now.champion == version else now.champion) if now else None
        return store.publish(Release(version, previous=before, reason=f"{OFFERED} {reason}"))


def challenge(
    store: Store,
    version: str,
    mode: str,
    share: float,
    reason: str,
    tags: dict[str, str] | None = None,
    seen: str | None = None,
) -> Release:
    """Try a version whose model is in the store on a share of the requests.

    Parameters
    ----------
    store
        Of the service.
    version
        The challenger.
    mode
        `canary` or `shadow`.
    share
        Above 0, up to 1.
    reason
        Why.
    tags, seen
        As for `serve`.

    Raises
    ------
    InputError
        Nothing is served yet, something else is by now, or this cannot be tried.
    """
    if mode not in {CANARY, SHADOW}:
        raise InputError(f"mode {mode!r} is not known: use {CANARY} or {SHADOW}")
    if not 0 < share <= 1:
        raise InputError(f"share {share} is none: use a number above 0, up to 1, such as 0.1")
    with store.locked():
        now = _now(store)
        _unchanged(now, seen)
        if version == now.champion:
            raise InputError(f"version {version} is the champion: there is nothing to try")
        commit, data = _origin(tags or {})
        made = replace(now, challenger=version, mode=mode, share=share, reason=reason)
        return store.publish(replace(made, challenger_commit=commit, challenger_data=data))


def promote(store: Store, version: str, reason: str, evidence: dict[str, Any] | None = None) -> Release:
    """Let the challenger answer all requests.

    Parameters
    ----------
    store
        Of the service.
    version
        Which must still be the challenger.
    reason
        Why.
    evidence
        What the decision rests on.

    Raises
    ------
    InputError
        It is not the challenger any more.
    """
    with store.locked():
        now = _tried(store, version)
        store.record("decision", _decision("promote", now, reason, evidence))
        made = Release(version, previous=now.champion, reason=reason, pending=CHAMPION)
        return store.publish(replace(made, commit=now.challenger_commit, data=now.challenger_data))


def drop(store: Store, version: str, reason: str, evidence: dict[str, Any] | None = None) -> Release:
    """Let the champion answer all requests again.

    Parameters
    ----------
    store, version, reason, evidence
        As for `promote`.
    """
    with store.locked():
        return _drop(store, _tried(store, version), reason, evidence)


def back(store: Store, reason: str) -> Release | None:
    """Go back: from a challenger to the champion alone, else from the champion to the one before.

    Parameters
    ----------
    store
        Of the service.
    reason
        Why.

    Returns
    -------
    Release or None
        `None` where the store knows of no champion before this one.
    """
    with store.locked():
        now = _now(store)
        if now.challenger:
            return _drop(store, now, reason, None)
        if now.previous is None or not store.model(now.previous).is_dir():
            return None
        store.record("decision", _decision("roll back", now, reason, None))
        then = next((entry for entry in store.past("release", 1000) if entry["champion"] == now.previous), {})
        commit, data = then.get("commit", "none"), then.get("data", "none")
        made = Release(now.previous, previous=now.champion, commit=commit, data=data, reason=reason)
        return store.publish(replace(made, pending=CHAMPION))


def undo(store: Store, release: Release, former: Release) -> None:
    """Take a release back whose champion no worker serves.

    Parameters
    ----------
    store
        Of the service.
    release
        From another function of this module; where it has been followed by another, nothing is done.
    former
        What was served before.
    """
    with store.locked():
        if (now := store.read()) and now.id == release.id:
            store.publish(replace(former, reason=f"version {release.champion} cannot be served"))


def told(store: Store, release: Release) -> None:
    """Note that the registry knows of a release.

    Parameters
    ----------
    store
        Of the service.
    release
        Which may have been followed by another by now; then nothing is noted.
    """
    with store.locked():
        now = store.read()
        if now and now.id == release.id and now.pending:
            store.replace(replace(now, pending=""))


def wait(store: Store, release: Release, seconds: float) -> int:
    """Wait until all workers serve a release, and say how many they are.

    Parameters
    ----------
    store
        Of the service.
    release
        From another function of this module.
    seconds
        At most.

    Raises
    ------
    InputError
        A worker still serves another one, or will not serve this.
    """
    end = time.monotonic() + seconds
    while True:
        reports = store.reports()
        late = [report for report in reports if report["release"] != release.id]
        if not late:
            return len(reports)
        for report in late:
            if report["asked"] == release.id and (why := report["refused"].get(release.champion)):
                raise UnsoundChampionError(f"worker {report['pid']} does not serve version {release.champion}: {why}")
        if time.monotonic() > end:
            raise InputError(
                f"worker {late[0]['pid']} does not serve version {release.champion} yet: it does not answer"
            )
        time.sleep(_LOOK_SECONDS)


def _now(store: Store) -> Release:
    now = store.read()
    if now is None:
        raise InputError("nothing is served here yet: run `make serve` first")
    return now


def _unchanged(now: Release | None, seen: str | None) -> None:
    if seen is not None and (now is None or now.id != seen):
        raise InputError("what is served has changed meanwhile: look again")


def _origin(tags: dict[str, str]) -> tuple[str, str]:
    return tags.get("git.commit", "none"), tags.get("data", "none")


def _tried(store: Store, version: str) -> Release:
    now = _now(store)
    if now.challenger != version:
        raise InputError(f"version {version} is not the challenger any more: {now.challenger or 'nothing'} is tried")
    return now


def _drop(store: Store, now: Release, reason: str, evidence: dict[str, Any] | None) -> Release:
    store.record("decision", _decision("roll back", now, reason, evidence))
    made = Release(now.champion, previous=now.previous, reason=reason, pending=now.pending or CHALLENGER)
    return store.publish(replace(made, commit=now.commit, data=now.data))


def _decision(action: str, now: Release, reason: str, evidence: dict[str, Any] | None) -> dict[str, Any]:
    named = {"action": action, "champion": now.champion, "challenger": now.challenger, "release": now.id}
    return named | {"mode": now.mode, "share": now.share, "reason": reason, "evidence": evidence}
