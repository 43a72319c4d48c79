"""Is a bad candidate rolled back and a good one promoted, on real requests, while everybody is answered?"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from flight_delays import serving
from flight_delays.serving import control, moves
from flight_delays.serving.log import read
from flight_delays.serving.release import CANARY, SHADOW, Release, Store
from flight_delays.tracking import CHALLENGER, CHAMPION, Registry

from tests import candidates
from tests.conftest import ROOT, Project
from tests.service import serve
from tests.traffic import traffic, until, user

Copy = Callable[[Project], Project]
SHARE = 0.5
DECIDED_AFTER = 60  # seconds at most, of full load; two or three where the machine is free
LOADED_AFTER = TOLD_AFTER = 60  # likewise, for scikit-learn and MLflow
BOUNDS = {  # wide, so that a few hundred requests decide, on any data and on a busy machine
    "least": 300, "most": 20_000, "failures": 0.03, "latency": 4.0, "spread": 3.0, "shift": 1.0, "disagreement": 0.65,
    "decisions": 0.5,
}  # fmt: skip
NAMES = ("good", *candidates.BAD)


@pytest.fixture(scope="module")
def folders(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The candidates' folders, by name."""
    rows, place = candidates.load_rows(finished_project), tmp_path_factory.mktemp("candidates")
    made: dict[str, Path] = {}
    for name in NAMES:
        make = candidates.BAD.get(name, candidates.good)
        if model := make(finished_project.contract, rows):
            made[name] = candidates.save(finished_project, model, place / name)
    return made


@pytest.fixture
def trying(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, in the current folder, whose model is champion and whose trials are short."""
    project = copy(finished_project)
    project.edit("params.yaml", lambda document: document["serve"]["canary"].update(BOUNDS))
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    client.set_registered_model_alias(project.contract.id, CHAMPION, "1")
    client.set_model_version_tag(project.contract.id, "1", "gate", "passed")
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("SERVING_DIR", raising=False)
    return project


class Trials:
    """Candidates that are tried one after the other on a running service.

    Parameters
    ----------
    project
        In the current folder.
    client
        Of its service.
    """

    def __init__(self, project: Project, client: httpx.Client) -> None:
        self._project, self.client = project, client
        self.store, self._answers = Store(project.path / "models/serving"), dict[str, str]()

    def run(self, name: str, number: str, mode: str = CANARY) -> tuple[Release, dict[str, Any]]:
        """Try a version on requests until there is a decision; give the release that it was tried in, and this."""
        release = control.canary(self.store, number, mode, SHARE)
        moves.wait(self.store, release, LOADED_AFTER)
        with traffic(self.client, self._project) as sent:
            decision = until(lambda: self._decision(release), DECIDED_AFTER)
            if after := self.store.read():
                moves.wait(self.store, after, LOADED_AFTER)
        self._answers |= sent.answers
        sent.require_answers(f"while version {number} ({name}) was tried")
        if not decision:
            pytest.fail(
                f"version {number} ({name}) is still tried after {len(sent.answers):,} requests: nobody decides on it, "
                "look at what the controller prints",
                pytrace=False,
            )
        return release, decision

    def answers(self, release: Release) -> list[dict[str, Any]]:
        """Give what was logged of the answers of a release; it must be what the users got."""
        found = [record for record in read(self.store.predictions) if record["release"] == release.id]
        answers = [record for record in found if record["kind"] == "answer"]
        wrong = [one for one in answers if self._answers.get(one["id"], one["version"]) != one["version"]]
        assert not wrong
        return answers

    def _decision(self, release: Release) -> dict[str, Any] | None:
        now = self.store.read()  # the decision is written down before it is carried out
        found = (entry for entry in self.store.past("decision") if entry["release"] == release.id)
        return next(found, None) if now and now.id != release.id else None


@contextmanager
def trials(project: Project, source: Path | None = None) -> Iterator[Trials]:
    """Start a project's service."""
    with serve(project, source=source) as client:
        yield Trials(project, client)


def require_rolled_back(tried: Trials, name: str, number: str, mode: str = CANARY) -> None:
    """Try a bad candidate; it must go without anybody's help, and nobody must change sides meanwhile."""
    release, decision = tried.run(name, number, mode)
    now = tried.store.read()
    if decision["action"] != "roll back":
        pytest.fail(f"version {number} ({name}) was promoted: {decision['reason']}", pytrace=False)
    assert now
    assert (now.champion, now.challenger) == (release.champion, None)
    assert decision["evidence"]["checks"]
    require_sides(tried, release)


def require_sides(tried: Trials, release: Release) -> None:
    """In a canary each user must have met one version, in the shadow all users the champion."""
    versions: dict[str, set[str]] = {}
    for record in tried.answers(release):
        if record["failed"] is None:
            versions.setdefault(user(record["id"]), set()).add(record["version"])
    for name, met in versions.items():
        if len(met) > 1:
            pytest.fail(f"X-Sticky-Key {name!r} was answered by versions {' and '.join(sorted(met))}", pytrace=False)
    sides = Counter(version for met in versions.values() for version in met)
    if release.mode == SHADOW and set(sides) != {release.champion}:
        pytest.fail(f"in the shadow, users were answered by versions {' and '.join(sorted(sides))}", pytrace=False)
    if release.mode == CANARY:
        assert sides[release.champion] > 0


@pytest.mark.slow
@pytest.mark.ml_test("infra-6")
def test_bad_candidates_are_rolled_back_and_a_good_one_is_promoted(trying: Project, folders: dict[str, Path]) -> None:
    numbers = {name: candidates.register(trying, folder) for name, folder in folders.items()}
    shadowed = candidates.register(trying, folders["turned"])
    good = numbers.pop("good")
    with trials(trying) as tried:
        for name, number in numbers.items():
            require_rolled_back(tried, name, number)
        require_rolled_back(tried, "turned", shadowed, SHADOW)
        release, decision = tried.run("good", good)
        assert decision["action"] == "promote", decision["reason"]
        require_sides(tried, release)
        shown = tried.client.get("/release").json()
        decided = [good, shadowed, *reversed(numbers.values())]
        assert [entry["challenger"] for entry in shown["decisions"]] == decided
        known = Registry(trying.contract.id)
        told = until(lambda: (champion := known.champion()) and champion.number == good, TOLD_AFTER)
        assert told, "the registry was not told of the new champion"
        assert known.behind(CHALLENGER) is None
        for number in decided[1:]:
            assert "refused.live" in known.version(number).tags
        now = tried.store.read()
        assert now
        assert (now.champion, now.previous, now.commit) == (good, "1", "good")


def spoil(folder: Path, name: str, before: str, after: str) -> Path:
    """Copy the package's source, and change a line of it."""
    shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True)
    path = folder / Path(*serving.__name__.split(".")) / name
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{name}: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")
    return folder


@pytest.mark.sabotage(
    of=test_bad_candidates_are_rolled_back_and_a_good_one_is_promoted,
    fault="the canary is not sticky: each request is dealt anew",
)
def test_a_user_who_is_sent_to_and_fro_is_named(trying: Project, folders: dict[str, Path], tmp_path: Path) -> None:
    number = candidates.register(trying, folders["turned"])
    source = spoil(tmp_path / "src", "lane.py", 'request.headers.get("x-sticky-key", name)', "name")
    with trials(trying, source) as tried, pytest.raises(pytest.fail.Exception, match=r"'user-.*by versions 1 and 2"):
        require_rolled_back(tried, "turned", number)


@pytest.mark.sabotage(
    of=test_bad_candidates_are_rolled_back_and_a_good_one_is_promoted,
    fault="the controller promotes whatever was tried for long enough",
)
def test_a_bad_candidate_that_is_let_through_is_named(
    trying: Project, folders: dict[str, Path], tmp_path: Path
) -> None:
    number = candidates.register(trying, folders["turned"])
    source = spoil(tmp_path / "src", "evidence.py", "        if outside:\n", "        if False:\n")
    spoil_more = source / Path(*serving.__name__.split(".")) / "evidence.py"
    text = spoil_more.read_text(encoding="utf-8")
    spoil_more.write_text(text.replace("if enough and not undecided:", "if enough:"), encoding="utf-8")
    with trials(trying, source) as tried, pytest.raises(pytest.fail.Exception, match=r"2 .turned. was promoted: after"):
        require_rolled_back(tried, "turned", number)


@pytest.mark.sabotage(
    of=test_bad_candidates_are_rolled_back_and_a_good_one_is_promoted,
    fault="the controller never decides",
)
def test_a_trial_without_an_end_is_named(
    trying: Project, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = candidates.register(trying, folders["turned"])
    source = spoil(tmp_path / "src", "trial.py", 'if verdict.action == "wait":', "if verdict:")
    monkeypatch.setattr(f"{__name__}.DECIDED_AFTER", 5)
    with trials(trying, source) as tried, pytest.raises(pytest.fail.Exception, match=r"still tried after .* requests"):
        require_rolled_back(tried, "turned", number)
