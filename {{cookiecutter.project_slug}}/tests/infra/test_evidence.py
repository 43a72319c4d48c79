"""Is a faulty challenger rolled back and a good one promoted each time, however often one looks?"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import Model, fit, make_estimator
from flight_delays.serving.evidence import Evidence, Verdict
from flight_delays.serving.sequences import Rate, Ratio

from tests.conftest import Project

CHOSEN = {
    "confidence": 0.95, "least": 2000, "most": 20000, "failures": 0.005, "warnings": 0.01, "latency": 2.0,
    "spread": 2.0, "shift": 0.75, "disagreement": 0.6, "decisions": 0.25, "loss": 0.03, "labels": 0,
}  # fmt: skip
SOON = CHOSEN | {"least": 400, "most": 4000, "failures": 0.03}
TASKS = ("binary", "multiclass", "regression")
PEEK = 50
Pair = tuple[dict[str, Any], dict[str, Any]]  # the two halves of a request's records
Aimed = Callable[[str], Contract]


@pytest.fixture(scope="module")
def aimed(contract: Contract) -> Aimed:
    """Aim the project's contract at a target of any task."""

    def make(task: str) -> Contract:
        labels = {"binary": ("no", "yes"), "multiclass": ("red", "green", "blue")}.get(task, ())
        kind = "string" if labels else "number"
        target = replace(contract.target, type=kind, values=labels, custom={"task": "auto"})
        columns = tuple(target if column.name == target.name else column for column in contract.columns)
        return replace(contract, columns=columns, task=task)

    return make


def signal(task: str, count: int, random: np.random.Generator) -> Floats:
    """Draw what is known of some rows."""
    return random.normal(size=(count, 3 if task == "multiclass" else 1))


def outputs(task: str, known: Floats, shift: float = 0.0) -> Floats:
    """Turn it into outputs."""
    if task == "regression":
        return 50.0 + 10 * (known[:, 0] + shift)
    moved = known + shift * np.arange(1, known.shape[1] + 1)
    if task == "binary":
        return np.asarray(1 / (1 + np.exp(1 - moved[:, 0])))
    powers = np.exp(moved)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def worsened(task: str, known: Floats, random: np.random.Generator) -> Floats:
    """Make it cost more, where outputs alone give no reason for doubt: too sure, with the same decisions; or noisy."""
    return known + random.normal(0, 0.5, known.shape) if task == "regression" else 1 + 2.2 * (known - 1)


def truths(contract: Contract, output: Floats, random: np.random.Generator) -> list[Any]:
    """Draw what happened, as the champion expects it."""
    if contract.task == "regression":
        return list(output + random.normal(0, 5, len(output)))
    chances = np.column_stack([1 - output, output]) if contract.task == "binary" else output
    drawn = (random.random((len(chances), 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return [contract.classes[place] for place in drawn]


def records(
    champion: Floats, challenger: Floats, random: np.random.Generator, slower: float = 1.0, mode: str = "canary"
) -> Iterator[Pair]:
    """Write the log's records of requests with one row each; the challenger's failures are planted as text."""
    times = np.exp(random.normal(np.log([0.2, 0.2 * slower]), 0.3, (len(champion), 2)))
    times *= np.where(random.random(times.shape) < 0.01, 50, 1)  # a noisy machine
    for place, pair in enumerate(zip(champion[:, None].tolist(), challenger[:, None].tolist(), strict=True)):
        common = {"id": f"request {place}", "at": "2026-11-24T22:00:00Z", "release": "r1"}
        ours, theirs = (
            {"version": version, "role": role, "output": output, "ms": ms, "failed": None}
            for version, role, output, ms in zip(
                ("3", "4"), ("champion", "challenger"), pair, times[place], strict=True
            )
        )
        first, second = (theirs, ours) if mode == "canary" else (ours, theirs)
        answer = {"kind": "answer", **common, **first, "assigned": True, "rows": [{}], "x": [[]], "warnings": 0}
        yield answer, {"kind": "second", **common, **second}


def watch(evidence: Evidence, stream: Iterable[Pair], labels: list[Any] | None = None) -> Iterator[Verdict]:
    """Look after each few records, as the controller does."""
    stream, known = iter(stream), iter(labels or [])
    while part := list(islice(stream, PEEK)):
        evidence.add(half for pair in part for half in pair)
        evidence.labels({(answer["id"], 0): truth for (answer, _), truth in zip(part, known, strict=False)})
        verdict = evidence.verdict()
        yield verdict
        if verdict.action != "wait":
            return


def decided(evidence: Evidence, stream: Iterable[Pair], labels: list[Any] | None = None) -> Verdict:
    """Give the last verdict on a stream."""
    *_, last = watch(evidence, stream, labels)
    return last


def state(verdict: Verdict, name: str) -> str:
    return str(next(check["state"] for check in verdict.checks if check["name"] == name))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_the_same_model_is_promoted(aimed: Aimed, task: str, mode: str) -> None:
    random = np.random.default_rng(0)
    output = outputs(task, signal(task, 3000, random))
    stream = list(records(output, output, random, mode=mode))
    labels = truths(aimed(task), output, random)
    for known in (None, labels):
        verdict = decided(Evidence(aimed(task), "3", "4", "r1", CHOSEN), stream, known)
        assert verdict.action == "promote", verdict.reason
        assert (state(verdict, "loss") == "inside") is bool(known)


@pytest.mark.parametrize("task", TASKS)
def test_a_healthy_challenger_is_rolled_back_no_more_often_than_chosen(aimed: Aimed, task: str) -> None:
    random = np.random.default_rng(0)
    known = signal(task, 4000, random)
    champion, challenger = (outputs(task, known + random.normal(0, 0.15, known.shape)) for _ in range(2))
    pool = list(records(champion, challenger, random))
    ends = []
    for _ in range(70):  # with three tasks more than 200
        order = random.permutation(len(pool))[:600]
        ends.append(decided(Evidence(aimed(task), "3", "4", "r1", SOON), [pool[place] for place in order]))
    assert sum(end.action == "roll back" for end in ends) <= (1 - SOON["confidence"]) * len(ends), ends[0].reason
    assert sum(end.action == "promote" for end in ends) > 0.9 * len(ends)


def test_an_interval_rarely_ever_misses_however_often_one_looks() -> None:
    random, missed = np.random.default_rng(0), {"rate": 0, "ratio": 0, "fixed": 0}
    for _ in range(200):
        rate, ratio, ever = Rate(0.1), Ratio(1000), set()
        above, below = random.lognormal(0, 0.5, (3000, 1)) * 2, random.lognormal(0, 0.5, 3000)
        failed = random.random(3000) < 0.1
        for start in range(0, 3000, PEEK):
            part = slice(start, start + PEEK)
            rate.add(PEEK, float(failed[part].sum()))
            ratio.add(above[part], below[part])
            value, low, high = rate.interval(0.05)
            ever |= {"rate"} if not low <= 0.1 <= high else set()
            ever |= {"fixed"} if abs(value - 0.1) > 1.96 * np.sqrt(0.09 / rate.count) else set()
            _, lows, highs = ratio.interval(0.05)
            ever |= {"ratio"} if ratio.count >= 100 and not lows[0] <= 2 <= highs[0] else set()
        for name in ever:
            missed[name] += 1
    assert missed["rate"] <= 10
    assert missed["ratio"] <= 10
    assert missed["fixed"] > 40  # what looking again and again makes of an ordinary interval


FAULTS = {
    "it answers noise": "disagreement", "it answers a constant": "spread", "it is shifted": "shift",
    "it is not finite in 2 %": "failures",
}  # fmt: skip


def planted(fault: str, task: str, known: Floats, random: np.random.Generator) -> Floats:
    """Give the outputs of a faulty challenger."""
    output = outputs(task, known, 3 if fault == "it is shifted" else 0)
    if fault == "it answers noise":
        return random.permutation(output)
    if fault == "it answers a constant":
        return np.broadcast_to(output.mean(axis=0), output.shape)
    if fault == "it is not finite in 2 %":
        output[random.random(len(output)) < 0.02] = np.nan
    return output


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_challenger_is_rolled_back_each_time(aimed: Aimed, task: str, fault: str) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        known = signal(task, 2000, random)
        output = outputs(task, known)
        evidence = Evidence(aimed(task), "3", "4", "r1", CHOSEN)
        verdict = decided(evidence, records(output, planted(fault, task, known, random), random))
        assert verdict.action == "roll back", (seed, verdict.reason)
        assert FAULTS[fault] in verdict.reason or "decisions" in verdict.reason


@pytest.mark.parametrize("task", TASKS)
def test_a_challenger_with_a_higher_loss_is_rolled_back_each_time_once_labels_come(aimed: Aimed, task: str) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        known = signal(task, 4000, random)
        output, worse = outputs(task, known), outputs(task, worsened(task, known, random))
        stream = list(records(output, worse, random)) if not seed else records(output, worse, random)
        labels = truths(aimed(task), output, random)
        verdict = decided(Evidence(aimed(task), "3", "4", "r1", CHOSEN), stream, labels)
        assert verdict.action == "roll back", (seed, verdict.reason)
        assert "loss" in verdict.reason
        if not seed:
            unlabelled = decided(Evidence(aimed(task), "3", "4", "r1", CHOSEN), stream)
            assert unlabelled.action == "promote", unlabelled.reason


@pytest.mark.parametrize(("slower", "action"), [(1.4, "promote"), (3.0, "roll back")])
def test_a_slower_challenger_is_rolled_back_each_time(aimed: Aimed, slower: float, action: str) -> None:
    for seed in range(20 if action == "roll back" else 3):
        random = np.random.default_rng(seed)
        output = outputs("regression", signal("regression", 3000, random))
        evidence = Evidence(aimed("regression"), "3", "4", "r1", CHOSEN)
        verdict = decided(evidence, records(output, output, random, slower))
        assert verdict.action == action, (seed, verdict.reason)
        assert "latency" in verdict.reason


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_crashing_challenger_is_rolled_back_each_time(aimed: Aimed, mode: str) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        output = outputs("binary", signal("binary", 2000, random))
        stream = list(records(output, output, random, mode="shadow"))
        for place in np.flatnonzero(random.random(len(stream)) < 0.05):
            answer, second = stream[place]
            second.update(output=None, failed="ValueError: no")
            if mode == "canary":  # the challenger is asked first, and the champion answers
                answer["failed"] = {"version": "4", "reason": "ValueError: no"}
        verdict = decided(Evidence(aimed("binary"), "3", "4", "r1", CHOSEN), stream)
        assert verdict.action == "roll back", (seed, verdict.reason)
        assert "failures" in verdict.reason


def test_a_model_trained_again_with_another_seed_is_promoted_each_time(finished_project: Project) -> None:
    contract = finished_project.contract
    X, y = features.load(finished_project.path / "data/train.parquet", contract)
    models = []
    for seed in range(2):
        estimator = make_estimator("auto", contract.task, {"n_estimators": 60, "feature_fraction": 0.8}, seed)
        models.append(Model(contract, fit(estimator, contract, (X, y), (X, y))))
    rows, _ = features.load(finished_project.path / "data/test.parquet", contract)
    champion, challenger = (model.predict(rows) for model in models)
    for seed in range(20):
        random = np.random.default_rng(seed)
        drawn = random.integers(0, len(rows), 2500)
        stream = records(champion[drawn], challenger[drawn], random)
        verdict = decided(Evidence(contract, "3", "4", "r1", CHOSEN), stream)
        assert verdict.action == "promote", (seed, verdict.reason)


def test_a_better_challenger_may_differ_once_labels_come(aimed: Aimed) -> None:
    random = np.random.default_rng(0)
    known = signal("regression", 6000, random)
    better, champion = outputs("regression", known), outputs("regression", known - 2)
    stream, labels = list(records(champion, better, random)), truths(aimed("regression"), better, random)
    verdict = decided(Evidence(aimed("regression"), "3", "4", "r1", CHOSEN), stream)
    assert verdict.action == "roll back"
    assert "shift" in verdict.reason
    patient = CHOSEN | {"labels": 1000}
    *early, last = watch(Evidence(aimed("regression"), "3", "4", "r1", patient), stream, labels)
    assert last.action == "promote", last.reason
    assert state(last, "shift") == "outside"
    assert all(verdict.action == "wait" for verdict in early)


def test_what_stays_undecided_is_rolled_back_in_the_end(aimed: Aimed) -> None:
    random = np.random.default_rng(0)
    output = outputs("binary", signal("binary", 1500, random))
    chosen = CHOSEN | {"least": 500, "most": 1000}  # too few to be sure of half a failure in a hundred
    *early, last = watch(Evidence(aimed("binary"), "3", "4", "r1", chosen), records(output, output, random))
    assert {verdict.action for verdict in early} == {"wait"}
    assert last.action == "roll back"
    assert last.reason.startswith("not enough evidence after 1,000 requests")


def test_the_verdict_does_not_depend_on_the_portions_or_the_order_of_halves(aimed: Aimed) -> None:
    random = np.random.default_rng(0)
    output = outputs("binary", signal("binary", 600, random))
    stream, labels = list(records(output, output, random)), truths(aimed("binary"), output, random)
    known = {(pair[0]["id"], 0): label for pair, label in zip(stream, labels, strict=True)}
    one, other = (Evidence(aimed("binary"), "3", "4", "r1", CHOSEN) for _ in range(2))
    one.labels(known)
    for pair in stream:
        one.add(pair[::-1])
    other.add(half for pair in stream for half in pair)
    other.labels(known)
    for ours, theirs in zip(one.verdict().checks, other.verdict().checks, strict=True):
        assert [*ours] == [*theirs]
        for key in ours:
            assert ours[key] == (pytest.approx(theirs[key], rel=1e-4) if isinstance(ours[key], float) else theirs[key])


def test_other_releases_and_unassigned_requests_do_not_count(aimed: Aimed) -> None:
    random = np.random.default_rng(0)
    output = outputs("binary", signal("binary", 100, random))
    evidence = Evidence(aimed("binary"), "3", "4", "r1", CHOSEN)
    for answer, second in records(output, output, random):
        evidence.add([answer | {"release": "r0"}, second | {"release": "r0"}, answer | {"assigned": False}])
    assert evidence.verdict().checks[0]["count"] == 0


def test_an_answer_that_never_came_counts_against_the_challenger(aimed: Aimed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flight_delays.serving.evidence._WAITING", 10)
    random = np.random.default_rng(0)
    output = outputs("binary", signal("binary", 100, random))
    for mode, failures in (("shadow", 90), ("canary", 0)):  # in the canary's, the challenger's own answers are there
        evidence = Evidence(aimed("binary"), "3", "4", "r1", CHOSEN)
        evidence.add(answer for answer, _ in records(output, output, random, mode=mode))
        failed = evidence.verdict().checks[0]
        assert (evidence.unpaired, failed["count"], round(failed["value"] * 90)) == (90, 90, failures)


def test_requests_of_many_rows_count_once_each(aimed: Aimed) -> None:
    random = np.random.default_rng(0)
    evidence = Evidence(aimed("multiclass"), "3", "4", "r1", CHOSEN)
    for place in range(250):
        count = int(random.integers(1, 40))
        known = signal("multiclass", count, random)
        output, other = outputs("multiclass", known), outputs("multiclass", known + random.normal(0, 0.2, known.shape))
        common = {"id": str(place), "release": "r1", "ms": 1.0, "failed": None}
        answer = {"kind": "answer", "version": "3", "assigned": True, "rows": [{}] * count, "output": output.tolist()}
        evidence.add([common | answer, common | {"kind": "second", "version": "4", "output": other.tolist()}])
        labels = truths(aimed("multiclass"), output, random)
        evidence.labels({(str(place), row): label for row, label in enumerate(labels)})
    checks = {check["name"]: check for check in evidence.verdict().checks}
    counts = {"failures": 250, "latency": 250, "decisions": 250, "loss": 250, "shift": 125}
    assert {name: checks[name]["count"] for name in counts} == counts
    assert checks["decisions"]["state"] == checks["disagreement"]["state"] == "inside"


@pytest.mark.parametrize(
    ("name", "value"), [("failures", 0), ("latency", 1), ("confidence", 95), ("least", 30000), ("spread", 0.5)]
)
def test_a_bound_that_means_nothing_is_refused(contract: Contract, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"serve.canary.{name} "):
        Evidence(contract, "3", "4", "r1", CHOSEN | {name: value})
