"""What do the tests share? Places, a small data set, git and the command line."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAYLOAD = ROOT / "{{cookiecutter.project_slug}}"
ROWS = "size,colour,price\n1,red,9.5\n2,blue,8\n3,red,7.5\n4,blue,9\n"

Bake = Callable[..., Path]


def git(where: Path, *arguments: str) -> str:
    """Run git there, as somebody; return what it says."""
    someone = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost")
    done = subprocess.run(["git", "-C", str(where), *someone, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def run_cookiecutter(where: Path, *arguments: str, standing: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as a person does who stands there, or says so."""
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", *arguments],
        cwd=where,
        env=os.environ | {"PWD": standing or str(where)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def constant(hook: str, name: str) -> Any:
    """Read a table out of a hook without running it."""
    tree = ast.parse((ROOT / "hooks" / hook).read_text().replace("{{", "(").replace("}}", ")"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(values[0])


def files_of(project: Path) -> set[str]:
    """List what is in a project, but for git's own."""
    paths = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".git"}
