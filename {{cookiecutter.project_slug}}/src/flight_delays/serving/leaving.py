"""Will this replica stop soon? It says so while it still answers, until the proxy has sent the next ones elsewhere."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the one place that all processes of one start share
_NAME = "leaving"


def announce() -> bool:
    """Say it to all workers; tell whether it was new."""
    path = Path(os.environ[FOLDER]) / _NAME
    if path.exists():
        return False
    path.touch()
    return True


def announced() -> bool:
    """Whether it was said."""
    return FOLDER in os.environ and (Path(os.environ[FOLDER]) / _NAME).exists()


class Server(uvicorn.Server):
    """Answers on for some seconds after it was asked to stop.

    Parameters
    ----------
    config
        Of uvicorn.
    seconds
        So long; 0 stops at once, as a second signal does.
    """

    def __init__(self, config: uvicorn.Config, seconds: float) -> None:
        super().__init__(config)
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, later where a proxy has to see it first."""
        if self._seconds and sig == signal.SIGTERM and announce():
            timer = threading.Timer(self._seconds, super().handle_exit, (sig, frame))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)


class Workers(Multiprocess):
    """The same for several workers; the memory of one that has gone is no longer counted."""

    seconds = 0.0

    def keep_subprocess_alive(self) -> None:
        """Replace those that have died."""
        with self._those_that_go():
            super().keep_subprocess_alive()

    def restart_all(self) -> None:
        """Replace all, one after the other."""
        with self._those_that_go():
            super().restart_all()

    @contextmanager
    def _those_that_go(self) -> Iterator[None]:
        from prometheus_client.multiprocess import mark_process_dead

        before = {process.pid for process in self.processes}
        yield
        for number in before - {process.pid for process in self.processes}:
            mark_process_dead(number)

    def handle_term(self) -> None:
        """Stop the workers, once it has been seen that they will."""
        if self.seconds and announce():
            time.sleep(self.seconds)
        super().handle_term()
