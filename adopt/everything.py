"""What is the whole project, for a repository that has a name, a package and a Python already?"""

import json
import logging
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cookiecutter.config import get_user_config
from cookiecutter.exceptions import FailedHookException
from cookiecutter.generate import generate_context
from cookiecutter.main import cookiecutter
from cookiecutter.prompt import prompt_for_config
from found import RefusedError, Repository
from laying import File, read
from slugify import slugify

GROUP = re.compile(r"^([a-z-]+) = \[(.*?)^\]|^([a-z-]+) = \[(.*)\]", re.MULTILINE | re.DOTALL)


def answer(repository: Repository, answers: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """Answer the template's questions: as typed, else from the repository, else by asking."""
    questions = Path(typed["template"], "cookiecutter.json")
    known = json.loads(questions.read_text(encoding="utf-8"))
    given = {name: value for name, value in typed["answers"].items() if name != "part"}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise RefusedError(f"{unknown[0]}: is no question: there are {', '.join(name for name in known if name[0] != '_')}")
    if given.get("dataset") and (repository.path / given["dataset"]).exists():
        given["dataset"] = str(repository.path / given["dataset"])
    for name, choices in known.items():
        if name in given and isinstance(choices, list) and name[0] != "_" and given[name] not in choices:
            raise RefusedError(f"{name}: {given[name]!r} is no choice: use {', '.join(choices)}")
    asked = generate_context(
        context_file=str(questions),
        default_context=get_user_config(os.environ.get("COOKIECUTTER_CONFIG"))["default_context"],
        extra_context=names(repository, known) | {"ci": answers["ci"]} | given,
    )
    return dict(prompt_for_config(asked, no_input=not typed["ask"]))


def names(repository: Repository, known: dict[str, Any]) -> dict[str, str]:
    """Take what the repository is called and made with; its own package is not filled up."""
    called = re.search(r"^name\s*=\s*[\"'](.+?)[\"']", repository.text("pyproject.toml"), re.MULTILINE)
    slug = slugify(called[1] if called else repository.path.name, max_length=32, word_boundary=True)
    if not slug[:1].isalpha():
        slug = f"project-{slug}".rstrip("-")
    package = slug.replace("-", "_")
    taken = {path.rpartition("/")[2] for path in repository.packages}
    found = {
        "project_name": slug.replace("-", " ").title(),
        "project_slug": slug,
        "package_name": f"{package}_model" if package in taken else package,
    }
    return found | ({"python_version": repository.python} if repository.python in known["python_version"] else {})


def generate(context: dict[str, Any], typed: dict[str, Any]) -> dict[str, File]:
    """Make the project in a temporary folder, and read it."""
    logging.disable(logging.CRITICAL)  # the hooks say in one line what is wrong
    with tempfile.TemporaryDirectory(prefix="fullmarks-") as folder:
        out = os.dup(1)
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (what comes next is said here, not by the project's own hook)
                os.dup2(nowhere.fileno(), 1)
            project = cookiecutter(typed["template"], no_input=True, extra_context=context, output_dir=folder)
        except FailedHookException:
            raise RefusedError from None
        finally:
            os.dup2(out, 1)
            os.close(out)
        return {name: file for name, file in read(Path(project), [""]).items() if not name.startswith(".git/")}


def cruft_file(context: dict[str, Any], answers: dict[str, Any], typed: dict[str, Any]) -> str:
    """Write down which version this is, as `cruft create` does, so that `cruft update` brings later ones."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", "-C", typed["template"], *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    if not commit or ask("rev-parse", "--show-prefix"):  # no repository, or in another's
        return ""
    local = Path(answers["_template"]).expanduser()
    source = typed["template"] if local.is_dir() else ask("remote", "get-url", "origin")
    linked = {
        "template": source,
        "commit": commit,
        "checkout": answers["_checkout"],
        "context": {"cookiecutter": context | {"_template": source, "_commit": commit}},
        "directory": None,
    }
    return json.dumps(linked, ensure_ascii=False, indent=2, separators=(",", ": ")) + "\n"


def joins_pyproject(repository: Repository, theirs: str, package: str) -> str:
    """Write the commands that add to pyproject.toml what the project needs and it lacks; uv knows how to keep its form."""
    own = repository.text("pyproject.toml")
    before = sorted({place(name) for name in repository.tracked if name.endswith(".py")})
    lacking = []
    for table in re.split(r"(?m)^(?=\[)", theirs):
        name = table.partition("]")[0].lstrip("[")
        top = name if name.startswith("project.") else ".".join(name.split(".")[:2])
        if name in {"project", "dependency-groups"} or re.search(rf"^\[+{re.escape(top)}\b", own, re.MULTILINE):
            continue
        if name == "tool.ruff" and before:
            table = f"{table.rstrip()}\nextend-exclude = {json.dumps(before)}  # from before: take them out once they are ready\n\n"
        if name == "tool.mypy" and before:
            table = f"{table.rstrip()}\nexclude = {json.dumps(['^' + re.escape(path) for path in before])}\n"
        lacking.append(table)
        if name == "build-system":
            lacking.append(f'[tool.hatch.build.targets.wheel]\npackages = ["src/{package}"]\n\n')
    lists = {"": re.search(r"^dependencies = \[(.*?)^\]", theirs, re.MULTILINE | re.DOTALL)[1]}  # type: ignore[index]
    groups = theirs.partition("[dependency-groups]")[2].partition("\n[")[0]
    lists |= {found[1] or found[3]: found[2] or found[4] for found in GROUP.finditer(groups)}
    commands = [
        f"uv add --quiet --frozen {f'--group {name} ' if name else ''}{' '.join(quoted(text))}" for name, text in lists.items()
    ]
    return (
        "# Adds to pyproject.toml what the project needs and it lacks. From the repository's root: sh .fullmarks/pyproject.sh\n"
        "set -e\n"
        "cat >> pyproject.toml <<'TABLES'\n\n" + "".join(lacking).rstrip() + "\nTABLES\n"
        + "PATH=$PATH:$PWD/.venv/bin\n"
        + "command -v uv >/dev/null || { python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check uv; }\n"
        + "\n".join(commands) + "\n"
    )  # fmt: skip


def place(name: str) -> str:
    """Name the folder or file that code from before stands in."""
    parts = Path(name).parts
    return "/".join(parts[: 2 if parts[0] in {"src", "tests"} else 1])


def quoted(text: str) -> list[str]:
    """Take the requirements out of a list, for a shell."""
    return [f"'{word}'" for word in re.findall(r"\"([^\"]+)\"", re.sub(r"#.*", "", text))]
