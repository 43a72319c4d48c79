"""Does another run give the same bits? Runs the pipeline once more in a fresh checkout, and writes down how.

The page follows the machine learning reproducibility checklist (Pineau et al., JMLR 22(164), 2021).
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml

from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors

PAGE = Path("reports/reproducibility.md")
LAST_STAGE = "evaluate"  # what follows talks to the registry, or only looks closer
_LIBRARIES = ("lightgbm", "scikit-learn", "numpy", "pyarrow", "duckdb", "mlflow", "dvc", "great-expectations")


@dataclass(frozen=True)
class Reproduction:
    """A second run of the pipeline, compared with the first.

    Attributes
    ----------
    outputs
        How many outputs were compared.
    differences
        The stage and the path of each output whose bits differ.
    seconds, cpu_seconds
        That the second run took, start of all processes included.
    peak_bytes
        Resident memory of its largest process.
    """

    outputs: int
    differences: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def reproduce(root: Path) -> Reproduction:
    """Run the pipeline in a fresh checkout of a project, without its caches, and compare every output bit by bit.

    Parameters
    ----------
    root
        A project whose pipeline has run. What a commit would hold now is checked out, and its raw data.

    Raises
    ------
    InputError
        The pipeline has not run in the project, or does not run in the checkout.
    """
    if not (root / "dvc.lock").exists():
        raise InputError(f"{root / 'dvc.lock'} is missing: run `make pipeline` first")
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "project"
        _check_out(root, checkout)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        ran = _run(checkout, "dvc", "repro", LAST_STAGE)
        seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ran.returncode:
            last = (ran.stderr or ran.stdout).strip().splitlines()[-6:]
            raise InputError(f"the pipeline does not run in a fresh checkout: {' '.join(' '.join(last).split())[:600]}")
        first, second = _outputs(root), _outputs(checkout)
    missing = [name for name in second if name not in first]
    return Reproduction(
        outputs=len(second),
        differences=tuple([name for name in second if name in first and first[name] != second[name]] + missing),
        seconds=seconds,
        cpu_seconds=sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime")),
        peak_bytes=after.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def _check_out(root: Path, checkout: Path) -> None:
    listed = _run(root, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    made = ("dvc.lock", "reports/", "models/")
    raw = [str(path.relative_to(root)) for path in (root / "data/raw").glob("*") if path.is_file()]
    for name in {*listed, *raw}:
        if name and not name.startswith(made) and (root / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, checkout / name)
    for command in (("git", "init", "--quiet"), ("dvc", "config", "--quiet", "core.analytics", "false")):
        _run(checkout, *command)


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the folder's own source, and nothing of what other runs have kept."""
    here = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _outputs(root: Path) -> dict[str, str]:
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    last = list(stages).index(LAST_STAGE) + 1 if LAST_STAGE in stages else len(stages)
    return {
        f"{out['path']} of stage {name}": out["md5"]
        for name in list(stages)[:last]
        for out in stages[name].get("outs", ())
    }


def page(root: Path, run: Reproduction) -> str:
    """Fill the checklist from the run.

    Parameters
    ----------
    root
        The project.
    run
        Its second run.

    Returns
    -------
    str
        Markdown.
    """
    contract = Contract.read(root / "contract.yaml")
    chosen = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    metrics = json.loads((root / "reports/metrics.json").read_text(encoding="utf-8"))
    sections = {
        "Code": _code(root),
        "Data": _data(root, contract, chosen["split"]),
        "Environment": [
            f"Python {platform.python_version()} on {platform.system()} {platform.machine()}.",
            ", ".join(f"{name} {version(name)}" for name in _LIBRARIES) + "; all others: `uv.lock`.",
        ],
        "Hyperparameters": _hyperparameters(chosen),
        "Seeds": [", ".join(f"{name} {part['seed']}" for name, part in chosen.items() if "seed" in part) + "."],
        "Number of runs": [f"Two, in two checkouts without shared caches: {_comparison(run)}."],
        "Error bars": _error_bars(metrics, chosen["evaluate"]),
        "Compute used": _compute(run),
    }
    lines = [
        "# Reproducibility",
        "",
        "Filled from the run by `make reproduce`, after the checklist of Pineau et al. (2021).",
    ]
    for title, entries in sections.items():
        lines += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def _code(root: Path) -> list[str]:
    commit = _run(root, "git", "rev-parse", "HEAD").stdout.strip()
    changed = _run(
        root, "git", "status", "--porcelain", "--", "src", "*.yaml", "pyproject.toml", "uv.lock"
    ).stdout.split("\n")
    names = [line[3:] for line in changed if line]
    state = f"; not committed: {', '.join(f'`{name}`' for name in names)}" if names else ", nothing uncommitted"
    return [f"Commit {commit or 'none'}{state}.", "To run it: `make setup`, then `make pipeline`."]


def _data(root: Path, contract: Contract, chosen: dict[str, Any]) -> list[str]:
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    files = [out for name in ("ingest", "split") for out in lock.get(name, {}).get("outs", ())]
    rest = 1 - chosen["valid"] - chosen["test"]
    how = (
        f"by `{contract.time.name}`, the newest last"
        if contract.time
        else f"by a hash of the row, seed {chosen['seed']}"
    )
    return [
        f"{contract.name}, from `{contract.server.path}`; its columns, rules and personal data: `contract.yaml`.",
        *([f"Limits: {contract.limitations}"] if contract.limitations else []),
        *(f"`{file['path']}`: {file['size']:,} bytes, MD5 {file['md5']}." for file in files),
        f"Training {rest:.0%}, validation {chosen['valid']:.0%}, test {chosen['test']:.0%} of the rows, {how}.",
    ]


def _hyperparameters(chosen: dict[str, Any]) -> list[str]:
    train, values = chosen["train"], chosen["train"]["hyperparameters"]
    stops = f"stopped after {train['early_stopping']} rounds without a better score on the validation rows"
    estimator = f"Estimator: `{train['estimator']}`, {stops if train['early_stopping'] else 'never stopped early'}."
    return [estimator, *(f"`{name}`: {value}{_searched(name, chosen['tune'])}" for name, value in values.items())]


def _comparison(run: Reproduction) -> str:
    if run.differences:
        return f"these outputs differ: {', '.join(run.differences)}"
    return f"all {run.outputs} outputs have the same bits"


def _error_bars(metrics: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    how = (
        f"Each score has its {chosen['confidence']:.0%} interval over {chosen['resamples']} bootstrap resamples "
        f"of the {metrics['rows']:,} test rows: what other test rows would change, the training rows being as they are."
    )
    found = {
        name: f"{entry['value']:.4g} ({entry['low']:.4g} to {entry['high']:.4g})"
        for name, entry in metrics["test"].items()
    }
    return [how, *(f"`{name}`: {words}." for name, words in found.items())]


def _compute(run: Reproduction) -> list[str]:
    used = f"{run.seconds:.0f} s of wall time, {run.cpu_seconds:.0f} s of CPU time"
    memory = psutil.virtual_memory().total / 2**30
    return [
        f"From the raw data to the metrics: {used}, {run.peak_bytes / 2**30:.2f} GiB in the largest process.",
        f"Machine: {os.cpu_count()} cores, {memory:.0f} GiB of memory, no GPU used.",
    ]


def _searched(name: str, chosen: dict[str, Any]) -> str:
    space = chosen["space"].get(name)
    if space is None:
        return f", not searched: {chosen.get('excused', {}).get(name, 'no reason given')}."
    words = f"{space['low']} to {space['high']}" if "low" in space else ", ".join(map(str, space["choices"]))
    return f", searched in {words}, {chosen['trials']} trials."


@report_errors
def main() -> None:
    """Reproduce the project in the current folder."""
    run = reproduce(Path())
    PAGE.write_text(page(Path(), run), encoding="utf-8")
    for name in run.differences:
        print(f"differs: {name}")
    print(f"reproduce: {run.outputs - len(run.differences)} of {run.outputs} outputs have the same bits → {PAGE}")
    sys.exit(1 if run.differences else 0)


if __name__ == "__main__":
    main()
