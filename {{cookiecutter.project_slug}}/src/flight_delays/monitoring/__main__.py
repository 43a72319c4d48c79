"""Watch what is served: run the jobs of monitoring when they are due, and show what they found to Prometheus.

What a job finds stands in `reports/`, and what is served in the store, so this may be stopped and started at any time.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

from flight_delays import features, reference
from flight_delays.contract import Contract, read_document
from flight_delays.errors import InputError, report_errors
from flight_delays.monitoring import age, labels, speed
from flight_delays.pipeline.ingest import ROWS
from flight_delays.serving.ecs import Log
from flight_delays.serving.release import Release, Store
from flight_delays.settings import params

HOST, PORT = "127.0.0.1", 9101
_REPORTS = Path("reports")  # of each job one, by its name
_UNITS = {"h": 3_600, "hours": 3_600, "d": 86_400, "days": 86_400, "m": 60, "minutes": 60, "s": 1, "seconds": 1}


@dataclass
class Job:
    """A job and how its last run went.

    Attributes
    ----------
    name
        Of the module in `monitoring/`.
    minutes
        From one run to the next.
    due
        When it runs next, on the clock of `time.monotonic`.
    seconds, failed
        Of the last run: how long it took, and whether it ended without a report; `None` before the first.
    good
        When it last left its report, or had nothing to do, in seconds since 1970; `None` if never.
    arguments
        Of its command line.
    said
        What was wrong in the last run.
    """

    name: str
    minutes: float
    due: float = 0.0
    seconds: float | None = None
    failed: bool | None = None
    good: float | None = None
    arguments: tuple[str, ...] = ()
    said: str = ""

    def __post_init__(self) -> None:
        """Look for the report of an earlier run."""
        with suppress(FileNotFoundError):
            self.good = self.report.stat().st_mtime

    @property
    def report(self) -> Path:
        """Where it writes what it found."""
        return _REPORTS / f"{self.name}.json"

    def run(self, store: Store, log: Log) -> None:
        """Run it, unless there is nothing yet for it to look at."""
        self.due = time.monotonic() + self.minutes * 60
        needed = {"labels": store.incoming, "quality": store.predictions, "skew": store.predictions}.get(self.name)
        if needed and not any(path.is_file() for path in needed.iterdir()):
            self.good = time.time()
            return
        start, began = time.monotonic(), time.time()
        command = [sys.executable, "-m", f"flight_delays.monitoring.{self.name}"]
        command += self.arguments
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        self.seconds = time.monotonic() - start
        self.failed = not self.report.is_file() or self.report.stat().st_mtime < began - 1
        if not self.failed:
            self.good = time.time()
        before, self.said = self.said, done.stderr.strip().split("\n")[-1][:500] if done.returncode else ""
        if self.said not in {"", before}:
            log.say(f"{self.name}: {self.said}", "error" if self.failed else "warning")


@dataclass(eq=False)  # a registry tells collectors apart by identity
class Watch:
    """What Prometheus is shown at each scrape.

    Attributes
    ----------
    store
        Of the service.
    jobs
        Run beside.
    log
        Is told of what cannot be read.
    """

    store: Store
    jobs: list[Job] = field(default_factory=list)
    log: Log = field(default_factory=lambda: Log("monitor"))

    def collect(self) -> Iterable[Metric]:
        """Give the metrics; a report that cannot be read leaves its own out."""
        release = self.store.read()
        parts = [self._jobs(), self._log(), _labels(), _skew(), _dependencies(), _speed(), _data()]
        if release:
            parts += [self._release(release), self._references(release), self._age(release), _quality()]
        for part in parts:
            try:
                yield from part
            except (InputError, OSError, ValueError, KeyError) as error:
                self.log.say("a report cannot be read", "warning", error)

    def _jobs(self) -> Iterator[Metric]:
        success = _gauge(
            "job_last_success_timestamp_seconds", "When a job last left its report, or had nothing to do", "job_name"
        )
        failed, taken = (
            _gauge("job_failed", "Whether a job's last run left none", "job_name"),
            _gauge("job_seconds", "How long a job's last run took", "job_name"),
        )
        interval = _gauge("job_interval_seconds", "From one run of a job to the next", "job_name")
        for job in self.jobs:
            interval.add_metric([job.name], job.minutes * 60)
            if job.good is not None:
                success.add_metric([job.name], job.good)
            if job.failed is not None and job.seconds is not None:
                failed.add_metric([job.name], job.failed)
                taken.add_metric([job.name], job.seconds)
        yield from (success, failed, taken, interval)

    def _log(self) -> Iterator[Metric]:
        found = [path.stat() for path in self.store.predictions.glob("*.jsonl*")]
        yield _one("prediction_log_bytes", "Size of the prediction log", sum(entry.st_size for entry in found))
        if found:
            newest = max(entry.st_mtime for entry in found)
            yield _one("prediction_log_newest_timestamp_seconds", "When a prediction was last written", newest)
        usage = shutil.disk_usage(self.store.folder)  # its total may have a part that this user cannot have
        yield _one("store_free_bytes", "Free space where the prediction log is", usage.free)
        yield _one("store_size_bytes", "Space where the prediction log is, used or free", usage.used + usage.free)

    def _release(self, release: Release) -> Iterator[Metric]:
        info = InfoMetricFamily("release", "What is served")
        names = ("id", "champion", "challenger", "mode", "commit", "data", "by")
        info.add_metric([], {name: str(getattr(release, name) or "none") for name in names})
        yield info
        yield _one("release_timestamp_seconds", "Since when", datetime.fromisoformat(release.since).timestamp())
        decisions = _gauge("release_decisions", "Decisions on challengers and champions so far", "action")
        counts = Counter(entry["action"] for entry in self.store.past("decision", 10_000))
        for action in ("promote", "roll back"):  # also of what never was, so that the first one is a change
            decisions.add_metric([action], counts[action])
        yield decisions

    def _references(self, release: Release) -> Iterator[Metric]:
        share = _gauge("model_reference_share", "Share of the rows learned from in a bin", "version", "feature", "bin")
        limit = _gauge("model_drift_limit", "Of the population stability index over a week", "version", "feature")
        outputs = _gauge("model_output_reference_share", "Share of the outputs in a bin", "version", "bin")
        output_limit = _gauge("model_output_drift_limit", "As model_drift_limit, of the outputs", "version")
        for version in filter(None, (release.champion, release.challenger)):
            folder = self.store.model(version)
            bins, output = reference.read(folder)
            contract = Contract.read(folder / "contract.yaml")
            # hour and weekday of a few days are never those of all: the calendar has no drift
            calendar = {one.name for one in features.features(contract) if one.part and one.column == contract.time}
            for feature, one in bins.items():
                if feature not in calendar:
                    limit.add_metric([version, feature], one.limit)
                for name, value in zip(one.names, one.shares, strict=True):
                    share.add_metric([version, feature, name], value)
            output_limit.add_metric([version], output.limit)
            for name, value in zip(output.names, output.shares, strict=True):
                outputs.add_metric([version, name], value)
        yield from (share, limit, outputs, output_limit)

    def _age(self, release: Release) -> Iterator[Metric]:
        found = age.measure(self.store, release)
        due = _gauge("retrain_due", "Whether there is a reason to train again", "reason")
        if found:
            for name, words, value in (
                ("model_age_seconds", "From the newest row learned from to those asked", found.value),
                ("model_age_limit_seconds", "From which it has lost too much, see reports/assessment.md", found.limit),
            ):
                metric = _gauge(name, words, "version")
                metric.add_metric([release.champion], value.total_seconds())
                yield metric
            due.add_metric(["age"], found.value > found.limit)
        problems = _read("quality").get("problems", [])
        due.add_metric(["quality"], any(words.startswith(f"version {release.champion}:") for words in problems))
        yield due


def _quality() -> Iterator[Metric]:
    found = _read("quality")
    if not found:
        return
    names = {"value": "score", "low": "low", "high": "high", "rows": "rows"}
    gauges = {
        part: _gauge(f"model_quality_{name}", f"Of the served predictions: {name}", "version", "window", "score")
        for part, name in names.items()
    }
    worse = _gauge("model_quality_worse", "Whether surely too much is lost", "version", "window", "score")
    for entry in found["windows"]:
        where = [entry["version"], f"{entry['days']}d", found["score"]]
        for part, metric in gauges.items():
            metric.add_metric(where, entry[part])
        worse.add_metric(where, entry["worse"])
    yield from (*gauges.values(), worse)
    for part, words in (("value", "expected"), ("floor", "floor")):
        metric = _gauge(f"model_quality_{words}", "From the test rows", "version", "score")
        for version, entry in found["expected"].items():
            metric.add_metric([version, found["score"]], entry[part])
        yield metric
    yield _one("labels_waiting_rows", "Predictions that wait for a label", found["waiting"])
    yield _one("labels_missing_rows", "Predictions that should have a label by now", found["missing"])
    due = _gauge("labels_due_rows", "Predictions whose label was due within the last `monitor.label_days`", "state")
    for state, count in found["due"].items():
        due.add_metric([state], count)
    yield due


def _labels() -> Iterator[Metric]:
    metric = _gauge("labels_rows", "Labels that came", "state")
    counts = _read("labels").get("all", {})
    for state in labels.STATES:  # as for decisions
        metric.add_metric([state], counts.get(state, 0))
    yield metric


def _skew() -> Iterator[Metric]:
    metric = _gauge("skew_values", "Served features and outputs against the batch path", "result")
    found = _read("skew").get("versions")
    if found is None:
        return
    wrong = sum(one["values_differing"] + one["outputs_differing"] for one in found)
    metric.add_metric(["different"], wrong)
    metric.add_metric(["equal"], sum(one["values"] + one["outputs"] for one in found) - wrong)
    yield metric


def _dependencies() -> Iterator[Metric]:
    found = _read("dependencies")
    if not found:
        return
    changes = _gauge("dependency_changes", "What changed that the project rests on", "kind")
    unknown = _gauge("dependency_unknown", "Whether a kind could not be looked at", "kind")
    for kind, lines in found["changes"].items():
        changes.add_metric([kind], len(lines))
    for kind in (*found["changes"], *found["unknown"]):
        unknown.add_metric([kind], kind in found["unknown"])
    yield from (changes, unknown)


def _speed() -> Iterator[Metric]:
    runs = speed.history()
    if len(runs) < 2:
        return
    ratio = _gauge("speed_ratio", "The last measurement against those before", "what")
    worse = _gauge("speed_worse", "Whether it surely grew by more than the tolerance", "what")
    for change in speed.compare(runs[-1], runs[:-1], params("speed")["tolerance"]):
        ratio.add_metric([change.name], change.ratio)
        worse.add_metric([change.name], change.worse)
    yield from (ratio, worse)


def _data() -> Iterator[Metric]:
    """Say how fresh the data is, where the contract promises that it is."""
    promised = [entry for entry in read_document().get("slaProperties") or () if entry.get("property") == "freshness"]
    if not promised or not ROWS.is_file():
        return
    time_column = Contract.read().time  # which reads the file once more, so only where there is a promise
    if time_column is None:
        return
    limit = timedelta(seconds=float(promised[0]["value"]) * _UNITS[promised[0].get("unit", "d")])
    newest = _newest(time_column.name)
    yield _one("data_newest_timestamp_seconds", "When the newest row happened", newest.timestamp())
    yield _one("data_freshness_limit_seconds", "That it may be old, by the contract", limit.total_seconds())


def _newest(name: str) -> datetime:
    """Find the newest row by the file's statistics, so that each scrape is quick."""
    metadata = pq.ParquetFile(ROWS).metadata
    (place,) = (place for place in range(metadata.num_columns) if metadata.schema.column(place).name == name)
    found = [metadata.row_group(group).column(place).statistics.max for group in range(metadata.num_row_groups)]
    newest = max(found)
    return datetime(
        newest.year, newest.month, newest.day, getattr(newest, "hour", 0), getattr(newest, "minute", 0), tzinfo=UTC
    )


def _read(name: str) -> dict[str, Any]:
    path = _REPORTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _gauge(name: str, words: str, *names: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=names)


def _one(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)


@report_errors
def main() -> None:
    """Watch until stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring",
        description="Run the jobs of monitoring, and show Prometheus what they find.",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"for Prometheus (default: {PORT})")
    parser.add_argument("--host", default=HOST, help=f"the address to listen at (default: {HOST})")
    chosen = parser.parse_args()
    store = Store()
    kept = params("monitor")
    arguments = {"skew": ("--days", str(kept["skew_days"]))}  # what was wrong and is mended shall not alarm for ever
    jobs = [Job(name, minutes, arguments=arguments.get(name, ())) for name, minutes in kept["minutes"].items()]
    watch = Watch(store, jobs)
    registry = CollectorRegistry()
    registry.register(watch)
    try:
        server, _ = start_http_server(chosen.port, chosen.host, registry)
    except OSError as error:
        raise InputError(f"port {chosen.port} cannot be had ({error}): choose another one with --port") from None
    print(f"metrics at http://{chosen.host}:{server.server_port}/metrics", flush=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.wait(1):
        for job in watch.jobs:
            if time.monotonic() >= job.due and not stopping.is_set():
                job.run(store, watch.log)
    server.shutdown()


if __name__ == "__main__":
    main()
