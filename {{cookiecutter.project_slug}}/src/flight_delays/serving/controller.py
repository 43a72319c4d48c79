"""Who decides while everybody sleeps? Watches the challenger beside the service, and promotes it or rolls it back.

What it knows stands in the prediction log, and what it decides in the store, so it may be stopped and started at any
time: it reads the log again. It stays small, since what needs MLflow is done by a process that ends.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from typing import Any

from flight_delays.errors import InputError, report_errors
from flight_delays.model import Model
from flight_delays.serving import moves
from flight_delays.serving.evidence import Evidence
from flight_delays.serving.log import Tail
from flight_delays.serving.release import Release, Store
from flight_delays.settings import params

_LOOK_SECONDS = 0.5


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
        self._records, self._labels = Tail(store.predictions, began), Tail(store.folder / "labels")
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
            `action`, `reason` and `checks` once there is a decision, which has been carried out.
        """
        if why := self._why_refused():
            reason = f"version {self.challenger} cannot be served: {why}"
            moves.drop(self.store, self.challenger, reason, {"refused": why})
            return {"action": "roll back", "reason": reason, "checks": []}
        records = self._records.new()
        labels = {(entry["id"], entry["row"]): entry["truth"] for entry in self._labels.new()}
        if not records and not labels:
            return None
        self._evidence.add(records)
        self._evidence.labels(labels)
        verdict = self._evidence.verdict()
        if verdict.action == "wait":
            return None
        evidence = {"checks": verdict.checks}
        move = moves.promote if verdict.action == "promote" else moves.drop
        move(self.store, self.challenger, verdict.reason, evidence)
        return {"action": verdict.action, "reason": verdict.reason} | evidence

    def _why_refused(self) -> str:
        if self._refused:
            return self._refused
        reasons = (report["refused"].get(self.challenger) for report in self.store.reports())
        return next((reason for reason in reasons if reason), "")


class Controller:
    """Follows the store from trial to trial.

    Parameters
    ----------
    store
        Of the service.
    chosen
        The section `serve` of `params.yaml`.
    """

    def __init__(self, store: Store, chosen: dict[str, Any]) -> None:
        self.store, self._chosen = store, chosen
        self._trial: Trial | None = None

    def look(self) -> dict[str, Any] | None:
        """Look once; give the decision, if there was one."""
        release = self.store.read()
        if release is None or release.challenger is None:
            self._trial = None
            return None
        if self._trial is None or self._trial.release.id != release.id:
            self._trial = Trial(self.store, release, self._chosen["canary"])
        return self._trial.look()


def _in_step(process: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes] | None:
    """Start what brings registry and store in step, unless it is still at it."""
    if process is not None and process.poll() is None:
        return process
    command = [sys.executable, "-m", "flight_delays.serving.control", "sync"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@report_errors
def main() -> None:
    """Run until the service that started this ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = os.getppid()
    store, chosen = Store(), params("serve")
    controller, syncing = Controller(store, chosen), None
    pause = chosen["registry_minutes"] * 60
    due = time.monotonic() + pause
    while os.getppid() == parent:
        try:
            decision = controller.look()
        except (InputError, OSError) as error:  # somebody else moved first, or the disk is away: look again
            print(json.dumps({"message": "the controller looks again", "error": str(error)[:300]}), flush=True)
            decision = None
        if decision:
            print(json.dumps({"message": "decision", **decision}), flush=True)
            due = 0.0
        if time.monotonic() >= due:
            syncing, due = _in_step(syncing), time.monotonic() + pause
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    main()
