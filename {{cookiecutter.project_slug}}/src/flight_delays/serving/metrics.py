"""What does the service count? Prometheus metrics, added up over all workers.

Distributions are counters over the bins of `reference.json`, so drift can be told from them by any Prometheus, over
any number of workers and replicas.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

from flight_delays.features import Floats
from flight_delays.reference import Bins
from flight_delays.serving.roles import Loaded, Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set where several processes count together
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_TOGETHER = 1_024  # rows that are put into their bins at a time
_SAME = 50  # rows in a row, different from each other, with the same output: the model has collapsed

REQUESTS = Counter("service_requests", "Requests, by what was asked and how it was answered", ["path", "status"])
SECONDS = Histogram("service_request_seconds", "From a request's last byte to its answer", buckets=_SECONDS)
VIOLATIONS = Counter("service_violations", "What broke the contract", ["column", "rule", "action"])
LOG_FAILURES = Counter("service_log_failures", "Predictions that could not be written to the prediction log")
LINES_DROPPED = Counter("service_lines_dropped", "Lines of the request log that nobody took in time")
OVERLOADED = Counter("service_overloaded", "Requests refused at once, since too many were waiting")
ROWS = Counter("model_rows", "Rows predicted", ["version", "role"])
PREDICT_SECONDS = Histogram(
    "model_predict_seconds", "Encoding and predicting a request", ["version", "role"], buckets=_SECONDS
)
FAILURES = Counter("model_failures", "Requests that a model could not answer", ["version", "role", "kind"])
COLLAPSED = Counter("model_collapsed", f"Times that {_SAME} different rows in a row got the same output", ["version"])
FEATURE_BINS = Counter("model_feature_bin", "Feature values, by bin of the reference", ["version", "feature", "bin"])
OUTPUT_BINS = Counter("model_output_bin", "Outputs, by bin of the reference", ["version", "role", "bin"])
SERVED = Gauge(
    "model_served_since_seconds", "Since when a version is served, in seconds since 1970", ["version", "role"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
SHARE = Gauge(
    "model_challenger_share", "Share of the requests that the challenger is tried on", multiprocess_mode="mostrecent"
)
RESIDENT = Gauge("service_resident_bytes", "Memory of all workers", multiprocess_mode="livesum")
REFUSED = Gauge("model_refused", "Versions that should be served and are not sound", multiprocess_mode="mostrecent")


class Distributions:
    """Counts the features and outputs of one model; into their bins many rows at a time, which is far less work.

    Parameters
    ----------
    loaded
        The model, with its bins.
    role
        `champion` or `challenger`.

    Attributes
    ----------
    bins
        The model's own, by which it is known: to hold the model itself would keep each one that was ever served.
    """

    def __init__(self, loaded: Loaded, role: str) -> None:
        self.bins = loaded.bins
        self._features = [
            (place, bins, [FEATURE_BINS.labels(loaded.version, name, bin_name) for bin_name in bins.names])
            for place, (name, bins) in enumerate(loaded.bins.items())
        ]
        self._output = loaded.output_bins
        names = self._output.names if self._output else ()
        self._outputs = [OUTPUT_BINS.labels(loaded.version, role, name) for name in names]
        self._collapsed = COLLAPSED.labels(loaded.version)
        self._rows, self._seconds = ROWS.labels(loaded.version, role), PREDICT_SECONDS.labels(loaded.version, role)
        self._last_output: bytes = b""
        self._rows_alike: set[bytes] = set()  # different rows in a row that got the last output
        self._waiting: list[tuple[Floats, Floats]] = []  # rows and outputs that are in no bin yet
        self._rows_waiting = 0
        self._watching = threading.Lock()  # large requests are answered in threads

    def count(self, X: Floats, output: Floats, taken: float) -> None:
        """Count the rows of a request; which bins they fall into is counted by `settle`.

        Parameters
        ----------
        X
            Encoded, of shape (rows, features).
        output
            Of `Model.predict`.
        taken
            Milliseconds of encoding and predicting.
        """
        self._rows.inc(len(X))
        self._seconds.observe(taken / 1e3)
        with self._watching:
            self._waiting.append((X, output))
            self._rows_waiting += len(X)
            enough = self._rows_waiting >= _TOGETHER
        self._watch_for_collapse(X, output)
        if enough:
            self.settle()

    def _watch_for_collapse(self, X: Floats, output: Floats) -> None:
        given, alike = output[-1].tobytes(), len(X) == 1 or bool((output == output[-1]).all())
        with self._watching:
            if given != self._last_output or not alike:
                self._last_output = given
                self._rows_alike.clear()
            self._rows_alike.update(row.tobytes() for row in (X if alike else X[-1:]))
            if len(self._rows_alike) >= _SAME:
                self._rows_alike.clear()
                self._collapsed.inc()

    def settle(self) -> None:
        """Put all rows that wait into their bins."""
        with self._watching:
            waiting, self._waiting, self._rows_waiting = self._waiting, [], 0
        if not waiting:
            return
        X, output = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        for place, bins, counters in self._features:
            _count(bins, counters, X[:, place])
        if self._output:
            _count(
                self._output, self._outputs, output if output.ndim == 1 else output.argmax(axis=1).astype(np.float64)
            )


def _count(bins: Bins, counters: list[Counter], values: Floats) -> None:
    for counter, count in zip(counters, bins.count(values).tolist(), strict=True):
        if count:
            counter.inc(count)


def say(served: Served, since: float) -> None:
    """Say what is served.

    Parameters
    ----------
    served
        The models of this process.
    since
        When this began, in seconds since 1970.
    """
    now = served.now
    SERVED.labels(now.champion.version, "champion").set(since)
    if now.challenger:
        SERVED.labels(now.challenger.version, "challenger").set(since)
    SHARE.set(now.release.share if now.challenger else 0)
    REFUSED.set(len(served.refused))


def say_memory() -> None:
    """Say how much memory this process has; nothing where the system does not tell."""
    with suppress(OSError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        RESIDENT.set(int(pages) * os.sysconf("SC_PAGE_SIZE"))


def page() -> bytes:
    """Write the metrics of all workers as Prometheus reads them."""
    if _FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
