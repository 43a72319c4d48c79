"""Which alerts fire? A service in good health as series, faults laid over it, and Prometheus' own tool to judge."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.prometheus import promtool

RULES = [ROOT / "ops/prometheus/recording.yml", ROOT / "ops/prometheus/alerts.yml"]
# A sample a minute, without end: a service that answers ten requests a second. Time begins at 0.
HEALTHY = {
    'up{job="service", instance="a"}': "1x",
    'up{job="service", instance="b"}': "1x",
    'up{job="monitor", instance="m"}': "1x",
    'service_requests_total{path="/predict", status="200", instance="a"}': "0+600x",
    'service_requests_total{path="/predict", status="500", instance="a"}': "0x",
    'service_request_seconds_bucket{le="0.01", instance="a"}': "0+590x",
    'service_request_seconds_bucket{le="0.25", instance="a"}': "0+599x",
    'service_request_seconds_bucket{le="+Inf", instance="a"}': "0+600x",
    'service_request_seconds_count{instance="a"}': "0+600x",
    'service_overloaded_total{instance="a"}': "0x",
    'service_log_failures_total{instance="a"}': "0x",
    'service_resident_bytes{instance="a"}': "400000000x",
    'service_violations_total{column="c", rule="minimum", action="refused", instance="a"}': "0+3x",
    'model_rows_total{version="1", role="champion", instance="a"}': "0+600x",
    'model_feature_bin_total{version="1", feature="f", bin="null", instance="a"}': "0+6x",
    'model_feature_bin_total{version="1", feature="f", bin="low", instance="a"}': "0+297x",
    'model_feature_bin_total{version="1", feature="f", bin="high", instance="a"}': "0+297x",
    'model_reference_share{version="1", feature="f", bin="null"}': "0.01x",
    'model_reference_share{version="1", feature="f", bin="low"}': "0.5x",
    'model_reference_share{version="1", feature="f", bin="high"}': "0.49x",
    'model_drift_limit{version="1", feature="f"}': "0.25x",
    'model_output_bin_total{version="1", role="champion", bin="low", instance="a"}': "0+300x",
    'model_output_bin_total{version="1", role="champion", bin="high", instance="a"}': "0+300x",
    'model_output_reference_share{version="1", bin="low"}': "0.5x",
    'model_output_reference_share{version="1", bin="high"}': "0.5x",
    'model_output_drift_limit{version="1"}': "0.25x",
    'model_failures_total{version="1", role="champion", kind="UnsoundError", instance="a"}': "0x",
    'model_collapsed_total{version="1", instance="a"}': "0x",
    'model_refused{instance="a"}': "0x",
    'model_age_seconds{version="1"}': "1000000+60x",
    'model_age_limit_seconds{version="1"}': "4000000x",
    'model_quality_worse{version="1", window="7d", score="roc_auc"}': "0x",
    'model_challenger_share{instance="a"}': "0x",
    "release_timestamp_seconds": "0x",
    'release_decisions{action="roll back"}': "1x",
    "prediction_log_newest_timestamp_seconds": "0+60x",
    "store_free_bytes": "60000000000x",
    "store_size_bytes": "100000000000x",
    'release_info{champion="1"}': "1x",
    'labels_rows{state="contradicting"}': "2x",
    'labels_due_rows{state="labelled"}': "5000x",
    'labels_due_rows{state="missing"}': "100x",
    'skew_values{result="different"}': "0x",
    'job_failed{job_name="skew"}': "0x",
    'job_interval_seconds{job_name="skew"}': "3600x",
    'job_last_success_timestamp_seconds{job_name="skew"}': "0+60x",
    'speed_worse{what="train"}': "0x",
    'dependency_changes{kind="vulnerable"}': "0x",
    'dependency_changes{kind="outdated"}': "0x",
    'dependency_unknown{kind="vulnerable"}': "0x",
    "data_newest_timestamp_seconds": "0+60x",
    "data_freshness_limit_seconds": "86400x",
}


def names() -> list[str]:
    """Name all alerts of this project."""
    groups = yaml.safe_load(RULES[1].read_text(encoding="utf-8"))["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def firing(faults: Mapping[str, str], at: str, every: str = "1m") -> set[str]:
    """Say which alerts fire at a time, where series of good health are replaced, or others added.

    Parameters
    ----------
    faults
        Values by series, in promtool's notation: one value every so often.
    at
        Since the start, such as `2h`.
    every
        Time between two samples, and between two evaluations.
    """
    end = _minutes(at) // _minutes(every) + 10
    series = [
        {"series": name, "values": re.sub(r"x$", f"x{end}", values)}
        for name, values in (HEALTHY | dict(faults)).items()
    ]
    asked = 'count by (alertname) (ALERTS{alertstate="firing"})'
    test = {
        "interval": every,
        "input_series": series,
        "promql_expr_test": [{"expr": asked, "eval_time": at, "exp_samples": []}],
    }
    with tempfile.TemporaryDirectory() as folder:
        document = {"rule_files": list(map(str, RULES)), "evaluation_interval": every, "tests": [test]}
        Path(folder, "test.yml").write_text(yaml.safe_dump(document, width=4096), encoding="utf-8")
        ran = subprocess.run(
            [promtool(), "test", "rules", f"{folder}/test.yml"], capture_output=True, text=True, check=False
        )
    said = ran.stdout + ran.stderr
    found = set(re.findall(r'alertname="(\w+)"', said))
    if ran.returncode and not found:
        pytest.fail(said, pytrace=False)
    return found


def _minutes(time: str) -> int:
    parts = re.findall(r"(\d+)([mh])", time)
    return sum(int(count) * {"m": 1, "h": 60}[unit] for count, unit in parts)
