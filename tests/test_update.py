"""Does a project follow a later template, on any machine, with what is the user's left alone?"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bakery import PAYLOAD, ROWS, files_of, git

OWN = {"project_name": "Corner Shop", "project_slug": "corner-shop", "package_name": "corner_shop", "target": "price"}


def cruft(where: Path, *arguments: str) -> str:
    """Run cruft there; return what it says."""
    done = subprocess.run([sys.executable, "-m", "cruft", *arguments], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def versions(template: Path, tmp_path: Path) -> Path:
    """Tag two versions of the template: the second changes a workflow, a docstring, the parameters, the contract, the README."""
    repository = tmp_path / "versions"
    git(tmp_path, "clone", "--quiet", str(template), str(repository))
    git(repository, "tag", "v1")
    payload = repository / PAYLOAD.name
    for name, line in {
        ".github/workflows/ci.yml": "# Second version.\n",
        "src/flight_delays/__init__.py": "# Second version of flight_delays.\n",
        "params.yaml": "# Second version.\n",
        "contract.yaml": "# Second version.\n",
        "README.md": "Second version.\n",
    }.items():
        with (payload / name).open("a") as file:
            file.write(line)
    (payload / "docs").mkdir(exist_ok=True)
    (payload / "docs" / "second.md").write_text("Second version.\n")
    (payload / "src/flight_delays/second.py").write_text('"""What is new in flight_delays?"""\n')
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Second version")
    git(repository, "tag", "v2")
    return repository


@pytest.fixture
def project(versions: Path, tmp_path: Path) -> Path:
    """Create a project of the first version, change what is the user's, and lose the data set it came from."""
    sales = tmp_path / "sales.csv"
    sales.write_text(ROWS)
    cruft(
        tmp_path, "create", str(versions), "--checkout", "v1", "--no-input",
        "--extra-context", json.dumps(OWN | {"dataset": str(sales)}),
    )  # fmt: skip
    made = tmp_path / "corner-shop"
    (made / "contract.yaml").write_text("name: mine\n")
    (made / "params.yaml").write_text("train: {mine: 1}\n")
    (made / "README.md").write_text("# Mine\n")
    (made / "reports").mkdir()
    (made / "reports/metrics.json").write_text("{}\n")
    (made / "uv.lock").write_text("mine = 1\n")
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message", "Mine")
    sales.unlink()
    return made


def test_an_update_brings_what_is_new_and_leaves_the_users_work_alone(project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in files_of(project)}
    cruft(project, "update", "--skip-apply-ask", "--checkout", "v2")
    after = {name: (project / name).read_bytes() for name in files_of(project)}

    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {
        ".cruft.json", ".github/workflows/ci.yml", "src/corner_shop/__init__.py", "src/corner_shop/second.py"
    }  # fmt: skip
    assert set(before) - set(after) == set()
    assert after["src/corner_shop/__init__.py"].endswith(b"# Second version of corner_shop.\n")
    assert after["src/corner_shop/second.py"] == b'"""What is new in corner_shop?"""\n'
    assert after["data/raw/sales.csv"].decode() == ROWS
    assert git(project, "log", "--format=%s") == "Mine\nStart from cookiecutter-fullmarks 0.1.0\n"


def test_an_updated_project_is_what_the_later_version_would_have_made(project: Path, versions: Path, tmp_path: Path) -> None:
    cruft(project, "update", "--skip-apply-ask", "--checkout", "v2")
    (tmp_path / "sales.csv").write_text(ROWS)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    cruft(
        fresh, "create", str(versions), "--checkout", "v2", "--no-input",
        "--extra-context", json.dumps(OWN | {"dataset": str(tmp_path / "sales.csv")}),
    )  # fmt: skip
    users = {"contract.yaml", "params.yaml", "README.md", ".cruft.json", "docs/second.md", "reports/metrics.json", "uv.lock"}
    names = files_of(fresh / "corner-shop") - users
    assert files_of(project) - users == names
    assert [name for name in names if (project / name).read_bytes() != (fresh / "corner-shop" / name).read_bytes()] == []


def test_a_project_that_was_not_changed_shows_no_difference(project: Path) -> None:
    assert cruft(project, "diff", "--exit-code", "--checkout", "v1") == "" or cruft_says_only_that_it_rendered(project)
    assert "up to date" in cruft(project, "check", "--checkout", "v1")


def cruft_says_only_that_it_rendered(project: Path) -> bool:
    said = cruft(project, "diff", "--exit-code", "--checkout", "v1").splitlines()
    return [line for line in said if not line.startswith("fullmarks: rendered once more for cruft")] == []


def test_an_update_keeps_a_line_and_a_test_of_the_users_beside_what_it_brings(project: Path) -> None:
    stack = project / "src/corner_shop/stack.py"
    stack.write_text(stack.read_text() + "\nMINE = 1\n")
    own = project / "tests/test_mine.py"
    own.write_text("from corner_shop.stack import MINE\n\n\ndef test_mine() -> None:\n    assert MINE == 1\n")
    workflow = project / ".github/workflows/ci.yml"
    workflow.write_text(workflow.read_text().replace("timeout-minutes: 60", "timeout-minutes: 90", 1))
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "A line, a test and a limit of mine")
    kept = {
        path: path.read_bytes()
        for path in (stack, own, *(project / name for name in ("contract.yaml", "params.yaml", "README.md")))
    }
    cruft(project, "update", "--skip-apply-ask", "--checkout", "v2")
    assert {path: path.read_bytes() for path in kept} == kept
    both = workflow.read_text()
    assert "timeout-minutes: 90" in both
    assert both.endswith("# Second version.\n")
    assert not list(project.rglob("*.rej"))


def test_a_line_that_both_changed_keeps_the_users_and_shows_the_templates_beside(project: Path) -> None:
    package = project / "src/corner_shop/__init__.py"
    package.write_text(package.read_text() + "MINE = 1\n")  # where the second version adds a line, too
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "A line of mine")
    cruft(project, "update", "--skip-apply-ask", "--checkout", "v2")
    shown = conflict(project, package)
    assert "MINE = 1" in package.read_text()
    assert "# Second version of corner_shop." in shown
    assert (project / ".github/workflows/ci.yml").read_text().endswith("# Second version.\n")


def conflict(project: Path, path: Path) -> str:
    """Give the file that shows a conflict: git's markers in it, else a rejected change beside it."""
    rejected = path.with_name(f"{path.name}.rej")
    if rejected.exists():
        return rejected.read_text()
    assert git(project, "diff", "--name-only", "--diff-filter=U").split() == [str(path.relative_to(project))]
    assert "<<<<<<< " in path.read_text()
    return path.read_text()


def test_an_update_of_the_example_works_as_well(versions: Path, tmp_path: Path) -> None:
    cruft(tmp_path, "create", str(versions), "--checkout", "v1", "--no-input")
    made = tmp_path / "flight-delays"
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message", "Follow the template")
    cruft(made, "update", "--skip-apply-ask", "--checkout", "v2")
    assert (made / "src/flight_delays/second.py").is_file()
    assert not (made / "docs/second.md").exists()


def test_nothing_is_left_in_the_temporary_folder_and_no_data_is_copied_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    shutil.rmtree(project / "data")
    cruft(project, "update", "--skip-apply-ask", "--checkout", "v2")
    assert not (project / "data").exists()
    # cookiecutter leaves the rendered hooks there, and nothing else
    assert [path.name for path in temporary.iterdir() if path.suffix != ".py"] == []
