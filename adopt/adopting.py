"""What comes into an existing repository? Its CI alone or the whole project, beside what is there and never over it."""

import ast
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import targets
from everything import answer, cruft_file, generate, joins_pyproject
from found import RefusedError, Repository
from laying import KEPT, File, Plan, lay, plan, read

PAYLOAD = "{{cookiecutter.project_slug}}"
JOINED = {".dockerignore", ".dvcignore", ".gitattributes", ".gitignore"}  # both versions' lines may stand in one file


def main(answers: dict[str, Any], typed: dict[str, Any]) -> int:
    """Bring what was asked for, or say in one line why not."""
    helper = Path.cwd()
    try:
        repository = Repository(helper.parent)
        check(repository, answers, typed)
        bring = bring_everything if answers["part"] == "everything" else bring_ci
        bring(repository, helper, answers, typed)
    except RefusedError as fault:
        if str(fault):
            print(f"fullmarks: {fault}", file=sys.stderr)
        return 1
    return 0


def check(repository: Repository, answers: dict[str, Any], typed: dict[str, Any]) -> None:
    """Refuse what this cannot be done to."""
    for tool in ("git", "make"):
        if not shutil.which(tool):
            raise RefusedError(f"{tool}: not found on PATH: install it, then come again")
    root = repository.git("rev-parse", "--show-toplevel")
    if not root:
        raise RefusedError(f"{repository.path} is in no git repository: go to one, or make one with `git init`")
    if Path(root).resolve() != repository.path.resolve():
        raise RefusedError(f"{repository.path} is inside the repository {root}: go to its root, where CI looks for its files")
    if answers["part"] == "ci":
        others = sorted(typed["answers"].keys() - {"part", "ci"})
        if others:
            raise RefusedError(f"{others[0]}: is asked for part=everything only: add that, or leave {others[0]} out")
        if answers["ci"] == "none":
            raise RefusedError("ci: none leaves nothing to bring: name a provider, or say part=everything")


def constant(hook: Path, name: str) -> Any:
    """Read a table out of the template's hook: what belongs to a provider is said there alone."""
    assigned = [node for node in ast.parse(hook.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    return ast.literal_eval(next(node.value for node in assigned if ast.unparse(node.targets[0]) == name))


# The CI alone


def bring_ci(repository: Repository, helper: Path, answers: dict[str, Any], typed: dict[str, Any]) -> None:
    """Bring the provider's files, and the make targets that they call."""
    template = Path(typed["template"])
    hook, payload = template / "hooks" / "post_gen_project.py", template / PAYLOAD
    versioned = constant(hook, "VERSIONED")
    files = {
        name: File(fitted(file.content.decode(), name in versioned, repository).encode(), file.mode)
        for name, file in read(payload, constant(hook, "CHOICES")["ci"][answers["ci"]]).items()
    }
    wanted = targets.called({name: file.content.decode() for name, file in files.items()})
    lent = (payload / "Makefile").read_text(encoding="utf-8")
    day = re.findall(r'^exclude-newer = "([\d-]+)', (payload / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    rules = targets.missing(repository, wanted, lent, day)
    adds = ""
    if rules:
        adds, text = targets.makefile(repository, rules)
        files[adds] = File(text.encode())
    made = plan(repository.path, files)
    lay(repository.path, helper, made)
    tell_ci(repository, made, adds, [name for name, rule in rules.items() if rule])


def fitted(text: str, versioned: bool, repository: Repository) -> str:
    """Put the repository's Python and branch in the place of the payload's."""
    if versioned and repository.python:
        text = re.sub(r"\b3\.11\b", repository.python, text)
    if not repository.requires:
        other = "python-version-file: .python-version" if repository.has(".python-version") else 'python-version: "3.11"'
        text = text.replace("python-version-file: pyproject.toml", other)
    return text if repository.branch == "main" else re.sub(r"\bmain\b", lambda _: repository.branch, text)


def tell_ci(repository: Repository, made: Plan, adds: str, names: list[str]) -> None:
    """Say what came, what was left alone, and what is next."""
    print(f"\nfullmarks: found {repository.told()}")
    tell(made, {name: f"adds {' '.join(names)}" for name in [adds] if name in made.brought})
    if adds == "ci.mk":
        print("  next: add the line `include ci.mk` to GNUmakefile, then make setup check test")
    elif adds in made.differing:
        print(f"  next: let {adds} include {KEPT}/{adds}'s targets, then make setup check test")
    else:
        print("  next: make setup check test    # what CI runs on each push; then git add and commit")


def tell(made: Plan, why: dict[str, str]) -> None:
    """List what came and what did not."""
    for name in made.brought:
        print(f"  brought     {name}" + (f"    # {why[name]}" if name in why else ""))
    for name in made.same:
        print(f"  same        {name}    # there already")
    for name in made.differing:
        if name in JOINED:
            do = f"cat {KEPT}/{name} >> {name}"
        elif name in why:
            do = why[name]
        else:
            do = f"git diff --no-index {name} {KEPT}/{name}"
        print(f"  left alone  {name}    # differs from the template's: {do}")
    if made.differing:
        print(f"  {KEPT}/ holds the template's versions of these, and git ignores it: take what you want, then remove it")


# The whole project


def bring_everything(repository: Repository, helper: Path, answers: dict[str, Any], typed: dict[str, Any]) -> None:
    """Make the project elsewhere, and lay it in."""
    context = answer(repository, answers, typed)
    files = generate(context, typed)
    adds = mine = ""
    if repository.makefile:
        rules = files.pop("Makefile")
        lacking = [name for name in targets.blocks(rules.content.decode()) if name not in repository.targets]
        mine = " ".join(sorted(repository.targets & targets.blocks(rules.content.decode()).keys()))
        adds, text = delegate(repository, lacking)
        files |= {"fullmarks.mk": rules, adds: File(text.encode())}
    if link := cruft_file(context, answers, typed):
        files[".cruft.json"] = File(link.encode())
    made = plan(repository.path, files)
    if "pyproject.toml" in made.differing:
        script = joins_pyproject(repository, made.differing["pyproject.toml"].content.decode(), context["package_name"])
        made.differing["pyproject.sh"] = File(script.encode(), 0o755)
    lay(repository.path, helper, made)
    tell_everything(repository, made, adds, mine)


def delegate(repository: Repository, names: list[str]) -> tuple[str, str]:
    """Let the repository's make find the project's targets, in a file of their own."""
    head = targets.joined(repository.makefile)
    text = f"{head}.PHONY: {' '.join(names)}\n{' '.join(names)}:\n\t@$(MAKE) --no-print-directory -f fullmarks.mk $@\n"
    return ("ci.mk" if repository.makefile == "GNUmakefile" else "GNUmakefile"), text


def tell_everything(repository: Repository, made: Plan, adds: str, mine: str) -> None:
    """Say what came, what was left alone, what stands in the way, and what is next."""
    print(f"\nfullmarks: found {repository.told()}")
    differing = [name for name in made.differing if name != "pyproject.sh"]
    why = {name: f"adds to {repository.makefile} what fullmarks.mk makes" for name in [adds] if name}
    if "pyproject.toml" in made.differing:
        why["pyproject.toml"] = f"{KEPT}/pyproject.sh adds to it what the project needs; without, `make setup` stops"
    shown = Plan({name: made.brought[name] for name in tops(made.brought)}, made.same, {name: made.differing[name] for name in differing})
    tell(shown, why)
    print(f"  {len(made.brought)} files brought, {len(made.same)} the same, {len(differing)} left alone")
    if mine:
        print(f"  {repository.makefile} keeps its own {mine}: `make -f fullmarks.mk {mine}` is the project's")
    if repository.makefile == "GNUmakefile":
        print("  add the line `include ci.mk` to GNUmakefile")
    steps = [f"sh {KEPT}/pyproject.sh"] if "pyproject.toml" in made.differing else []
    steps += [f"cat {KEPT}/{name} >> {name}" for name in sorted(JOINED & made.differing.keys())]
    print("  next: " + " && ".join([*steps, "make setup check"]))


def tops(brought: dict[str, File]) -> list[str]:
    """Leave out of a long list what stands in folders."""
    return [name for name in brought if "/" not in name]
