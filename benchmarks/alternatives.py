"""What do generators leave after their first command, and does it work? Each is made, set up, run and tested as its README says.

Those are taken that a registry of packages brings. Some fetch more to generate: where that cannot be reached, the page says so.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from measure import NOT_OURS, ROOT, write

CI = (".github/workflows", ".gitlab-ci.yml", "Jenkinsfile", ".travis.yml", ".cirrus.yml")
SETTINGS = {"DO_NOT_TRACK": "1", "GIT_TERMINAL_PROMPT": "0", "COLUMNS": "200", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Generator:
    """How a generator is used, by the words of what it generates.

    Attributes
    ----------
    make
        Makes a project named `peer` without asking.
    set_up, train, test
        Commands of the generated README, in the project; empty where it names none.
    """

    make: str
    set_up: str
    train: str
    test: str


KEDRO = "uvx kedro new --name=peer --tools=test,lint,log,docs,data --telemetry=no --example="
PIP = "uv venv --quiet --seed && uv pip install --quiet"
GENERATORS = {
    "this template": Generator(f"cookiecutter {ROOT} --no-input project_slug=peer", "make setup", "make pipeline", "make test"),
    "Kedro, with its example": Generator(f"{KEDRO}yes", f"{PIP} -r requirements.txt", "kedro run", "pytest"),
    "Kedro": Generator(f"{KEDRO}no", f"{PIP} -r requirements.txt", "kedro run", "pytest"),
    "Cookiecutter Data Science": Generator(
        "uvx --from cookiecutter-data-science ccds --no-input", "make create_environment requirements", "make data", "make test"
    ),
    "PyScaffold, dsproject": Generator(  # its README asks for conda, then installs the package
        "uvx --from pyscaffold --with pyscaffoldext-dsproject putup --dsproject --no-config peer",
        f"{PIP} --editable '.[testing]'",
        "",
        "pytest",
    ),
}


def main() -> None:
    """Try one after the other; what fails is a result."""
    rows = []
    for name, generator in GENERATORS.items():
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            rows.append([name, *tried(generator, Path(folder))])
            print(*rows[-1], sep=" | ", file=sys.stderr)
    header = ["generator", "made", "files", "CI", "lock", "set up", "trains a model", "its tests"]
    write("alternatives", "What do generators leave after their first command, and does it work?", header, rows, [])


def tried(generator: Generator, folder: Path) -> list[str]:
    """Go through the commands, and give a cell of the table for each question."""
    made = said(generator.make, folder)
    found = [path for path in folder.iterdir() if path.is_dir()]
    if not found:
        return [made, *["–"] * 6]
    (project,) = found
    files = [path for path in project.rglob("*") if path.is_file() and ".git" not in path.relative_to(project).parts]
    providers = [name for name in CI if (project / name).exists()]
    set_up = said(generator.set_up, project)
    lock = "yes" if list(project.glob("*.lock")) else "no"
    train = said(generator.train, project) if generator.train else "no command"
    return [made, str(len(files)), ", ".join(providers) or "none", lock, set_up, train, said(generator.test, project)]


@cache
def tools() -> Path:
    """Make a folder with what generators are called by, and nothing else of this environment."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    for name in ("uv", "uvx", "cookiecutter"):
        (folder / name).symlink_to(shutil.which(name) or sys.exit(f"{name} is not installed: make setup"))
    return folder


def foreign(path: str) -> list[str]:
    """Leave this environment out of a search path."""
    return [entry for entry in path.split(os.pathsep) if entry != str(Path(sys.prefix) / "bin")]


def said(command: str, where: Path) -> str:
    """Run a command in the project's environment; give the seconds that it took, and of a failure the line that says why."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS} | SETTINGS
    environment["PATH"] = os.pathsep.join([str(where / ".venv/bin"), str(tools()), *foreign(environment["PATH"])])
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    took = f"{time.perf_counter() - start:.0f} s"
    counted = re.findall(r"\d+ (?:passed|failed|errors?)\b", done.stdout.splitlines()[-1]) if done.stdout.strip() else []
    if done.returncode == 0:
        return f"{', '.join(counted) or 'yes'}, {took}"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip() and not line.startswith("make: ")]
    faults = [line for line in lines if re.search(r"Error: |ERROR|error:|fatal|not found|no tests ran", line)]
    why = ", ".join(counted) or (faults or lines)[-1]
    return f"**no**: {' '.join(why.split())[:120].strip('= ').replace('|', '/')}"


if __name__ == "__main__":
    main()
