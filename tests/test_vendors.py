"""Do boards, log fields and requests to Elasticsearch have the types that Grafana and Elastic publish?

Their images are not everywhere to be had; their types are, as packages for TypeScript, which names a misspelt option.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bakery import ROOT
from projects import node_packages

pytestmark = pytest.mark.slow

OPS = ROOT / "{{cookiecutter.project_slug}}/ops"
PACKAGES = ["typescript@5.9.3", "@elastic/elasticsearch@9.5.1", "@elastic/ecs@9.0.0", "@grafana/schema@13.2.3"]
PLAIN = """
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
    : T extends object ? {[K in keyof T]?: Plain<T[K]>} : T;
"""
PANELS = {"timeseries": "TimeSeries", "stat": "Stat", "bargauge": "BarGauge"}
SAMPLES = {"long": 1, "date": "2026-01-01T00:00:00Z"}
Types = Path


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Types:
    """Install what the vendors publish."""
    return node_packages(tmp_path_factory.mktemp("types"), *PACKAGES)


def complaints(types: Types, source: str) -> list[str]:
    """Compile TypeScript, and give what is wrong with it.

    Parameters
    ----------
    types
        The fixture.
    source
        In TypeScript.
    """
    (types / "checked.ts").write_text(PLAIN + source, encoding="utf-8")
    options = "--noEmit --strict --skipLibCheck --target es2022 --module nodenext --moduleResolution nodenext"
    ran = subprocess.run(
        ["node_modules/.bin/tsc", *options.split(), "checked.ts"], cwd=types, capture_output=True, text=True, check=False
    )
    return [line for line in ran.stdout.splitlines() if ": error " in line]


def literal(name: str, kind: str, value: Any) -> str:
    """Write a value of a type, so that what the type has not is an error."""
    return f"export const {name}: {kind} = {json.dumps(value)};\n"


def boards(change: tuple[str, str] = ("", "")) -> str:
    """Write all boards and their panels as TypeScript, with a change if one is given."""
    source = 'import type { Dashboard, Panel } from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";\n'
    for kind, name in PANELS.items():
        place = f"@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
        source += f'import type {{ Options as {name} }} from "{place}";\n'
    source += 'import type { FieldConfig } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/'
    source += 'TimeSeriesPanelCfg_types.gen";\n'
    for path in sorted((OPS / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8").replace(*change) if change[0] else path.read_text(encoding="utf-8"))
        where = path.stem
        for entry in board["annotations"]["list"]:  # these three are of the data source, and not typed
            assert {entry.pop(name, "").__class__ for name in ("expr", "step", "titleFormat")} == {str}
        for panel in board.pop("panels"):
            own = f"{where}{panel['id']}"
            source += literal(f"{own}options", f"Plain<{PANELS[panel['type']]}>", panel.pop("options"))
            if custom := panel["fieldConfig"]["defaults"].pop("custom", None):
                source += literal(f"{own}custom", "Plain<FieldConfig>", custom)
            source += literal(own, "Plain<Panel>", panel)
        source += literal(where, "Plain<Dashboard>", board)
    return source


def requests(change: tuple[str, str] = ("", "")) -> str:
    """Write the requests to Elasticsearch as TypeScript."""
    source = 'import type { estypes } from "@elastic/elasticsearch";\n'
    for name, kind in {
        "index-template": "IndicesPutIndexTemplateRequest",
        "lifecycle": "IlmPutLifecycleRequest",
        "role": "SecurityPutRoleRequest",
    }.items():
        body = (OPS / f"elastic/{name}.json").read_text(encoding="utf-8")
        body = json.loads(body.replace(*change) if change[0] else body)
        source += literal(name.replace("-", ""), f"estypes.{kind}", {"name": "a"} | body)
    return source


def line(change: tuple[str, str] = ("", "")) -> str:
    """Write a log line that has every field of the index template as TypeScript."""
    text = (OPS / "elastic/index-template.json").read_text(encoding="utf-8")
    template = json.loads(text.replace(*change) if change[0] else text)

    def sample(properties: dict[str, Any]) -> dict[str, Any]:
        return {
            name: sample(entry["properties"]) if "properties" in entry else SAMPLES.get(entry["type"], "word")
            for name, entry in properties.items()
        }

    found = sample(template["template"]["mappings"]["properties"])
    source = (OPS.parent / "src/flight_delays/serving/ecs.py").read_text(encoding="utf-8")
    written = re.search(r'^ECS = "(.+)"$', source, re.MULTILINE)
    assert written
    found["ecs"]["version"] = written[1]
    return 'import type { Ecs } from "@elastic/ecs";\n' + literal("line", "Ecs", found)


def test_boards_are_as_grafana_types_them(types: Types) -> None:
    assert complaints(types, boards()) == []


def test_requests_are_as_elasticsearch_types_them(types: Types) -> None:
    assert complaints(types, requests()) == []


def test_fields_of_the_logs_are_those_of_the_elastic_common_schema(types: Types) -> None:
    assert complaints(types, line()) == []


@pytest.mark.parametrize(
    ("written", "right", "wrong"),
    [
        (boards, '"noValue"', '"noValues"'),
        (boards, '"graphMode"', '"graphmode"'),
        (boards, '"showPoints": "never"', '"showPoints": "seldom"'),
        (boards, '"refresh": 2', '"refresh": "2"'),
        (requests, '"max_age"', '"maximum_age"'),
        (requests, '"priority": 200', '"priority": "200"'),
        (requests, '"wildcard"', '"wild_card"'),
        (line, '"duration"', '"length"'),
        (line, '"type": "long"', '"type": "keyword"'),
    ],
)
def test_what_is_misspelt_is_seen(types: Types, written: Any, right: str, wrong: str) -> None:
    assert re.search(r"error TS", "\n".join(complaints(types, written((right, wrong)))))
