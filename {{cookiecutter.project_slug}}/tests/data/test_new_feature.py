"""Does a new feature reach a served prediction by way of the contract alone, in the minutes that README.md promises?"""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conftest import Project
from tests.exercise import LOG, NEW, PROMISED, Steps, begin, grow, stop, wait

Copy = Callable[[Project], Project]


@pytest.mark.slow
@pytest.mark.last
@pytest.mark.ml_test("data-6")
def test_a_new_feature_reaches_a_prediction_by_the_contract_alone(
    steps: Steps, record_property: Callable[[str, object], None]
) -> None:
    seconds, grown = wait(steps), steps.project
    with httpx.Client(base_url=f"http://127.0.0.1:{steps.port}", timeout=60, trust_env=False) as service:
        served = service.get("/model").json()
        if NEW not in served["features"]:
            said = (grown.path / LOG).read_text(encoding="utf-8")
            refused = re.search(r"REFUSED: (.*?)  ", said)
            why = f"the gate refused it ({refused[1]} …)" if refused else "the steps of README.md do not bring it there"
            pytest.fail(
                f"{NEW!r} is not a feature of the served model, version {served['version']}: {why}", pytrace=False
            )
        row: dict[str, Any] = service.get("/example").json()["rows"][0]
        answers = [ask(service, row | {NEW: value}) for value in (-3.0, 3.0)]
        without = {name: value for name, value in row.items() if name != NEW}
        refusal = service.post("/predict", json={"rows": [without]})
    changed = grown.run("git", "diff", "--numstat").stdout.split()
    lines = sum(int(number) for number in changed[:2])
    record_property("seconds", round(seconds, 1))
    record_property("lines", lines)
    print(f"a new feature: {seconds:.0f} seconds, {lines} lines of {' '.join(changed[2::3])}")
    assert changed[2:] == ["contract.yaml"], f"more than the contract had to change: {changed}"
    assert answers[0] != answers[1], f"the prediction does not change with {NEW!r}: {answers}"
    assert (refusal.status_code, refusal.json()["violations"][0]["column"]) == (422, NEW)
    assert (grown.path / "reports/explain/0.png").stat().st_size > 0
    assert seconds < PROMISED, f"README.md promises five minutes, it took {seconds:.0f} seconds"


def ask(service: httpx.Client, row: dict[str, Any]) -> dict[str, Any]:
    """Predict a row."""
    answer: dict[str, Any] = service.post("/predict", json={"rows": [row]}).json()
    return answer


@pytest.mark.sabotage(
    of=test_a_new_feature_reaches_a_prediction_by_the_contract_alone,
    fault="the contract knows the new column, but not as a feature",
)
def test_a_feature_that_does_not_reach_the_service_is_named(
    finished_project: Project, copy: Copy, record_property: Callable[[str, object], None]
) -> None:
    grown = copy(finished_project)
    grow(grown)
    entry = {"name": NEW, "logicalType": "number", "required": True}
    grown.edit("contract.yaml", lambda document: document["schema"][0]["properties"].append(entry))
    begun = begin(grown)
    try:
        with pytest.raises(pytest.fail.Exception, match=f"'{NEW}' is not a feature of the served model, version "):
            test_a_new_feature_reaches_a_prediction_by_the_contract_alone(begun, record_property)
    finally:
        stop(begun)
