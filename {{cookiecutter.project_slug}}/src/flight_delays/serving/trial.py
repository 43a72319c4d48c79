"""How does a challenger fare against the champion? One trial, from the first request it saw to the decision."""

from datetime import datetime
from typing import Any

from flight_delays.model import Model
from flight_delays.serving import moves
from flight_delays.serving.evidence import Evidence
from flight_delays.serving.log import Tail
from flight_delays.serving.release import Release, Store


class Trial:
    """One challenger on trial.

    Parameters
    ----------
    store
        Of the service.
    release
        That brought the challenger.
    chosen
        The section `serve.canary` of `params.yaml`.
    """

    def __init__(self, store: Store, release: Release, chosen: dict[str, Any]) -> None:
        self.store, self.release, self.challenger = store, release, str(release.challenger)
        began = datetime.fromisoformat(release.since)
        self._records, self._labels = Tail(store.predictions, began), Tail(store.labels)
        self._refused = ""
        try:
            models = [Model.load(store.model(version)) for version in (release.champion, self.challenger)]
        except Exception as error:  # whatever a broken model raises
            self._refused = " ".join(str(error).split())[:300]
            return
        thresholds = models[0].threshold, models[1].threshold
        contract = models[0].contract
        self._evidence = Evidence(contract, release.champion, self.challenger, release.id, chosen, thresholds)

    def look(self) -> dict[str, Any] | None:
        """Look at what is new, and decide if it can be decided.

        Returns
        -------
        dict or None
            `action`, `reason`, `checks`, `challenger` and `release` once there is a decision; it has been carried out.
        """
        if why := self._why_refused():
            reason = f"version {self.challenger} cannot be served: {why}"
            moves.drop(self.store, self.challenger, reason, {"refused": why})
            return self._named("roll back", reason, [])
        self._evidence.add(self._records)
        self._evidence.labels({(entry["id"], entry["row"]): entry["truth"] for entry in self._labels})
        verdict = self._evidence.verdict()
        if verdict.action == "wait":
            return None
        evidence = {"checks": verdict.checks}
        move = moves.promote if verdict.action == "promote" else moves.drop
        move(self.store, self.challenger, verdict.reason, evidence)
        return self._named(verdict.action, verdict.reason, verdict.checks)

    def _named(self, action: str, reason: str, checks: list[dict[str, Any]]) -> dict[str, Any]:
        named = {"action": action, "reason": reason, "checks": checks}
        return named | {"challenger": self.challenger, "release": self.release.id}

    def _why_refused(self) -> str:
        if self._refused:
            return self._refused
        reports = (report for report in self.store.reports() if report["release"] == self.release.id)
        return next((why for report in reports if (why := report["refused"].get(self.challenger))), "")
