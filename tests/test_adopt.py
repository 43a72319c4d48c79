"""Does CI come into an existing repository beside what is there, and does it run there?"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from bakery import PAYLOAD, constant, files_of, git, run_cookiecutter
from projects import Made, clone, commit, ok

CHOICES = constant("post_gen_project.py", "CHOICES")["ci"]
PROVIDERS = [name for name in CHOICES if name != "none"]
CALLED = re.compile(r"\bmake((?: +[a-z]+\b(?!=))+)")
SCIENCE = {  # the layout of a data scientist: requirements, a package, a Makefile whose help reads MAKEFILE_LIST
    "Makefile": """\
PYTHON_INTERPRETER = python

.PHONY: requirements lint test data
## Install Python dependencies
requirements:
	$(PYTHON_INTERPRETER) -m pip install -r requirements.txt

## Lint
lint:
	ruff check shop

## Run tests
test:
	@echo "this is our own test"
	$(PYTHON_INTERPRETER) -m pytest tests

## Make the data set
data: requirements
	$(PYTHON_INTERPRETER) shop/dataset.py

.DEFAULT_GOAL := help
help:
	@grep -c '^## ' $(MAKEFILE_LIST)
""",
    "requirements.txt": "-e .\npytest\nruff\n",
    "pyproject.toml": '[build-system]\nrequires = ["flit_core >=3.2,<4"]\nbuild-backend = "flit_core.buildapi"\n\n[project]\n'
    'name = "shop"\nversion = "0.0.1"\ndescription = "A shop."\nrequires-python = "~=3.11.0"\n\n[tool.ruff]\nline-length = 99\n',
    "README.md": "# Shop\n",
    ".gitignore": "# Byte-compiled\n__pycache__/\n*.egg-info/\n",
    "setup.cfg": "[flake8]\nmax-line-length = 99\n",
    "shop/__init__.py": "",
    "shop/dataset.py": '"""Makes the data set."""\n',
    "tests/test_data.py": "import shop\n\n\ndef test_it_is_there() -> None:\n    assert shop.__name__ == 'shop'\n",
    "data/raw/.gitkeep": "",
    "notebooks/.gitkeep": "",
    ".github/ISSUE_TEMPLATE.md": "What is wrong?\n",
}

Adopt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def adopt(template: Path) -> Adopt:
    """Run the command in a repository, as its owner does."""

    def _adopt(where: Made, *answers: str) -> subprocess.CompletedProcess[str]:
        return run_cookiecutter(where.path, str(template), "--directory=adopt", "--no-input", *answers)

    return _adopt


def repository(folder: Path, files: dict[str, str]) -> Made:
    """Commit files to a repository of their own."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(Made(folder), "Begin")
    return Made(folder)


@pytest.fixture
def science(tmp_path: Path) -> Made:
    """Make a data scientist's repository."""
    return repository(tmp_path / "shop", SCIENCE)


def hashes(made: Made) -> dict[str, str]:
    """Give the hash of each file."""
    return {name: hashlib.sha256((made.path / name).read_bytes()).hexdigest() for name in files_of(made.path)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Name the files that are gone or are not what they were."""
    return {name for name in before if after.get(name) != before[name]}


# What comes


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_provider_brings_its_files_and_no_others(science: Made, adopt: Adopt, provider: str) -> None:
    before = hashes(science)
    printed = ok(adopt(science, f"ci={provider}"))
    after = hashes(science)
    assert changed(before, after) == set()
    brought = after.keys() - before.keys() - {"GNUmakefile"}
    assert brought
    assert provider != "github" or "left out    .github/workflows/schedule.yml" in printed
    for name in brought:
        assert f"brought     {name}\n" in printed
        assert [other for other in CHOICES if any(f"{name}/".startswith(f"{top}/") for top in CHOICES[other])] == [provider], name
        assert "cron(" not in (science.path / name).read_text()  # what would start by itself and find nothing to run


def test_what_the_template_writes_over_would_be_seen(science: Made, adopt: Adopt) -> None:
    before = hashes(science)
    ok(adopt(science))
    (science.path / "setup.cfg").write_text("another\n")
    (science.path / "README.md").unlink()
    assert changed(before, hashes(science)) == {"setup.cfg", "README.md"}


def test_only_the_missing_targets_are_added_and_the_others_keep_their_meaning(science: Made, adopt: Adopt) -> None:
    helped = ok(science.make())
    assert "brought     GNUmakefile  # adds tools identity setup check\n" in ok(adopt(science))
    added = (science.path / "GNUmakefile").read_text()
    assert set(re.findall(r"^([a-z]+):  ?##|^([a-z]+): lint", added, re.MULTILINE)) == {
        ("tools", ""), ("identity", ""), ("setup", ""), ("", "check"),
    }  # fmt: skip
    for name in ("test", "lint", "data"):
        assert ok(science.make("--dry-run", name)) == ok(science.make("--dry-run", "--makefile=Makefile", name))
    assert ok(science.make()) == helped  # the default goal, and what it reads in MAKEFILE_LIST


def test_a_file_of_the_same_name_is_left_alone_and_named(science: Made, adopt: Adopt) -> None:
    own = science.path / ".github/workflows/ci.yml"
    own.parent.mkdir()
    own.write_text("name: Mine\n")
    printed = ok(adopt(science))
    assert own.read_text() == "name: Mine\n"
    assert "left alone  .github/workflows/ci.yml  # is yours: move it away and come again" in printed


def test_a_second_time_brings_nothing(science: Made, adopt: Adopt) -> None:
    ok(adopt(science))
    before = hashes(science)
    printed = ok(adopt(science))
    assert "  brought " not in printed
    assert "GNUmakefile  # has every target that CI calls" in printed
    assert hashes(science) == before


def test_a_gnumakefile_is_told_to_include_what_it_lacks(tmp_path: Path, adopt: Adopt) -> None:
    made = repository(tmp_path / "made", {"GNUmakefile": "test:\n\ttrue\n"})
    assert "add the line `include ci.mk` to GNUmakefile" in ok(adopt(made))
    with (made.path / "GNUmakefile").open("a") as file:
        file.write("include ci.mk\n")
    ok(made.make("--dry-run", "tools", "identity", "setup", "check", "test"))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_ci_file_calls_a_target_that_would_be_missing(tmp_path: Path, adopt: Adopt, provider: str) -> None:
    made = repository(tmp_path / "made", {"dvc.yaml": "stages: {}\n", "Dockerfile": "FROM scratch\n"})
    ok(adopt(made, f"ci={provider}"))
    names = [name for name in files_of(made.path) if name.endswith((".yml", "Jenkinsfile"))]
    code = "".join(re.sub(r"(^|\s)(#|//).*", "", (made.path / name).read_text(), flags=re.MULTILINE) for name in names)
    called = {word for words in CALLED.findall(code) for word in words.split()}
    assert {"tools", "setup", "check", "test", "pipeline", "deploy"} <= called
    ours = {"dependencies", "retrain", "propose"}  # run when somebody schedules them, which a generated project explains
    ok(made.make("--dry-run", *sorted(called - ours)))
    assert made.make("--dry-run", "retrain").returncode != 0  # a missing one is seen


def test_what_needs_dvc_or_docker_comes_only_where_there_is_something(tmp_path: Path, adopt: Adopt) -> None:
    plain = repository(tmp_path / "plain", {"shop.py": ""})
    ok(adopt(plain))
    assert plain.make("--dry-run", "pipeline").returncode != 0
    assert plain.make("--dry-run", "image").returncode != 0
    staged = repository(tmp_path / "staged", {"dvc.yaml": "stages: {}\n", "Dockerfile": "FROM scratch\n"})
    ok(adopt(staged))
    assert "dvc repro" in ok(staged.make("--dry-run", "pipeline"))
    assert "docker build --tag staged:" in ok(staged.make("--dry-run", "image"))
    assert "nothing is done here yet" in staged.make("deploy").stderr
    assert staged.make("deploy").returncode != 0


@pytest.mark.parametrize(("requires", "python"), [(">=3.12", "3.12"), ("<3.14,>=3.12", "3.12"), ("==3.13.*", "3.13")])
def test_ci_runs_the_repositorys_python_on_its_branch(tmp_path: Path, adopt: Adopt, requires: str, python: str) -> None:
    made = repository(tmp_path / "made", {"pyproject.toml": f'[project]\nname = "made"\nrequires-python = "{requires}"\n'})
    git(made.path, "branch", "--move", "trunk")
    ok(adopt(made, "ci=travis"))
    said = yaml.safe_load((made.path / ".travis.yml").read_text())
    assert said["python"] == python
    assert said["if"] == "branch = trunk OR tag IS present"


# What is refused


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Give the one line that says why."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("fullmarks: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_outside_of_a_repository_one_line_says_so_and_nothing_stays(tmp_path: Path, adopt: Adopt) -> None:
    (tmp_path / "plain").mkdir()
    assert "is in no git repository: go to one, or make one with `git init`" in refused(adopt(Made(tmp_path / "plain")))
    assert list((tmp_path / "plain").iterdir()) == []


def test_below_a_repositorys_root_nothing_is_brought(science: Made, adopt: Adopt) -> None:
    before = hashes(science)
    assert "go to its root" in refused(adopt(Made(science.path / "shop")))
    assert hashes(science) == before


def test_a_makefile_that_make_cannot_read_is_named(tmp_path: Path, adopt: Adopt) -> None:
    made = repository(tmp_path / "made", {"Makefile": "test:\n    echo spaces\n"})
    before = hashes(made)
    assert "Makefile: make cannot read it" in refused(adopt(made))
    assert hashes(made) == before


def test_nothing_is_written_through_a_link_that_leads_out(science: Made, tmp_path: Path, adopt: Adopt) -> None:
    (tmp_path / "outside").mkdir()
    (science.path / ".github/workflows").symlink_to(tmp_path / "outside")
    printed = ok(adopt(science))
    assert "left alone  .github/workflows/ci.yml  # .github/workflows is no folder of this repository" in printed
    assert list((tmp_path / "outside").iterdir()) == []


def test_what_is_half_written_is_taken_back(science: Made, template: Path) -> None:
    before = hashes(science)
    command = [sys.executable, "-m", "cookiecutter", str(template), "--directory=adopt", "--no-input"]
    full = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command]  # the workflow is larger than 4 KiB
    done = science.run(*full)
    assert "cannot be written (File too large): nothing was changed" in refused(done)
    assert hashes(science) == before
    assert not (science.path / ".github/workflows").exists()


# What runs


def steps_of(made: Made) -> list[str]:
    """Give the commands of the first job of GitHub's."""
    jobs = yaml.safe_load((made.path / ".github/workflows/ci.yml").read_text())["jobs"]
    return [step["run"] for step in next(iter(jobs.values()))["steps"] if "run" in step]


def run_in_fresh_clone(made: Made, tmp_path: Path) -> None:
    """Run what GitHub would on the first push."""
    commit(made, "Let GitHub run the checks")
    copy = clone(made, tmp_path)
    steps = steps_of(copy)
    assert steps[-3:] == ["make setup", "make check", "make test"]
    for step in steps:
        environment = os.environ | {"CI": "true", "GITHUB_OUTPUT": str(tmp_path / "output")}
        ok(
            subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", step],
                cwd=copy.path, env=environment, capture_output=True, text=True, check=False,
            )
        )  # fmt: skip
    assert copy.changed <= {"uv.lock"}


@pytest.mark.slow
def test_a_bare_package_of_uvs_is_green_at_once_and_in_a_fresh_clone(tmp_path: Path, adopt: Adopt) -> None:
    subprocess.run(["uv", "init", "--quiet", "--package", "bare"], cwd=tmp_path, check=True)
    made = Made(tmp_path / "bare")
    (made.path / "tests").mkdir()
    test = made.path / "tests/test_bare.py"
    test.write_text("import bare\n\n\ndef test_it_is_there() -> None:\n    assert bare.__name__ == 'bare'\n")
    commit(made, "Begin")
    before = hashes(made)
    ok(adopt(made))
    assert changed(before, hashes(made)) == set()
    assert "1 passed" in ok(made.make("setup", "check", "test"))
    run_in_fresh_clone(made, tmp_path)

    test.write_text("import os\n\n\ndef test_fails() -> None:\n    raise AssertionError\n")
    assert "imported but unused" in made.make("check").stdout
    assert made.make("check").returncode != 0
    assert made.make("test").returncode != 0


@pytest.mark.slow
def test_a_data_scientists_repository_is_green_at_once_and_in_a_fresh_clone(science: Made, tmp_path: Path, adopt: Adopt) -> None:
    ok(adopt(science))
    printed = ok(science.make("setup", "check", "test"))
    assert "this is our own test" in printed
    assert "1 passed" in printed
    git(science.path, "add", ".github", "GNUmakefile")
    run_in_fresh_clone(science, tmp_path)


@pytest.mark.slow
def test_the_whole_template_comes_in_by_a_merge_that_shows_what_both_have(template: Path, science: Made, tmp_path: Path) -> None:
    """Do what README.md says, with its words."""
    (tmp_path / "customers.csv").write_text("size,colour,churned\n" + "1,r,no\n2,g,no\n3,r,yes\n4,b,yes\n" * 150)
    text = (PAYLOAD.parent / "README.md").read_text(encoding="utf-8")
    (begin,) = re.findall(r"```\n(cruft create .*?)```", text, re.DOTALL)
    begin = begin.replace("gh:your-organisation/cookiecutter-fullmarks", str(template)).replace("../new", str(tmp_path / "new"))
    begin = begin.replace("customers.csv", str(tmp_path / "customers.csv"))
    before = hashes(science)
    someone = {f"GIT_{role}_{what}": "me@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where cruft is
    said = subprocess.run(
        ["bash", "-ec", begin], cwd=science.path, env=os.environ | someone | {"PATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode != 0, said.stdout
    assert "Automatic merge failed; fix conflicts" in said.stdout, said.stdout + said.stderr
    both = set(git(science.path, "diff", "--name-only", "--diff-filter=U").split())
    assert both == {".gitignore", "Makefile", "README.md", "pyproject.toml"}
    assert changed(before, hashes(science)) == both
    for name in both:
        shown = (science.path / name).read_text(encoding="utf-8")
        assert SCIENCE[name].splitlines()[0] in shown
        assert "<<<<<<< HEAD" in shown

    git(science.path, "checkout", "--theirs", *both)
    project = science.path / "pyproject.toml"
    project.write_text(project.read_text().replace('["src/shop_model"]', '["src/shop_model", "shop"]'))  # what was its own
    commit(science, "Bring the template in")
    (finish,) = re.findall(r"```\n(cp .*?)```", text, re.DOTALL)
    told = finish.replace("../new", str(tmp_path / "new"))
    ok(science.run("bash", "-ec", told))
    commit(science, "Lock the environment")
    ok(science.make("pipeline"))
    few = "tests/test_data.py tests/data/test_schema.py"
    assert " passed" in ok(science.make("test", PYTEST_ADDOPTS=few))
    linked = json.loads((science.path / ".cruft.json").read_text(encoding="utf-8"))
    assert linked["context"]["cookiecutter"]["package_name"] == "shop_model"


def test_the_template_may_be_given_as_an_address_or_a_path_from_here(template: Path, science: Made) -> None:
    done = run_cookiecutter(science.path, f"git+{template.as_uri()}", "--directory=adopt", "--no-input", "ci=gitlab")
    assert "brought     .gitlab-ci.yml" in ok(done)
    relative = os.path.relpath(template, science.path)
    assert "brought     Jenkinsfile" in ok(
        run_cookiecutter(science.path, relative, "--directory=adopt", "--no-input", "ci=jenkins")
    )


def test_the_choices_are_the_templates_own() -> None:
    questions = json.loads((PAYLOAD.parent / "adopt/cookiecutter.json").read_text())
    assert questions["ci"] == PROVIDERS
