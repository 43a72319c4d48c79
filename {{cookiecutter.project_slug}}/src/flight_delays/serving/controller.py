"""Who decides while everybody sleeps? Watches the challenger beside the service, and promotes it or rolls it back.

What it knows stands in the prediction log, and what it decides in the store, so it may be stopped and started at any
time: it reads the log again. It stays small: what needs MLflow is done by a process that ends, what needs NumPy
is not imported before there is a challenger.
"""

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from flight_delays.errors import report_errors
from flight_delays.serving.ecs import Log
from flight_delays.serving.release import Store
from flight_delays.settings import params

if TYPE_CHECKING:
    from flight_delays.serving.trial import Trial

_LOOK_SECONDS = 0.5


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
            from flight_delays.serving.trial import Trial  # with NumPy, Arrow and LightGBM

            self._trial = Trial(self.store, release, self._chosen["canary"])
        return self._trial.look()


class Steps:
    """Brings registry and store in step: now and then, and as soon as something was decided.

    Parameters
    ----------
    pause
        Seconds from one time to the next.
    log
        Of the controller.
    """

    def __init__(self, pause: float, log: Log) -> None:
        self._log = log
        self._pause, self._due = pause, time.monotonic() + pause
        self._process: subprocess.Popen[bytes] | None = None

    def soon(self) -> None:
        """Do it as soon as the last time is over."""
        self._due = 0.0

    def take(self) -> None:
        """Start if it is time, and say how the last time went."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            if self._process.returncode:
                self._log.say("registry and service are not in step", "warning", fault=_last_line(self._process))
            self._process = None
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._pause
            command = [sys.executable, "-m", "flight_delays.serving.control", "sync"]
            self._process = subprocess.Popen(command, stderr=subprocess.PIPE)


def _last_line(process: subprocess.Popen[bytes]) -> str:
    written = process.communicate()[1].decode(errors="replace").strip()
    return written.split("\n")[-1][:300]


@report_errors
def main() -> None:
    """Run until the service that started this ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = os.getppid()
    store, chosen = Store(), params("serve")
    log = Log("controller")
    controller, steps = Controller(store, chosen), Steps(chosen["registry_minutes"] * 60, log)
    release, told = store.read(), ""
    if release and release.pending:  # decided before the last stop
        steps.soon()
    while os.getppid() == parent:
        try:
            if decision := controller.look():
                log.say(
                    f"{decision['action']} version {decision['challenger']}",
                    action=decision["action"],
                    reason=decision["reason"],
                    challenger=decision["challenger"],
                    release=decision["release"],
                )
                steps.soon()
        except Exception as error:  # somebody else moved first, the disk is away, a record is strange: look again
            if (fault := f"{type(error).__name__}: {error}") != told:
                log.say("the controller looks again", "warning", error)
            told = fault
        steps.take()
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    main()
