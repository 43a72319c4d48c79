"""Is the contract valid, does it say what it means, and is it refused when it contradicts itself?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flight_delays.contract import Contract
from flight_delays.errors import InputError


def described(**target: Any) -> dict[str, Any]:
    columns: list[dict[str, Any]] = [
        {"name": "age", "logicalType": "integer", "tags": ["feature"], "logicalTypeOptions": {"minimum": 0}},
        {
            "name": "town",
            "logicalType": "string",
            "tags": ["feature", "slice"],
            "enum": [{"value": "A"}, {"value": "B"}],
        },
        {"name": "name", "logicalType": "string", "classification": "restricted"},
        {"name": "bought", "logicalType": "boolean", "required": True, "tags": ["target"]} | target,
    ]
    return {
        "apiVersion": "v3.2.0",
        "kind": "DataContract",
        "id": "shop",
        "version": "1.0.0",
        "status": "active",
        "servers": [{"server": "development", "type": "local", "path": "rows.csv", "format": "csv"}],
        "schema": [{"name": "rows", "properties": columns}],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Contract]:
    def write_and_read(document: Any) -> Contract:
        path = tmp_path / "contract.yaml"
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8")
        return Contract.read(path)

    return write_and_read


def column(document: dict[str, Any], index: int) -> dict[str, Any]:
    entry: dict[str, Any] = document["schema"][0]["properties"][index]
    return entry


def test_this_projects_contract_is_valid_and_names_a_target_and_features(contract: Contract) -> None:
    assert contract.target.name not in {feature.name for feature in contract.features}
    assert contract.features


def test_what_was_checked_is_not_checked_again_and_what_was_changed_since_is(
    read: Callable[[Any], Contract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, path = read(described()), tmp_path / "contract.yaml"
    changed = yaml.safe_dump(described(tags=["target", "feature"]))
    with monkeypatch.context() as patch:
        patch.setattr(f"{Contract.__module__}._refuse_invalid", lambda *_: pytest.fail("it is checked again"))
        assert Contract.read(path, sound=sound.digest) == sound
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(InputError, match="both `feature` and `target`"):
        Contract.read(path, sound=sound.digest)


def test_columns_are_sorted_by_what_they_are_for(read: Callable[[Any], Contract]) -> None:
    contract = read(described())
    assert [feature.name for feature in contract.features] == ["age", "town"]
    assert [entry.name for entry in contract.slices] == ["town"]
    assert (contract.target.name, contract.task, contract.classes) == ("bought", "binary", (False, True))
    assert contract.time is None


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ({"logicalType": "boolean"}, "binary"),
        ({"logicalType": "string", "enum": [{"value": v} for v in "abc"]}, "multiclass"),
        ({"logicalType": "integer", "enum": [{"value": 0}, {"value": 1}]}, "binary"),
        ({"logicalType": "number"}, "regression"),
        ({"logicalType": "integer", "customProperties": [{"property": "task", "value": "regression"}]}, "regression"),
    ],
)
def test_the_task_follows_from_the_target(read: Callable[[Any], Contract], target: Any, task: str) -> None:
    assert read(described(**target)).task == task


def test_the_digest_follows_the_content_and_not_the_layout(read: Callable[[Any], Contract]) -> None:
    first = read(described())
    assert read("# a comment\n" + yaml.safe_dump(described(), default_flow_style=True)).digest == first.digest
    changed = described()
    column(changed, 0)["logicalTypeOptions"]["minimum"] = 1
    assert read(changed).digest != first.digest


def change(index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: column(document, index).update(values)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (change(0, tags=["featur"]), "'age': unknown tag 'featur': did you mean 'feature'"),
        (change(0, requried=True), "'age'.*requried"),
        (change(0, logicalType="float"), "'age' › logicalType"),
        (change(1, logicalType="object", enum=[{"value": 1}]), "'town': logicalType 'object'"),
        (change(0, name="town"), "'town' stands twice"),
        (change(2, tags=["feature"]), "'name' is personal"),
        (change(2, tags=["slice"]), "'name' is personal .* cannot be tagged `slice`"),
        (change(3, classification="confidential"), "'bought' is personal .* cannot be tagged `target`"),
        (change(3, tags=["target", "feature"]), "'bought' is tagged both"),
        (change(3, tags=[]), "exactly one column must be tagged `target`"),
        (change(3, required=False), "'bought' is a time, target or key"),
        (change(3, logicalType="string"), "needs its classes as `enum`"),
        (change(0, tags=["feature", "time"]), "'age' is tagged `time`"),
        (lambda document: document.pop("schema"), "run `make contract`"),
        (lambda document: document.pop("servers"), "`servers` is empty"),
        (lambda document: document.pop("kind"), "'kind' is a required property"),
        (
            lambda document: [column(document, index).update(tags=[]) for index in (0, 1)],
            "no column is tagged `feature`",
        ),
    ],
)
def test_a_contract_at_fault_is_refused_in_one_line(
    read: Callable[[Any], Contract], fault: Callable[[Any], Any], words: str
) -> None:
    document = described()
    fault(document)
    with pytest.raises(InputError, match=words) as refusal:
        read(document)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["a: [1", "- just a list", "\x00"])
def test_what_is_no_contract_is_refused(read: Callable[[Any], Contract], content: str) -> None:
    with pytest.raises(InputError, match=r"contract\.yaml"):
        read(content)


def test_a_missing_contract_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        Contract.read(tmp_path / "contract.yaml")
