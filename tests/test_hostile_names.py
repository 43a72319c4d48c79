"""Do names of every kind come through as data: whole, and never as code?"""

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from bakery import ROWS, Bake, git, run_cookiecutter

HOSTILE = {
    "apostrophe": "Granny's Shop",
    "double quotes": 'The "Best" Shop',
    "triple quotes": "Shop \"\"\" and ''' end",
    "trailing backslash": "Shop \\",
    "trailing quote": 'Shop "',
    "escapes": r"Shop \n \u0041 \x41 \N{BULLET}",
    "markup": "<script>alert('Shop')</script> & Co",
    "yaml": "Shop: {a: [1, 2]} # no comment - *anchor !!python/object",
    "toml": 'Shop" }]\n[tool.evil]'.replace("\n", " "),
    "jinja": "Shop {{ 7 * 7 }} {% raw %} {# none #}",
    "python": "Shop'); __import__('os').system('touch owned'); print('",
    "python, double quotes": 'Shop"); __import__("os").system("touch owned"); print("',
    "shell": "Shop $(touch owned) `touch owned`; touch owned",
    "regular expression": r"Shop \1 \g<0> (.*) [a-z]",
    "template": "Shop [year] [owner] flight_delays flight-delays Flight Delays",
    "umlauts": "Läden für Bücher",
    "Chinese": "航班 Shop",
    "Arabic": "متجر Shop",
    "emoji": "Shop 🛒👩‍👩‍👧",
    "other spaces": "Shop\u00a0one\u3000two",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_comes_through_as_data(template: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "sales.csv").write_text(ROWS)
    project = replay(template, tmp_path, project_name=name, description=name, author=name, dataset="sales.csv", target="price")

    shown = " ".join(name.split())
    about = tomllib.loads((project / "pyproject.toml").read_text())
    assert about["project"]["description"] == shown
    assert about["project"]["authors"] == [{"name": shown}]
    assert set(about["tool"]) == {"cruft", "hatch", "mypy", "pytest", "ruff", "uv"}
    contract = yaml.safe_load((project / "contract.yaml").read_text())
    assert contract["name"] == shown
    assert (project / "LICENSE").read_text().splitlines()[2].endswith(f" {shown}")
    assert (project / "README.md").read_text().splitlines()[0] == f"# {shown}"
    assert shown in (project / "README.md").read_text().splitlines()[1:][1]
    assert git(project, "status", "--porcelain") == ""
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_of_the_example_comes_through_as_well(template: Path, tmp_path: Path, name: str) -> None:
    project = replay(template, tmp_path, project_name=name)
    assert yaml.safe_load((project / "contract.yaml").read_text())["name"] == " ".join(name.split())


@pytest.mark.parametrize("target", [name for name in HOSTILE.values() if "\u3000" not in name])
def test_a_hostile_column_comes_through_as_data(template: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "sales.jsonl").write_text("".join(json.dumps({"a": a, target: a % 3}) + "\n" for a in range(9)))
    project = replay(template, tmp_path, dataset="sales.jsonl", target=target)
    contract = yaml.safe_load((project / "contract.yaml").read_text())
    assert contract["schema"][0]["properties"][0]["name"] == target
    assert not list(tmp_path.rglob("owned"))


def test_a_description_of_several_lines_becomes_one(bake: Bake) -> None:
    project = bake(project_slug="shop", description="It sells.\n\n  And it buys.\r\n")
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["description"] == "It sells. And it buys."


@pytest.mark.parametrize(
    ("name", "slug", "package"),
    [
        ("航班延误", "hang-ban-yan-wu", "hang_ban_yan_wu"),
        ("Рейсы", "reisy", "reisy"),
        ("Größe & Maß", "grosse-mass", "grosse_mass"),
        ("2024 sales", "project-2024-sales", "project_2024_sales"),
        ("🛒", "project", "project"),
        (
            "A very long name of a project that nobody would ever type",
            "a-very-long-name-of-a-project",
            "a_very_long_name_of_a_project",
        ),
        ("it's", "it-s", "it_s"),
    ],
)
def test_a_name_in_any_script_gives_a_usable_slug_and_package(bake: Bake, name: str, slug: str, package: str) -> None:
    project = bake(project_name=name)
    assert project.name == slug
    assert (project / "src" / package / "__init__.py").is_file()


def replay(template: Path, where: Path, **answers: str) -> Path:
    """Generate from answers that cookiecutter itself takes as they are, as it does in a conversation."""
    questions = json.loads((template / "cookiecutter.json").read_text())
    first = {key: value[0] if isinstance(value, list) else value for key, value in questions.items() if key[:2] != "__"}
    first |= {
        "project_slug": "shop",
        "package_name": "shop",
        "description": "Shops.",
        "author": "Ada",
        "_copy_without_render": ["*"],
    }
    (where / "answers.json").write_text(json.dumps({"cookiecutter": first | answers}))
    done = run_cookiecutter(where, str(template), "--replay-file", "answers.json")
    assert done.returncode == 0, done.stderr
    return where / "shop"
