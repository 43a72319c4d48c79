"""What does `make` lack of what CI calls? Gives each missing target a recipe that fits the repository."""

import re
from pathlib import Path

from found import Repository

UV = (
    "@command -v uv >/dev/null || { python3 -m venv .uv && echo '*' > .uv/.gitignore && "
    ".uv/bin/pip install --quiet --disable-pip-version-check uv; }"
)
DOCKER = (
    '@[ -z "$$DOCKER_HOST" ] || command -v docker >/dev/null || '
    "{ apt-get update -qq && apt-get install -qq --yes --no-install-recommends docker-cli docker-buildx; }"
)
NOTHING_YET = '@echo "make $@: nothing is done here yet; give it a recipe of its own"'
BASE = '$$(git rev-parse --verify --quiet "$(or $(BASE),HEAD~1)^{commit}" || echo HEAD)'  # a new branch has none
HELP = """\
help:  ## Show this list
\t@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\\n", $$1, $$2}' Makefile
"""


def lacking(repository: Repository, payload: Path) -> dict[str, str]:
    """Give each target that CI calls and the repository lacks its rule."""
    makefile = (payload / "Makefile").read_text(encoding="utf-8")
    day = re.findall(r'^exclude-newer = "([\d-]+)', (payload / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    rules = {
        "tools": rule("tools", "Install what CI needs beside Python", [DOCKER if repository.has("Dockerfile") else "@:"]),
        "identity": lent(makefile, "identity") + "\t@echo '*' > .secrets/.gitignore\n",
        "setup": rule("setup", "Install the environment, .venv", [UV, *setup(repository)]),
        "check": rule("check", "Check the code; changes nothing", check(repository, day)),
        "test": rule("test", "Run the tests", test(repository)),
    }
    if repository.has("dvc.yaml"):
        dvc = run(repository, "dvc")
        compare = ["mkdir -p reports", f"{dvc} metrics diff --md {BASE} > reports/comparison.md", "@cat reports/comparison.md"]
        rules |= {
            "pipeline": rule("pipeline", "Run the stages whose inputs changed", [f"{dvc} repro"]),
            "register": rule("register", "Register the model", [NOTHING_YET]),
            "score": rule("score", "Score the model", [NOTHING_YET]),
            "compare": rule("compare", "Show what a change does to the metrics (BASE=origin/main)", compare),
            "comment": rule("comment", "Write that under the pull request", [NOTHING_YET]),
        }
    if repository.has("Dockerfile"):
        name = re.sub(r"[^a-z0-9._-]+", "-", repository.path.name.lower()).strip("-._") or "image"
        stop = f"{NOTHING_YET} >&2; exit 1"  # it must not seem done
        rules |= {
            "image": rule("image", "Build the image", [f"docker build --tag {name}:$$(git rev-parse --short=12 HEAD) ."]),
            "login": lent(makefile, "login"),
            "promote": rule("promote", "Give the image to a tier", [stop]),
            "deploy": rule("deploy", "Start the image in a tier", [stop]),
        }
    return {name: text for name, text in rules.items() if name not in repository.targets}


def rule(name: str, why: str, recipe: list[str]) -> str:
    """Write a rule."""
    if recipe == ["lint"]:
        return f"{name}: lint  ## {why}\n"
    return f"{name}:  ## {why}\n" + "".join(f"\t{line}\n" for line in recipe)


def lent(makefile: str, name: str) -> str:
    """Take a rule of the payload's that serves any repository as it stands; its recipe is written for bash."""
    found = re.search(rf"^{name}:.*\n(?:\t.*\n)+", makefile + "\n", flags=re.MULTILINE)
    if not found:
        raise LookupError(f"the payload's Makefile has no rule {name}")
    return f"{name}: SHELL := /bin/bash\n{found[0]}"


def setup(repository: Repository) -> list[str]:
    """Say how the environment is made."""
    if repository.manager == "uv":
        return [" ".join(["uv sync", *(f"--extra {name}" for name in repository.extras)])]
    packages = [f"--requirement {name}" for name in repository.requirements]
    if repository.has("setup.py") or (repository.has("pyproject.toml") and not repository.requirements):
        packages.append("--editable .")
    used = {
        "pytest": "test" not in repository.targets,
        "mypy": "lint" not in repository.targets and repository.configures("mypy", "mypy.ini", ".mypy.ini"),
        "ruff": "lint" in repository.targets and repository.configures("ruff", "ruff.toml", ".ruff.toml"),
        "dvc": repository.has("dvc.yaml"),
    }
    packages += [tool for tool, is_used in used.items() if is_used and not repository.installs(tool)]
    return [
        "uv venv --quiet --allow-existing",
        *([f"uv pip install --quiet --python .venv {' '.join(packages)}"] if packages else []),
    ]


def run(repository: Repository, tool: str) -> str:
    """Say how a tool is run in the environment, which may hold it or not."""
    if repository.manager != "uv":
        return tool
    return f"uv run {tool}" if repository.installs(tool) else f"uv run --with {tool} {tool}"


def check(repository: Repository, day: str) -> list[str]:
    """Say how code is checked: as the repository does, or by ruff, the same one tomorrow."""
    if "lint" in repository.targets:
        return ["lint"]
    ruff = run(repository, "ruff") if repository.installs("ruff") else f"uvx --exclude-newer {day} ruff"
    if repository.configures("ruff", "ruff.toml", ".ruff.toml"):
        commands = [f"{ruff} format --check .", f"{ruff} check ."]
    else:
        commands = [f"{ruff} check --select E9,F ."]  # what is wrong in any style
    if repository.configures("mypy", "mypy.ini", ".mypy.ini"):
        said = repository.text("pyproject.toml") + repository.text("mypy.ini") + repository.text(".mypy.ini")
        says_where = re.search(r"^(files|packages|modules)\s*=", said, re.MULTILINE)
        commands.append(" ".join([run(repository, "mypy"), *(() if says_where else repository.packages or (".",))]))
    return commands


def test(repository: Repository) -> list[str]:
    """Say how tests are run; where there are none yet, that what is installed can be imported."""
    pytest = run(repository, "pytest")
    if repository.tests:
        return [pytest]
    python = "uv run python" if repository.manager == "uv" else "python"
    imports = [f"{python} -c 'import {name.rpartition('/')[2]}'" for name in repository.packages]
    return [*imports, '@echo "no tests yet: write tests/test_*.py, and let `make test` run ' + pytest + '"']


def file_for(repository: Repository) -> str:
    """Name the file that adds rules: GNU make reads a GNUmakefile before any other."""
    return {"": "Makefile", "GNUmakefile": "ci.mk"}.get(repository.makefile, "GNUmakefile")


def makefile(repository: Repository, rules: dict[str, str]) -> str:
    """Write the file that adds the rules; the repository's own stays as it is."""
    own, tail, names = repository.makefile, "", list(rules)
    if not own:
        head, tail = "# What is done here, by people and by CI alike; `make` alone lists it.\n.DEFAULT_GOAL := help\n", HELP
        names.append("help")
    elif own == "GNUmakefile":
        head = "# What CI calls and GNUmakefile lacks; a line `include ci.mk` there brings it in.\n"
    else:
        head = f"# GNU make reads this file first: it includes {own}, unchanged, and adds only what CI calls and {own} lacks.\n"
        head += f"MAKEFILE_LIST :=\ninclude {own}\n"  # whose own list may be read from MAKEFILE_LIST
    used = [name for name in ("setup", "check", "test", "pipeline", "compare") if name in rules or name in repository.targets]
    path = f"{' '.join(used)}: export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.uv/bin\n" if used else ""
    return "\n".join([head + f".PHONY: {' '.join(names)}\n" + path, *rules.values(), tail]).rstrip("\n") + "\n"
