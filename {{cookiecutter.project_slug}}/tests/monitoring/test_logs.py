"""Does a line of the log reach Elasticsearch with all its fields, and nothing else?"""

import json
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import yaml

from flight_delays.serving import ecs

from tests.conftest import ROOT

OPS = ROOT / "ops"
PIPELINE = OPS / "logstash/pipeline/service.conf"
_MOVED = re.compile(r'"\[@metadata\]\[line\]\[([^\]]+)\]" => "([^"]+)"')


def fields() -> set[str]:
    """Name the fields that a line may have."""
    return {field.encode_name for field in msgspec.structs.fields(ecs.Line)}


def let_through(pipeline: str) -> dict[str, str]:
    """Give by each field that Logstash takes from a line where it puts it, with dots."""
    return {source: target.strip("[]").replace("][", ".") for source, target in _MOVED.findall(pipeline)}


def mapped(properties: dict[str, Any], above: str = "") -> set[str]:
    """Name the fields that the index template knows."""
    found = set[str]()
    for name, entry in properties.items():
        found |= mapped(entry["properties"], f"{above}{name}.") if "properties" in entry else {above + name}
    return found


def test_each_field_of_a_line_is_let_through_and_searched() -> None:
    moved = let_through(PIPELINE.read_text(encoding="utf-8"))
    assert moved.keys() | {"@timestamp"} == fields()
    assert {source for source, target in moved.items() if source != target} == set()
    template = json.loads((OPS / "elastic/index-template.json").read_text(encoding="utf-8"))
    assert fields() <= mapped(template["template"]["mappings"]["properties"])


def test_a_field_that_is_not_let_through_is_seen() -> None:
    text = PIPELINE.read_text(encoding="utf-8")
    changed = text.replace('"[@metadata][line][trace.id]" => "[trace][id]"', "")
    assert changed != text
    assert let_through(changed).keys() | {"@timestamp"} == fields() - {"trace.id"}


def test_nothing_else_comes_further() -> None:
    """Read, not run: the filter drops all but two fields of what came, and only then looks at the line."""
    text = PIPELINE.read_text(encoding="utf-8")
    kept = re.search(r"prune \{\s+whitelist_names => (\[[^\]]+\])", text)
    assert kept
    assert json.loads(kept[1]) == ["^@timestamp$", "^message$"]
    assert text.index("prune {") < text.index("json {")
    assert re.findall(r"(?<!\w)target => (\S+)", text) == ['"[@metadata][line]"']  # which is not sent on


def test_a_line_has_no_field_for_what_a_client_sent() -> None:
    named = fields()
    for part in ("body", "client.ip", "client.address", "query", "url.full", "url.original", "headers", "source."):
        assert not [name for name in named if part in name]


def test_all_kinds_of_values_are_written_as_the_template_types_them() -> None:
    template = json.loads((OPS / "elastic/index-template.json").read_text(encoding="utf-8"))

    def kind(name: str) -> str:
        at = {"properties": template["template"]["mappings"]["properties"]}
        for part in name.split("."):
            at = at["properties"][part]
        return str(at["type"])

    numbers = {
        field.encode_name for field in msgspec.structs.fields(ecs.Line) if int in getattr(field.type, "__args__", ())
    }
    assert numbers == {name for name in fields() if kind(name) == "long"}
    line = ecs.Line(at=datetime.now(UTC), level="info", message="m", version="1", environment="e", dataset="d")
    written = json.loads(msgspec.json.encode(line))
    assert list(written)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]  # the order that Elastic asks for
    assert all(isinstance(value, str) for value in written.values())


def test_filebeat_reads_what_compose_names() -> None:
    document = yaml.safe_load((OPS / "filebeat/filebeat.yml").read_text(encoding="utf-8"))
    (source,) = document["filebeat.inputs"]
    assert source["type"] == "filestream"
    assert {"container": {"stream": "all", "format": "docker"}} in source["parsers"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    named = re.search(r"not in (\[.+\])", PIPELINE.read_text(encoding="utf-8"))
    assert named
    parts = json.loads(named[1])
    assert set(parts) <= set(compose["services"])
    assert {compose["services"][part]["logging"]["options"]["labels"] for part in parts} == {
        "com.docker.compose.service"
    }


def test_kibana_is_given_what_its_objects_name() -> None:
    lines = (OPS / "elastic/kibana.ndjson").read_text(encoding="utf-8").splitlines()
    objects = [json.loads(line) for line in lines]
    there = {(entry["type"], entry["id"]) for entry in objects}
    template = json.loads((OPS / "elastic/index-template.json").read_text(encoding="utf-8"))
    searched = mapped(template["template"]["mappings"]["properties"])
    for entry in objects:
        assert {(one["type"], one["id"]) for one in entry["references"]} <= there
        assert set(entry["attributes"].get("columns", ())) <= searched
        state = json.loads(entry["attributes"].get("visState", "{}"))
        asked = {one["params"]["field"] for one in state.get("aggs", ()) if "field" in one["params"]}
        assert asked <= searched
    (view,) = (entry for entry in objects if entry["type"] == "index-pattern")
    assert view["attributes"]["title"] == template["index_patterns"][0]


def test_scripts_and_requests_are_there() -> None:
    folder = OPS / "elastic"
    for script in folder.glob("*.sh"):
        for name in re.findall(r"@([\w-]+\.\w+)", script.read_text(encoding="utf-8")):
            assert (folder / name).is_file()
