"""Is a week of good health quiet? A week of test rows is served at the times that it happened, and every rule asked of it.

Real are the service, its counts, what the monitor shows, Prometheus and the rules; only the clock is not: each sample is
written down with the time that it stands for.
"""

import functools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from prometheus_client.registry import REGISTRY

from flight_delays.monitoring.__main__ import Watch
from flight_delays.serving import door, metrics, moves
from flight_delays.serving.log import PredictionLog
from flight_delays.serving.release import Store
from flight_delays.serving.roles import Follower
from flight_delays.serving.service import Service

from tests.alerts import RULES
from tests.conftest import ROOT, Project
from tests.prometheus import prometheus, promtool

STEP, WEEK = timedelta(seconds=150), timedelta(days=7)
HOURLY = 24  # steps from one look of the monitor to the next
SLOW = 3_600  # seconds between two looks at what looks back a week
FAST = 300


def test_a_week_of_good_health_raises_no_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(ROOT)  # the whole data
    monkeypatch.chdir(project.path)
    end = int(time.time()) - 3_600
    with (tmp_path / "week.txt").open("w", encoding="utf-8") as file:
        write(file, samples(project, Store(tmp_path / "store"), end - int(WEEK.total_seconds())))
    command = [promtool(), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=256h"]
    subprocess.run([*command, str(tmp_path / "week.txt"), str(tmp_path / "prometheus/data")], check=True, capture_output=True)
    rules = [rule for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"] for rule in group["rules"]]
    recorded = {rule["record"]: rule["expr"] for rule in rules if "record" in rule}
    raised = {}
    with prometheus({}, [], tmp_path / "prometheus") as asked:
        assert asked.get("query", query="count(model_rows_total)", time=str(end))["result"], "the week is not there"
        for rule in (rule for rule in rules if "alert" in rule):
            text = expand(rule["expr"], recorded)
            step = SLOW if "[1w]" in text else FAST
            found = asked.get(
                "query_range", query=text, start=str(end - WEEK.total_seconds() + 900), end=str(end), step=str(step)
            )
            if spans := [one for one in found["result"] if lasting(one["values"], step, rule.get("for", "0s"))]:
                raised[rule["alert"]] = [(one["metric"], one["values"][:3]) for one in spans]
    assert raised == {}


def expand(text: str, recorded: dict[str, str]) -> str:
    """Put the rules' own expressions in place of the names of what they record."""
    for _ in range(4):
        for name, own in recorded.items():
            text = re.sub(rf"(?<![\w:]){re.escape(name)}(?![\w:{{])", lambda _, own=own: f"({own})", text)  # type: ignore[misc]
    return text


def lasting(values: list[Any], step: int, needed: str) -> bool:
    """Whether an expression holds long enough without a break."""
    seconds = int(needed[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[needed[-1]]
    first = last = values[0][0]
    for at, _ in values:
        first = first if at - last <= step else at
        last = at
        if last - first >= seconds:
            return True
    return False


def samples(project: Project, store: Store, start: int) -> Iterator[tuple[int, str, str, float]]:
    """Serve a week of test rows, and give all that Prometheus would have been shown: time, kind, series, value."""
    store.add("1", project.path / "models/candidate")
    moves.serve(store, "1", {}, "the first")
    now = Follower(store).served
    contract = now.now.champion.model.contract
    assert contract.time is not None
    log = PredictionLog(store.predictions, max_bytes=10**9, max_seconds=1e6)
    service, watch = Service(now, store, log), Watch(store)
    table = pq.read_table(project.path / "data/test.parquet").sort_by(contract.time.name)
    happened = table[contract.time.name].to_pylist()
    first = datetime.combine(happened[0].date() + timedelta(days=1), datetime.min.time())
    rows = [row for row in zip(happened, door.to_json(table, contract), strict=True) if first <= row[0] < first + WEEK]
    assert len(rows) > 1_000
    metrics.say(now, start)
    waiting = iter([*rows, (first + 2 * WEEK, {})])  # the last one never comes
    at, row = next(waiting)
    watched: list[Any] = []
    for number in range(int(WEEK / STEP)):
        while at < first + number * STEP:
            began = time.perf_counter()
            service.predict(now.now, service.read(now.now, json.dumps({"rows": [row]}).encode()), f"r{at}", "key")
            metrics.SECONDS.observe(time.perf_counter() - began)
            metrics.REQUESTS.labels("/predict", "200").inc()
            at, row = next(waiting)
        moment = start + int(number * STEP.total_seconds())
        for job, name in (("service", "a"), ("service", "b"), ("monitor", "m")):
            yield moment, "up", f'up{{job="{job}",instance="{name}"}}', 1.0
        if number % HOURLY == 0 or not any(one.name.startswith("prediction_log_newest") for one in watched):
            watched = [one for metric in watch.collect() for one in metric.samples]
        served = (one for metric in REGISTRY.collect() for one in metric.samples if not one.name.endswith("_created"))
        for sample in (*served, *watched):
            value = moment if sample.name.endswith("newest_timestamp_seconds") else sample.value
            yield moment, sample.name, named(sample.name, tuple(sample.labels.items())), float(value)


@functools.cache
def named(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    """Write a series as Prometheus does."""
    words = ",".join(f"{key}={json.dumps(word, ensure_ascii=False)}" for key, word in (("instance", "a"), *labels))
    return f"{name}{{{words}}}"


def write(file: Any, found: Iterator[tuple[int, str, str, float]]) -> None:
    """Write samples as OpenMetrics, which wants those of one metric together."""
    by_metric: dict[str, list[str]] = {}
    for moment, name, series, value in found:
        by_metric.setdefault(name, []).append(f"{series} {value} {moment}\n")
    for name, lines in by_metric.items():
        file.write(f"# TYPE {name} unknown\n")
        file.writelines(lines)
    file.write("# EOF\n")
