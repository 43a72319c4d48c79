"""How does CI come into an existing repository? Beside what is there, never over it, and whole or not at all."""

import ast
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import targets
from found import RefusedError, Repository

TEMPLATE = Path(__file__).resolve().parent.parent
PAYLOAD = TEMPLATE / "{{cookiecutter.project_slug}}"
HOOK = TEMPLATE / "hooks" / "post_gen_project.py"
NOT_ALONE = re.compile(r"schedule\.yml|_template")  # retrain on a schedule, or ask reviewers about the contract


def main(provider: str) -> int:
    """Bring the provider's files, or say in one line why not."""
    helper = Path.cwd()
    try:
        adopt(Repository(helper.parent), provider)
    except RefusedError as fault:
        print(f"fullmarks: {fault}", file=sys.stderr)
        return 1
    shutil.rmtree(helper)  # cookiecutter does so only when this has failed
    return 0


def adopt(repository: Repository, provider: str) -> None:
    """Find out what is lacking, bring it, and say so."""
    check(repository)
    names = files_of(provider)
    files = {
        name: fitted((PAYLOAD / name).read_text(encoding="utf-8"), name, repository)
        for name in names
        if not NOT_ALONE.search(name)
    }
    lacking = targets.lacking(repository, PAYLOAD)
    adds = targets.file_for(repository) if lacking else ""
    if adds:
        files[adds] = targets.makefile(repository, lacking)
    there = {name: reason for name in files if (reason := why_left(repository.path, name, files[name]))}
    write(repository.path, {name: text for name, text in files.items() if name not in there})

    print(f"\nfullmarks: found {repository.told()}")
    for name in files:
        note = f"  # adds {' '.join(lacking)}" if name == adds else ""
        print(f"  left alone  {name}  # {there[name]}" if name in there else f"  brought     {name}{note}")
    for name in sorted(set(names) - set(files)):
        print(f"  left out    {name}  # speaks of what only a generated project has")
    if not adds:
        print(f"  left alone  {repository.makefile}  # has every target that CI calls")
    elif adds == "ci.mk":
        print("  next: add the line `include ci.mk` to GNUmakefile, then make setup check test")
        return
    print("  next: make setup check test  # what CI runs on each push; then git add and commit what was brought")


def check(repository: Repository) -> None:
    """Refuse what this cannot be done to."""
    for tool in ("git", "make"):
        if not shutil.which(tool):
            raise RefusedError(f"{tool}: not found on PATH: install it, then come again")
    root = repository.git("rev-parse", "--show-toplevel")
    if not root:
        raise RefusedError(f"{repository.path} is in no git repository: go to one, or make one with `git init`")
    if Path(root).resolve() != repository.path.resolve():
        raise RefusedError(f"{repository.path} is inside the repository {root}: go to its root, where CI looks for its files")


def files_of(provider: str) -> list[str]:
    """List the provider's files, which the template's own hook knows."""
    names = constant("CHOICES")["ci"][provider]
    found = [path for name in names for path in [PAYLOAD / name, *sorted((PAYLOAD / name).rglob("*"))]]
    return [path.relative_to(PAYLOAD).as_posix() for path in found if path.is_file()]


def constant(name: str) -> Any:
    """Read a table out of the template's hook."""
    assigned = [node for node in ast.parse(HOOK.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    return ast.literal_eval(next(node.value for node in assigned if ast.unparse(node.targets[0]) == name))


def fitted(text: str, name: str, repository: Repository) -> str:
    """Put the repository's Python and branch in the place of the payload's, and take out what comes by itself each week."""
    if name in constant("VERSIONED") and repository.python:
        text = re.sub(r"\b3\.11\b", repository.python, text)
    if not repository.requires:
        other = "python-version-file: .python-version" if repository.has(".python-version") else 'python-version: "3.11"'
        text = text.replace("python-version-file: pyproject.toml", other)
    text = re.sub(r"^ *triggers \{ cron\(.*\n", "", text, flags=re.MULTILINE)
    return text if repository.branch == "main" else re.sub(r"\bmain\b", lambda _: repository.branch, text)


def why_left(root: Path, name: str, text: str) -> str:
    """Say why a file cannot come; nothing if it can."""
    path = root / name
    if path.is_file() and path.read_bytes() == text.encode():
        return "is there already, the same"
    if os.path.lexists(path):
        return "is yours: move it away and come again, and compare the two"
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not folder.is_dir() or not folder.resolve().is_relative_to(root.resolve()):
        return f"{folder.relative_to(root)} is no folder of this repository"
    return ""


def write(root: Path, files: dict[str, str]) -> None:
    """Write new files; take all back if one cannot be written."""
    made: list[Path] = []
    try:
        for name, text in files.items():
            path = root / name
            for folder in reversed([parent for parent in path.parents if not parent.exists()]):
                folder.mkdir()
                made.append(folder)
            with path.open("xb") as stream:  # never over a file
                made.append(path)
                stream.write(text.encode())
    except OSError as fault:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        raise RefusedError(f"{fault.filename or root}: cannot be written ({fault.strerror}): nothing was changed") from None
