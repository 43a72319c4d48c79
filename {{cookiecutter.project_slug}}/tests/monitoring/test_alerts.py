"""Does each alert fire on its fault, alone, and on nothing else?"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flight_delays.monitoring.__main__ import Watch
from flight_delays.serving.release import Release, Store

from tests.alerts import HEALTHY, RULES, firing, names
from tests.conftest import ROOT

ROWS = 'model_feature_bin_total{version="1", feature="f", bin="%s", instance="a"}'
NEW_FAILURE = 'model_failures_total{version="1", role="champion", kind="ValueError", instance="a"}'
# Of each fault the series it changes, and when it is looked for; where it cannot but raise two, both.
FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "ServiceDown": ({'up{job="service", instance="b"}': "1x30 0x3000"}, "1h"),
    "ErrorsBurnTheBudget": (
        {'service_requests_total{path="/predict", status="500", instance="a"}': "0x60 0+60x3000"},
        "2h30m",
    ),
    "SlownessBurnsTheBudget": (
        {'service_request_seconds_bucket{le="0.25", instance="a"}': "0+599x60 36000+400x3000"},
        "2h30m",
    ),
    "Overloaded": ({'service_overloaded_total{instance="a"}': "0x60 0+1x3000"}, "2h"),
    "MemoryGrows": ({'service_resident_bytes{instance="a"}': "400000000x60 900000000x3000"}, "2h"),
    "PredictionsNotLogged": ({'service_log_failures_total{instance="a"}': "0x60 0+1x3000"}, "62m"),
    "PredictionLogSilent": ({"prediction_log_newest_timestamp_seconds": "0+60x60 3600x3000"}, "2h"),
    "DiskFills": ({"store_free_bytes": "60000000000x60 9000000000x3000"}, "2h"),
    "ContractViolations": (
        {'service_violations_total{column="c", rule="minimum", action="refused", instance="a"}': "0x60 0+60x3000"},
        "2h",
    ),
    "NullsRise": ({ROWS % "null": "0+6x600 3600+90x3000"}, "11h30m"),
    "FeatureDrift": ({ROWS % "low": "0+597x3000", ROWS % "high": "0x3000"}, "2h"),
    "OutputDrift": (
        {'model_output_bin_total{version="1", role="champion", bin="low", instance="a"}': "0+5x3000"},
        "8h",
    ),
    "DataNotFresh": ({"data_newest_timestamp_seconds": "0x3000"}, "26h"),
    "ModelFails": (
        {'model_failures_total{version="1", role="champion", kind="UnsoundError", instance="a"}': "0x60 0+1x3000"},
        "65m",
    ),
    "ModelCollapsed": ({'model_collapsed_total{version="1", instance="a"}': "0x60 0+1x3000"}, "65m"),
    "ModelRefused": ({'model_refused{instance="a"}': "0x60 1x3000"}, "65m"),
    "ModelTooOld": ({'model_age_seconds{version="1"}': "4000000+60x3000"}, "2h"),
    "QualityLost": ({'model_quality_worse{version="1", window="7d", score="roc_auc"}': "0x60 1x3000"}, "61m"),
    "LabelsMissing": ({'labels_due_rows{state="missing"}': "100x60 6000x3000"}, "3h"),
    "LabelsContradict": ({'labels_rows{state="contradicting"}': "2x60 9x3000"}, "65m"),
    "ServedOtherwise": ({'skew_values{result="different"}': "0x60 3x3000"}, "61m"),
    "ChallengerRolledBack": ({'release_decisions{action="roll back"}': "1x60 2x3000"}, "65m"),
    "ChallengerUndecided": ({'model_challenger_share{instance="a"}': "0.1x3000"}, "170h"),
    "MonitorDown": ({'up{job="monitor", instance="m"}': "1x60 0x3000"}, "70m"),
    "JobFailed": ({'job_failed{job_name="skew"}': "0x60 1x3000"}, "65m"),
    "JobLate": ({'job_last_success_timestamp_seconds{job_name="skew"}': "0x3000"}, "5h"),
    "SlowerThanBefore": ({'speed_worse{what="train"}': "0x60 1x3000"}, "61m"),
    "DependencyChanged": ({'dependency_changes{kind="vulnerable"}': "0x60 2x3000"}, "61m"),
    "DependenciesOutdated": ({'dependency_changes{kind="outdated"}': "4x5000"}, "340h"),
    "DependenciesUnknown": ({'dependency_unknown{kind="vulnerable"}': "1x3000"}, "75h"),
}
LONG = {"ChallengerUndecided", "DependenciesOutdated", "DependenciesUnknown"}


@pytest.mark.parametrize("name", names())
def test_each_alert_fires_on_its_fault_and_no_other_does(name: str) -> None:
    faults, at = FAULTS[name]
    slowly = {
        series: re.sub(r"\+(\d+)x$", lambda step: f"+{int(step[1]) * 60}x", values)
        for series, values in HEALTHY.items()
    }
    found = firing(slowly | faults, at, "1h") if name in LONG else firing(faults, at)
    assert found == {name}


@pytest.mark.parametrize("at", ["10m", "3h", "12h"])
def test_good_health_raises_no_alert(at: str) -> None:
    assert firing({}, at) == set()


def test_a_service_that_nobody_knows_of_is_down() -> None:
    gone = {series: "_x3000" for series in HEALTHY if series.startswith('up{job="service"')}
    assert firing(gone, "1h") == {"ServiceDown"}


def test_a_disk_is_as_full_as_df_has_it(tmp_path: Path) -> None:
    shown = {one.name: one.value for metric in Watch(Store(tmp_path)).collect() for one in metric.samples}
    told = subprocess.run(["df", "-P", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    full = re.search(r"(\d+)%", told)
    assert full
    assert 100 * (1 - shown["store_free_bytes"] / shown["store_size_bytes"]) == pytest.approx(int(full[1]), abs=1)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({'up{job="service", instance="b"}': "1x30 _x3000"}, "ServiceDown"),  # as Docker's names forget who has ended
        ({"prediction_log_newest_timestamp_seconds": "_x3000"}, "PredictionLogSilent"),
        (
            {"prediction_log_newest_timestamp_seconds": "_x3000", 'up{job="monitor", instance="m"}': "1x20 0x3000"},
            "MonitorDown",  # which sees no log because it sees nothing
        ),
        (
            {'labels_due_rows{state="missing"}': "6000x3000", 'labels_due_rows{state="labelled"}': "0x3000"},
            "LabelsMissing",
        ),
        ({'model_quality_worse{version="0", window="30d", score="roc_auc"}': "1x3000"}, ""),  # it was rolled back
        ({NEW_FAILURE: "_x118 3x3000"}, "ModelFails"),  # three at once of a kind that never was: no series has changed
        ({NEW_FAILURE: "3x60 _x58 3x3000", 'up{job="service", instance="a"}': "1x60 0x58 1x3000"}, ""),  # of long ago
    ],
)
def test_what_is_not_there_is_seen_where_it_should_be(faults: dict[str, str], expected: str) -> None:
    assert firing(faults, "2h") == {expected} - {""}


def test_as_many_replicas_are_expected_as_there_are() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    replicas = compose["services"]["service"]["deploy"]["replicas"]
    assert f'count(up{{job="service"}}) < {replicas}\n' in RULES[1].read_text(encoding="utf-8")


def test_what_never_happened_is_counted_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series that begins with its first fault has not changed then, so no alert would see that one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "contract.yaml", tmp_path)
    store = Store(tmp_path / "store")
    store.publish(Release("1"))
    shown = {(one.name, *one.labels.values()): one.value for metric in Watch(store).collect() for one in metric.samples}
    assert shown["release_decisions", "roll back"] == shown["labels_rows", "contradicting"] == 0


def test_what_is_recorded_is_there_at_each_evaluation() -> None:
    """Prometheus looks back five minutes for a sample: what is recorded more seldom comes and goes."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            assert group.get("interval", "15s") in {"15s", "1m", "2m"}, f"{path.name}, group {group['name']}"


def test_each_alert_has_a_section_in_the_runbook() -> None:
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert sections == names()
    for part in re.split(r"^### \w+$", text, flags=re.MULTILINE)[1:]:
        assert "**Look**" in part
        assert "**Do**" in part
