"""Is what is served always whole, known and sound, whatever happens to store, models, disk and registry?"""

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flight_delays import golden
from flight_delays.errors import InputError
from flight_delays.gate import Verdict
from flight_delays.model import Model
from flight_delays.pipeline import register
from flight_delays.serving import control, door, moves
from flight_delays.serving.release import CANARY, Release, Store
from flight_delays.serving.roles import Follower, Loaded, Roles
from flight_delays.tracking import CHALLENGER, Registry

from tests import candidates
from tests.conftest import Project
from tests.service import ask, serve, wait_for_workers
from tests.traffic import traffic

Copy = Callable[[Project], Project]
SWAPS = 25


@pytest.fixture(scope="module")
def models(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two models that are not the same."""
    model = candidates.good(finished_project.contract, candidates.load_rows(finished_project))
    place = tmp_path_factory.mktemp("models")
    return finished_project.path / "models/candidate", candidates.save(finished_project, model, place / "other")


@pytest.fixture
def store(tmp_path: Path, models: tuple[Path, Path]) -> Store:
    """A store with versions 1 and 2, the first of which is champion."""
    found = Store(tmp_path / "store")
    for number, folder in zip("12", models, strict=True):
        found.add(number, folder)
    moves.serve(found, "1", {"git.commit": "abc", "data": "def"}, "the first")
    return found


@pytest.fixture
def in_project(finished_project: Project, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the sample project, in the current folder, whose model has passed the gate and is champion."""
    project = copy(finished_project)
    monkeypatch.chdir(project.path)
    for name in ("SERVING_DIR", "TIER", "API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    known = Registry(project.contract.id)
    known.promote(known.tag(known.version("1"), {"gate": "passed"}))
    return project


def spoil(folder: Path) -> None:
    """Change the golden answers of a model, as if the model had changed."""
    stored = pq.read_table(folder / golden.FILE)
    changed = [[value + 1 for value in output] for output in stored["output"].to_pylist()]
    pq.write_table(stored.set_column(1, "output", pa.array(changed)), folder / golden.FILE)


def read(store: Store) -> Release:
    found = store.read()
    assert found
    return found


def test_readers_meet_whole_releases_only_while_many_publish(store: Store) -> None:
    stop, met = threading.Event(), set[str]()

    def look() -> None:
        while not stop.is_set():
            met.add(read(store).id)

    reader = threading.Thread(target=look)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: moves.serve(store, str(number % 2 + 1), {}, "swap"), range(40)))
    stop.set()
    reader.join()
    past = store.past("release", 100)
    assert len(past) == 41
    assert met <= {entry["id"] for entry in past}
    assert past[0]["id"] == read(store).id
    assert {entry["id"] for entry in past[:40]} == {release.id for release in made}


def test_a_model_is_there_as_a_whole_or_not_at_all(store: Store, models: tuple[Path, Path], tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(models[0], half)
    (half / "zz").symlink_to("nowhere")  # what cannot be copied
    with pytest.raises(shutil.Error):
        store.add("3", half)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.add("4", models[0]), range(16)))
    assert sorted(path.name for path in (store.folder / "models").iterdir()) == ["1", "2", "4"]
    assert golden.check(Model.load(store.model("4")), store.model("4")).num_rows


def test_a_registry_that_was_made_anew_gives_the_same_number_to_another_model(
    store: Store, models: tuple[Path, Path]
) -> None:
    follower = Follower(store)
    before = follower.served.now.champion
    store.add("1", models[1])
    moves.serve(store, "1", {}, "anew")
    assert follower.refresh()
    assert follower.served.now.champion is not before
    moves.serve(store, "1", {}, "once more")
    after = follower.served.now.champion
    assert follower.refresh()
    assert follower.served.now.champion is after  # nothing is loaded twice


def test_a_torn_line_of_the_history_is_passed_over(store: Store) -> None:
    with store.history.open("a", encoding="utf-8") as file:
        file.write('{"kind": "decision", "at": \n')
    store.record("decision", {"action": "promote"})
    with store.history.open("a", encoding="utf-8") as file:
        file.write('{"kind": "decision"')
    assert [entry["action"] for entry in store.past("decision")] == ["promote"]


def test_what_comes_after_a_torn_line_is_not_lost_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space left"):
            store.record("decision", {"action": "lost"})
    store.record("decision", {"action": "roll back"})
    store.record("decision", {"action": "promote"})
    assert [entry["action"] for entry in store.past("decision")] == ["promote", "roll back"]


def test_a_disk_without_space_is_not_filled_with_what_was_begun(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(store.folder.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="No space left"):
            store.report({"release": "r"})
        with pytest.raises(OSError, match="No space left"):
            store.replace(read(store))
    assert sorted(store.folder.rglob("*")) == before


def test_reports_are_those_of_workers_that_live(store: Store) -> None:
    store.report({"release": "r", "refused": {}})
    (own,) = store.workers.iterdir()
    text = own.read_text(encoding="utf-8")
    machine, _, number = own.stem.rpartition("-")
    dead, elsewhere = store.workers / f"{machine}-{2**22 + 1}.json", store.workers / f"other-{number}.json"
    silent = store.workers / "silent-1.json"
    for path in (dead, elsewhere, silent):
        path.write_text(text, encoding="utf-8")
    os.utime(silent, (time.time() - 60,) * 2)
    assert len(store.reports()) == 2
    assert {path.name for path in store.workers.iterdir()} == {own.name, elsewhere.name}


def test_a_release_says_where_its_champion_comes_from_through_all_moves(store: Store) -> None:
    moves.challenge(store, "2", CANARY, 0.2, "try", {"git.commit": "new", "data": "rows"})
    promoted = moves.promote(store, "2", "it is better", {"checks": []})
    assert (promoted.champion, promoted.previous, promoted.challenger, promoted.share) == ("2", "1", None, 0.0)
    assert (promoted.commit, promoted.data, promoted.pending) == ("new", "rows", "champion")
    back = moves.back(store, "no")
    assert back
    assert (back.champion, back.previous, back.commit, back.data) == ("1", "2", "abc", "def")
    moves.told(store, promoted)
    assert read(store).pending == "champion"  # that was another release
    moves.told(store, back)
    assert read(store) == replace(back, pending="")
    moves.challenge(store, "2", CANARY, 0.2, "again")
    moves.drop(store, "2", "no")
    assert (read(store).commit, read(store).pending) == ("abc", "challenger")
    assert [entry["action"] for entry in store.past("decision")] == ["roll back", "roll back", "promote"]


def test_moves_that_cannot_be_are_refused(store: Store, tmp_path: Path) -> None:
    seen = read(store).id
    moves.challenge(store, "2", CANARY, 0.5, "try")
    refused: list[tuple[str, Callable[[], object]]] = [
        ("mode 'both' is not known", lambda: moves.challenge(store, "2", "both", 0.5, "")),
        ("share 0 is none", lambda: moves.challenge(store, "2", CANARY, 0, "")),
        ("share 1.5 is none", lambda: moves.challenge(store, "2", CANARY, 1.5, "")),
        ("version 1 is the champion", lambda: moves.challenge(store, "1", CANARY, 0.5, "")),
        ("has changed meanwhile", lambda: moves.challenge(store, "2", CANARY, 0.5, "", seen=seen)),
        ("has changed meanwhile", lambda: moves.serve(store, "2", {}, "", seen=seen)),
        ("version 9 is not the challenger any more: 2 is tried", lambda: moves.promote(store, "9", "")),
        ("version 9 is not the challenger any more", lambda: moves.drop(store, "9", "")),
        ("nothing is served here yet", lambda: moves.back(Store(tmp_path / "empty"), "")),
        ("nothing is served here yet", lambda: moves.challenge(Store(tmp_path / "empty"), "2", CANARY, 0.5, "")),
    ]
    for words, move in refused:
        with pytest.raises(InputError, match=words):
            move()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        Store(tmp_path / "file" / "store")
    assert moves.back(store, "from the canary")
    assert moves.back(store, "further") is None


def test_who_waits_is_told_of_the_worker_that_does_not_follow(store: Store) -> None:
    release = read(store)
    assert moves.wait(store, release, 0) == 0
    store.report({"release": "before", "asked": "before", "refused": {"1": "it was broken"}})
    with pytest.raises(InputError, match=f"worker {os.getpid()} does not serve version 1 yet: it does not answer"):
        moves.wait(store, release, 0.1)
    store.report({"release": "before", "asked": release.id, "refused": {"1": "it is broken"}})
    with pytest.raises(moves.UnsoundChampionError, match="does not serve version 1: it is broken"):
        moves.wait(store, release, 20)
    store.report({"release": release.id, "refused": {}})
    assert moves.wait(store, release, 0.1) == 1


def test_a_key_stays_on_its_side_and_each_challenger_meets_others(models: tuple[Path, Path]) -> None:
    model = Model.load(models[0])
    keys = [f"customer {number:05d}" for number in range(20_000)]

    def chosen(version: str, share: float) -> set[str]:
        roles = Roles(Release("1", version, share=share), Loaded("1", model), Loaded(version, model))
        return {key for key in keys if roles.assigned(key)}

    small, large, other = chosen("2", 0.1), chosen("2", 0.3), chosen("3", 0.1)
    assert small < large
    assert 0.09 < len(small) / len(keys) < 0.11
    assert 0.28 < len(large) / len(keys) < 0.32
    assert 0.08 < len(small & other) / len(small) < 0.12
    assert chosen("2", 1.0) == set(keys)


def test_what_is_not_sound_is_not_served_and_the_last_good_model_goes_on(store: Store) -> None:
    follower = Follower(store)
    spoil(store.model("2"))
    for champion, challenger in (("1", "2"), ("2", None)):
        store.publish(Release(champion, challenger, share=1, previous="1"))
        assert follower.refresh()
        loaded = follower.served.loaded()
        assert (loaded["champion"], loaded["challenger"]) == ("1", None)
        assert "golden rows are answered otherwise" in loaded["refused"]["2"]
    restarted = Follower(store).served.loaded()  # a new worker goes on with the champion before
    assert (restarted["champion"], [*restarted["refused"]]) == ("1", ["2"])
    moves.serve(store, "1", {}, "as before")
    assert follower.refresh()
    assert follower.served.refused == {}
    spoil(store.model("1"))
    with pytest.raises(InputError, match="golden rows are answered otherwise"):
        Follower(store)


def test_a_release_that_cannot_be_read_changes_nothing(store: Store) -> None:
    follower = Follower(store)
    whole = store.file.read_text(encoding="utf-8")
    store.file.write_text(whole[: len(whole) // 2], encoding="utf-8")
    assert follower.refresh()
    assert "is no release" in follower.served.refused["release"]
    store.file.unlink()
    assert not follower.refresh()
    store.file.write_text(whole, encoding="utf-8")
    assert follower.refresh()
    assert follower.served.loaded()["champion"] == "1"
    assert follower.served.refused == {}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["control", *arguments])
    control.main()


def test_the_commands_say_what_is_served_and_refuse_what_cannot_be(
    in_project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "key", "shop")
    key, entry = (line.rsplit(": ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert entry.startswith("shop:")
    assert key not in entry
    shutil.rmtree("models/serving", ignore_errors=True)
    with pytest.raises(SystemExit, match="nothing is served here yet: run `make serve` first"):
        run(monkeypatch, "show")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(SystemExit):
            run(monkeypatch, "sync", "--if-possible")
    run(monkeypatch, "sync")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(SystemExit):
            run(monkeypatch, "sync")
        run(monkeypatch, "sync", "--if-possible")
    assert "warning: what the store has is served, as before" in capsys.readouterr().err
    with monkeypatch.context() as wordless:
        wordless.setattr(control, "sync", Mock(side_effect=TimeoutError))
        run(monkeypatch, "sync", "--if-possible")
    assert "as before (TimeoutError)" in capsys.readouterr().err
    run(monkeypatch, "show")
    assert "champion in the registry" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is nothing to go back to"):
        run(monkeypatch, "rollback")
    known = Registry(in_project.contract.id)
    known.client.set_registered_model_alias(known.name, CHALLENGER, "1")  # the champion's own
    run(monkeypatch, "sync")
    assert read(Store()).challenger is None
    known.tag(known.version("1"), {"gate": "refused", "gate.reason": "it is worse"})
    with pytest.raises(SystemExit, match=r"version 1 of .* cannot become challenger: it is worse"):
        run(monkeypatch, "canary", "1")
    with pytest.raises(SystemExit, match="error: version 99 of "):
        run(monkeypatch, "canary", "99")


def test_in_production_what_passes_the_gate_is_tried_first(
    in_project: Project, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "judge", lambda *_: Verdict(True, "it is as good"))  # on any data
    shutil.rmtree("models/candidate")
    shutil.copytree(models[1], "models/candidate")
    control.sync(Store())
    known, before = Registry(in_project.contract.id), read(Store())
    monkeypatch.setenv("TIER", "production")
    register.main()
    champion, challenger = known.champion(), known.behind(CHALLENGER)
    assert champion
    assert challenger
    assert (champion.number, challenger.number) == ("1", "2")
    assert read(Store()) == before
    control.sync(Store())
    assert (read(Store()).champion, read(Store()).challenger) == ("1", "2")
    monkeypatch.delenv("TIER")
    register.main()
    champion = known.champion()
    assert champion
    assert (champion.number, read(Store()).champion, read(Store()).previous) == ("2", "2", "1")


def test_only_what_was_decided_is_told_to_the_registry(in_project: Project, models: tuple[Path, Path]) -> None:
    known, store = Registry(in_project.contract.id), Store()
    tried, waiting, elsewhere = (candidates.register(in_project, models[1]) for _ in range(3))
    control.sync(store)
    control.canary(store, tried, CANARY, 0.5)
    moves.drop(store, tried, "it is worse")
    known.promote(known.version(waiting), CHALLENGER)  # by a pipeline, before the registry heard of the decision
    known.promote(known.version(elsewhere))  # by somebody else
    control.tell(store, known)
    challenger, champion = known.behind(CHALLENGER), known.champion()
    assert challenger
    assert champion
    assert (challenger.number, champion.number) == (waiting, elsewhere)
    assert known.version(tried).tags["refused.live"] == "it is worse"
    assert "refused.live" not in known.version(waiting).tags
    release = control.sync(store)
    assert (release.champion, release.challenger) == (elsewhere, waiting)


def test_predictions_are_kept_as_long_as_configured(in_project: Project) -> None:
    in_project.edit("params.yaml", lambda document: document["serve"]["log"].update(keep_days=2))
    control.sync(Store())
    files = {days: Store().predictions / f"2026010{days}T000000000000-1.jsonl.gz" for days in (1, 3)}
    for days, path in files.items():
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    with serve(in_project, "--alone") as client:
        ask(client, "/predict", door.to_json(pq.read_table("data/test.parquet").slice(0, 1), in_project.contract))
    assert [path.exists() for path in files.values()] == [True, False]


def test_models_are_swapped_under_load_and_no_request_fails(in_project: Project, models: tuple[Path, Path]) -> None:
    store = Store()
    store.add("2", models[1])
    control.sync(store)
    with serve(in_project, "--workers", "2", "--alone") as client, traffic(client, in_project) as sent:
        wait_for_workers(in_project, 2)
        for number in range(SWAPS):
            moves.wait(store, moves.serve(store, "21"[number % 2], {}, "swap"), 20)
    sent.require_answers(f"during {SWAPS} swaps")
    assert set(sent.answers.values()) == {"1", "2"}


@pytest.mark.parametrize("policy", ["refuse", "serve"])
def test_without_disk_and_registry_the_service_goes_on_as_configured(in_project: Project, policy: str) -> None:
    in_project.edit("params.yaml", lambda document: document["serve"]["log"].update(full_disk=policy))
    store = Store()
    control.sync(store)
    Path("mlflow.db").unlink()  # from here on
    sent = {"rows": door.to_json(pq.read_table("data/test.parquet").slice(0, 3), in_project.contract)}
    with serve(in_project, "--alone") as client:
        with traffic(client, in_project) as load:
            time.sleep(0.5)
            store.folder.rename("gone")
            shutil.rmtree("gone")
            time.sleep(2)
        load.require_answers("while the store was taken away")
        ask(client, "/predict", sent["rows"])
        shutil.rmtree(store.folder)
        store.folder.touch()  # nothing can be written there
        time.sleep(1.5)  # after which the log looks where its file is
        answers = [client.post("/predict", json=sent) for _ in range(3)]
        expected = httpx.codes.OK if policy == "serve" else httpx.codes.SERVICE_UNAVAILABLE
        assert [answer.status_code for answer in answers] == [expected] * 3
        assert client.get("/health/ready").status_code == client.get("/release").status_code == httpx.codes.OK
        store.folder.unlink()
        ask(client, "/predict", sent["rows"])
        assert list(store.predictions.iterdir())
