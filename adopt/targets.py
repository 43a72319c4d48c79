"""What does `make` lack of what CI calls? Gives each missing target a recipe that fits the repository."""

import re
from collections.abc import Iterable, Mapping

from found import Repository

UV = (
    "@command -v uv >/dev/null || { python3 -m venv .uv && echo '*' > .uv/.gitignore && "
    ".uv/bin/pip install --quiet --disable-pip-version-check uv; }"
)
DOCKER = (
    '@[ -z "$$DOCKER_HOST" ] || command -v docker >/dev/null || '
    "{ apt-get update -qq && apt-get install -qq --yes --no-install-recommends docker-cli docker-buildx; }"
)
LENT = ("identity", "login")  # which stand in the payload's Makefile as any repository can use them
LATER = {"deploy", "image", "pipeline", "promote"}  # that must not seem done


def called(files: Mapping[str, str]) -> list[str]:
    """List the targets that the files of CI call, in their order."""
    names: dict[str, None] = {}
    for path, text in files.items():
        if path.endswith((".yml", ".yaml", "Jenkinsfile")):
            code = re.sub(r"(^|\s)(#|//).*", "", text, flags=re.MULTILINE)
            for words in re.findall(r"\bmake((?: +[a-z][a-z-]*\b(?!=))+)", code):
                names |= dict.fromkeys(words.split())
    return list(names)


def blocks(makefile: str) -> dict[str, str]:
    """Take a Makefile of ours apart: the rule of each target."""
    found = re.finditer(r"^([a-z][a-z-]*):.*\n(?:\t.*\n)*", makefile, flags=re.MULTILINE)
    return {rule[1]: rule[0] for rule in found}


def missing(repository: Repository, wanted: Iterable[str], lent: str, day: str) -> dict[str, str]:
    """Give each target that the repository lacks its rule, or none where there is nothing to do yet."""
    rules = rules_for(repository, day) | {name: rule for name, rule in blocks(lent).items() if name in LENT}
    if "identity" in rules:
        rules["identity"] += "\t@echo '*' > .secrets/.gitignore\n"
    extra = [name for name in ("pipeline", "image") if name in rules]
    lacking = [name for name in dict.fromkeys([*wanted, *extra]) if name not in repository.targets]
    return {name: rules.get(name, "") for name in lacking}


def rules_for(repository: Repository, day: str) -> dict[str, str]:
    """Say how this repository is set up, checked, tested, run and packed."""
    steps = {
        "tools": ("Install what CI needs beside Python", [DOCKER if repository.has("Dockerfile") else "@:"]),
        "setup": ("Install the environment, .venv", [UV, *setup(repository)]),
        "check": ("Check the code; changes nothing", check(repository, day)),
        "test": ("Run the tests", test(repository)),
    }
    if repository.has("dvc.yaml"):
        dvc = run(repository, "dvc")
        base = '$$(git rev-parse --verify --quiet "$(or $(BASE),HEAD~1)^{commit}" || echo HEAD)'  # a new branch has none
        steps["pipeline"] = ("Run the stages whose inputs changed", [f"{dvc} repro"])
        steps["compare"] = (
            "Show what a change does to the metrics (BASE=origin/main): reports/comparison.md",
            ["mkdir -p reports", f"{dvc} metrics diff --md {base} > reports/comparison.md", "@cat reports/comparison.md"],
        )
    if repository.has("Dockerfile"):
        name = re.sub(r"[^a-z0-9._-]+", "-", repository.path.name.lower()).strip("-._") or "image"
        steps["image"] = ("Build the image", [f"docker build --tag {name}:$$(git rev-parse --short=12 HEAD) ."])
    return {
        name: rule(name, why, recipe) if recipe != ["lint"] else f"{name}: lint  ## {why}\n"
        for name, (why, recipe) in steps.items()
    }


def setup(repository: Repository) -> list[str]:
    """Say how the environment is made."""
    if repository.manager == "uv":
        return [" ".join(["uv sync", *(f"--extra {name}" for name in repository.extras)])]
    packages = [f"--requirement {name}" for name in repository.requirements]
    if repository.has("setup.py") or (repository.has("pyproject.toml") and not repository.requirements):
        packages.append("--editable .")
    packages += [tool for tool in tools(repository) if not repository.installs(tool)]
    return ["uv venv --quiet --allow-existing", f"uv pip install --quiet --python .venv {' '.join(packages)}"]


def tools(repository: Repository) -> list[str]:
    """Name what the recipes run in the environment."""
    wanted = {
        "pytest": "test" not in repository.targets,
        "mypy": "lint" not in repository.targets and repository.configures("mypy", "mypy.ini", ".mypy.ini"),
        "ruff": "lint" in repository.targets and repository.configures("ruff", "ruff.toml", ".ruff.toml"),
        "dvc": repository.has("dvc.yaml"),
    }
    return [tool for tool, is_wanted in wanted.items() if is_wanted]


def run(repository: Repository, tool: str) -> str:
    """Say how a tool is run in the environment, which may hold it or not."""
    if repository.manager != "uv":
        return tool
    return f"uv run {tool}" if repository.installs(tool) else f"uv run --with {tool} {tool}"


def check(repository: Repository, day: str) -> list[str]:
    """Say how code is checked: as the repository does, or by ruff."""
    if "lint" in repository.targets:
        return ["lint"]
    ruff = f"uvx --exclude-newer {day} ruff"  # the same ruff tomorrow
    if repository.installs("ruff"):
        ruff = run(repository, "ruff")
    commands = [f"{ruff} check ."]
    if repository.configures("ruff", "ruff.toml", ".ruff.toml"):
        commands.insert(0, f"{ruff} format --check .")
    if repository.configures("mypy", "mypy.ini", ".mypy.ini"):
        says_where = re.search(r"^(files|packages|modules)\s*=", repository.text("pyproject.toml") + repository.text("mypy.ini"), re.M)
        commands.append(" ".join([run(repository, "mypy"), *(() if says_where else repository.packages or (".",))]))
    return commands


def test(repository: Repository) -> list[str]:
    """Say how tests are run; where there are none yet, that what is installed can be imported."""
    pytest = run(repository, "pytest")
    if repository.tests:
        return [pytest]
    python = "uv run python" if repository.manager == "uv" else "python"
    imports = [f"{python} -c 'import {name.rpartition('/')[2]}'" for name in repository.packages]
    return [*imports, f'{pytest} || {{ [ $$? -eq 5 ] && echo "no tests yet: pytest looks for tests/test_*.py"; }}']


def nothing_yet(names: list[str]) -> list[str]:
    """Let CI go on where a step is not there yet, and stop where somebody would believe that it was done."""
    line = '@echo "make $@: nothing is done here yet; give it a recipe of its own"'
    kinds = {
        f"{line}\n": [name for name in names if name not in LATER],
        f"{line} >&2; exit 1\n": [name for name in names if name in LATER],
    }
    said = "# CI calls these too, at its later steps.\n"
    return [f"{said}{' '.join(some)}:\n\t{recipe}" for recipe, some in kinds.items() if some]


def rule(name: str, why: str, recipe: list[str]) -> str:
    """Write a rule."""
    return f"{name}:  ## {why}\n" + "".join(f"\t{line}\n" for line in recipe)


def makefile(repository: Repository, rules: dict[str, str]) -> tuple[str, str]:
    """Write the file that adds the rules, and say which; the repository's own stays as it is."""
    head, name = "# What is done here, by people and by CI alike; `make` alone lists it.\n.DEFAULT_GOAL := help\n", "Makefile"
    tail = "help:  ## Show this list\n\t@awk 'BEGIN {FS = \":.*## \"} /^[a-z-]+:.*## / {printf \"  make %-12s %s\\n\", $$1, $$2}' Makefile\n"
    names = [*rules, "help"]
    if repository.makefile:
        own = repository.makefile
        head, tail, names = joined(own), "", list(rules)
        name = "ci.mk" if own == "GNUmakefile" else "GNUmakefile"
    used = [name for name in ("setup", "check", "test", "pipeline", "compare") if name in {*rules, *repository.targets}]
    path = f"{' '.join(used)}: export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.uv/bin\n" if used else ""
    shell = "".join(f"{name}: SHELL := /bin/bash\n" for name in LENT if name in rules)
    parts = [*filter(None, rules.values()), *nothing_yet([name for name, text in rules.items() if not text]), tail]
    return name, "\n".join([head + f".PHONY: {' '.join(names)}\n" + path + shell, *parts]).rstrip("\n") + "\n"


def joined(own: str) -> str:
    """Begin a file that GNU make reads in the place of the repository's own, and which reads that."""
    if own == "GNUmakefile":
        return "# What CI calls and GNUmakefile lacks; a line `include ci.mk` there brings it in.\n"
    return (
        f"# GNU make reads this file first: it includes {own}, unchanged, and adds only what CI calls and {own} lacks.\n"
        f"MAKEFILE_LIST :=\ninclude {own}\n"
    )
