"""Does another run of the pipeline, in a fresh checkout, give the same bits?"""

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from flight_delays import reproduce
from flight_delays.reproduce import Reproduction

from tests.conftest import Project


@pytest.fixture(scope="session")
def reproduction(project: Project, second_run: "Future[Reproduction]") -> Reproduction:
    """The project's pipeline, run once more in a fresh checkout; what it took is written down."""
    run = second_run.result()
    (project.path / reproduce.PAGE).write_text(reproduce.page(project.path, run), encoding="utf-8")
    return run


@pytest.mark.last
@pytest.mark.ml_test("infra-1")
def test_a_second_run_in_a_fresh_checkout_gives_the_same_bits(reproduction: Reproduction) -> None:
    advice = "look for what is not in params.yaml: time, order, an unseeded generator, an unlocked library"
    if reproduction.differences:
        pytest.fail(f"two runs differ in {', '.join(reproduction.differences)}: {advice}", pytrace=False)
    assert reproduction.outputs >= 10


@pytest.mark.sabotage(
    of=test_a_second_run_in_a_fresh_checkout_gives_the_same_bits,
    fault="the training's seed is the time of day",
)
def test_a_seed_from_the_clock_is_noticed(finished_project: Project, copy: Callable[[Project], Project]) -> None:
    project = copy(finished_project)
    (file,) = project.path.glob("src/*/model.py")
    code = file.read_text(encoding="utf-8")
    assert code.count("key: seed for key") == 1
    file.write_text(
        code.replace("key: seed for key", "key: __import__('time').time_ns() % 2**31 for key"), encoding="utf-8"
    )
    with pytest.raises(pytest.fail.Exception, match="models/candidate of stage train"):
        test_a_second_run_in_a_fresh_checkout_gives_the_same_bits(reproduce.reproduce(project.path))


@pytest.mark.slow
@pytest.mark.ml_test("infra-1", twin="plants its own fault")
def test_the_lock_of_a_past_commit_brings_its_model_back(
    finished_project: Project, copy: Callable[[Project], Project]
) -> None:
    project = copy(finished_project)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    past = (project.path / "dvc.lock").read_text(encoding="utf-8")
    for message, trees in (("Lock", None), ("Another model", 5)):
        if trees:
            project.edit("params.yaml", lambda document: document["train"]["hyperparameters"].update(n_estimators=5))
            assert project.run("dvc", "repro", "train").returncode == 0
        project.run("git", "add", "--all")
        assert project.run("git", *identity, "commit", "--quiet", "--message", message).returncode == 0
    assert (project.path / "dvc.lock").read_text(encoding="utf-8") != past
    assert project.run("git", "checkout", "--quiet", "HEAD~1").returncode == 0
    again = reproduce.reproduce(project.path)
    assert not again.differences, again.differences
