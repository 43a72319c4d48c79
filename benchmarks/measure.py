"""How is a benchmark run and written down? Commands timed as a whole, in turn with what they are compared with."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
NOT_OURS = {"VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "PYTHONDONTWRITEBYTECODE"}  # of the environment: people have none of it


@dataclass(frozen=True)
class Cost:
    """What one command took, children included.

    Attributes
    ----------
    wall, cpu
        Seconds.
    memory
        Largest resident set of a single process, in GiB.
    """

    wall: float
    cpu: float
    memory: float


def cost(command: list[str], where: Path, **environment: str) -> Cost:
    """Run a command and measure it; its output is shown only if it fails."""
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "done.returncode and sys.exit(done.stdout.decode()[-3000:]);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    variables = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=where,
        env=variables | environment | {"PWD": str(where)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {where}:\n{done.stderr}")
    cpu, memory = map(float, done.stdout.split())
    return Cost(wall, cpu, memory / 2**20)


def median(costs: list[Cost], what: str) -> float:
    """Give the median of one part of several costs."""
    return float(statistics.median(getattr(entry, what) for entry in costs))


@contextmanager
def example() -> Iterator[Path]:
    """Generate the example project from the committed template, set it up, and remove it in the end."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), f"{folder}/cookiecutter-fullmarks"], check=True)
        python = f"python_version={sys.version_info.major}.{sys.version_info.minor}"
        cost(["cookiecutter", "./cookiecutter-fullmarks", "--no-input", python], Path(folder))
        project = Path(folder, "flight-delays")
        cost(["make", "setup"], project)
        yield project


def write(name: str, question: str, header: list[str], rows: list[list[str]], verdicts: list[str]) -> None:
    """Write a result as a page with one table, the machine and the versions; print it, too."""
    lines = [f"# {question}", "", f"`uv run python benchmarks/{name}.py`, {_machine()}", ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    lines += ["", *(f"- {verdict}" for verdict in verdicts)]
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def verdict(words: str, measured: float, limit: float) -> str:
    """Say whether a limit was kept."""
    return f"{words}: {measured:.2f}, at most {limit:g} wanted: {'kept' if measured <= limit else '**not kept**'}"


def _machine() -> str:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    tools = ", ".join(f"{tool} {_version(tool)}" for tool in ("uv", "git") if shutil.which(tool))
    return (
        f"commit {commit.stdout.strip()}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} at the end, "
        f"Python {platform.python_version()}, {tools}"
    )


def _version(tool: str) -> str:
    words = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next(word for word in words if word[0].isdigit())
