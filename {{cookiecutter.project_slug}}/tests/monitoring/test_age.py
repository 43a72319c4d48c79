"""Is it known how old the model in use is, and told when it is too old?"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flight_delays import reference
from flight_delays.ml_test_score.plugin import does_not_apply
from flight_delays.monitoring import age
from flight_delays.monitoring.__main__ import Watch
from flight_delays.serving import moves
from flight_delays.serving.release import Store
from flight_delays.settings import params

from tests.alerts import firing
from tests.conftest import Assessment, Project
from tests.served import VERSION, served

Copy = Callable[[Project], Project]


def shown(store: Store) -> dict[str, float]:
    """Give what Prometheus is shown of the age."""
    samples = (sample for metric in Watch(store).collect() for sample in metric.samples)
    return {sample.name: sample.value for sample in samples if sample.name.startswith("model_age")}


@pytest.fixture
def store(finished_project: Project, copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a copy of the sample project, which is in the current folder and has predicted some rows."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    return served(project, tmp_path / "store", 200).store


def require_young(store: Store) -> None:
    """Require that the champion is not too old."""
    release = store.read()
    assert release is not None
    found = age.measure(store, release)
    assert found is not None
    if found.value > found.limit:
        pytest.fail(f"version {release.champion} is {found.value.days} days old, {found.limit.days} are allowed", False)


@pytest.mark.ml_test("mon-4")
def test_the_age_of_the_model_in_use_is_known(store: Store) -> None:
    release = store.read()
    assert release is not None
    found, now = age.measure(store, release), datetime.now(UTC)
    assert found is not None
    contract = Project(Path.cwd()).contract
    if contract.time is None:
        expected = now - datetime.fromisoformat(release.since)
    else:
        learned = pc.max(pq.read_table("data/train.parquet")[contract.time.name]).as_py()
        asked = pq.read_table("data/test.parquet").slice(0, 200)[contract.time.name].to_pylist()
        end = sorted(asked)[len(asked) // 2] if contract.time in contract.features else now.replace(tzinfo=None)
        expected = end - learned
    assert abs(found.value - expected) < timedelta(days=1)
    assert shown(store)["model_age_seconds"] == pytest.approx(found.value.total_seconds(), abs=60)
    assert shown(store)["model_age_limit_seconds"] == found.limit.total_seconds()


@pytest.mark.ml_test("mon-4")
def test_the_limit_is_what_was_measured(
    project: Project, assessment: Assessment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project.path)
    measured = assessment.found["staleness"].get("limit_days") or params("assess")["staleness"]["retrain_days"]
    own = Store(tmp_path / "store")
    own.add(VERSION, project.path / "models/candidate")
    release = moves.serve(own, VERSION, {}, "the first")
    path = own.model(VERSION) / reference.FILE  # by the clock, since nobody has asked for anything here
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"until": None}), encoding="utf-8")
    found = age.measure(own, release)
    assert found is not None
    if found.limit != timedelta(days=measured):
        pytest.fail(f"a model may be {found.limit.days} days old, where {measured:.0f} were measured", pytrace=False)


@pytest.mark.sabotage(of=test_the_limit_is_what_was_measured, fault="a limit of another data set")
def test_a_limit_that_nobody_measured_is_seen(
    finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = copy(finished_project)
    path = project.path / age.ASSESSMENT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"staleness": {"limit_days": 400.0}}), encoding="utf-8")
    measured = Assessment({"staleness": {"limit_days": 90.0}})
    with pytest.raises(pytest.fail.Exception, match="may be 400 days old, where 90 were measured"):
        test_the_limit_is_what_was_measured(project, measured, monkeypatch, tmp_path)


@pytest.mark.sabotage(of=test_the_age_of_the_model_in_use_is_known, fault="nobody trains for ten years")
def test_an_old_model_is_too_old(store: Store) -> None:
    Path("reports").mkdir(exist_ok=True)
    age.ASSESSMENT.write_text(json.dumps({"staleness": {"limit_days": 100_000.0}}), encoding="utf-8")
    require_young(store)
    path = store.model(VERSION) / reference.FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    old = datetime.now(UTC) - timedelta(days=200_000)
    path.write_text(json.dumps(document | {"until": f"{old:%Y-%m-%dT%H:%M:%S}"}), encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=rf"version {VERSION} is \d+ days old, 100000 are allowed"):
        require_young(store)


@pytest.mark.ml_test("mon-4", twin="plants its own fault")
def test_too_old_a_model_reaches_a_person() -> None:
    assert firing({f'model_age_seconds{{version="{VERSION}"}}': "4000000+60x600"}, "2h") == {"ModelTooOld"}


def test_without_a_time_age_counts_from_the_first_time_in_service(store: Store) -> None:
    path = store.model(VERSION) / reference.FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {"until": None}), encoding="utf-8")
    release = store.read()
    assert release is not None
    found = age.measure(store, release, datetime.now(UTC) + timedelta(days=3))
    assert found is not None
    assert timedelta(days=3) <= found.value < timedelta(days=3, minutes=30)


def test_nothing_is_said_before_a_row_has_said_what_time_it_is(store: Store, tmp_path: Path) -> None:
    contract = Project(Path.cwd()).contract
    if contract.time is None or contract.time not in contract.features:
        does_not_apply("rows do not say what time it is")
    release, empty = store.read(), Store(tmp_path / "empty")
    empty.add(VERSION, store.model(VERSION))
    assert release is not None
    assert age.measure(empty, release) is None
