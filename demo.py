"""What does the template do? Makes the example project, runs its pipeline, asks its model: `make demo`."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ASK = """
import json
from pathlib import Path

import mlflow

mlflow.set_tracking_uri("sqlite:///mlflow.db")
folder = mlflow.artifacts.download_artifacts("models:/SLUG@champion")
row = mlflow.models.Model.load(folder).load_input_example(folder).head(1)
answer = mlflow.pyfunc.load_model(folder).predict(row)
tables = [json.loads(table.to_json(orient="records", date_format="iso"))[0] for table in (row, answer)]
Path("FILE").write_text(json.dumps(tables))
"""


COMMITS = {"make setup": "Lock the environment", "make pipeline": "First model"}  # the model names the first


class StoppedError(Exception):
    """A step that went wrong; the text says which, and what to do."""


def main() -> int:
    """Run the demo; say in one line if it cannot go on."""
    goal = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo" / "flight-delays").resolve()
    try:
        show(goal, *play(goal))
    except StoppedError as fault:
        print(f"demo: {fault}", file=sys.stderr)
        return 1
    return 0


def play(goal: Path) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Go through the steps; return the seconds that each took, and a row with the model's answer to it."""
    if goal.exists():
        raise StoppedError(f"{goal} is there already: remove it, or name another folder with INTO=…")
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        answer = Path(folder, "answer.json")
        ask = [
            "uv",
            "run",
            "--no-sync",
            "python",
            "-W",
            "ignore",
            "-c",
            ASK.replace("SLUG", goal.name).replace("FILE", str(answer)),
        ]
        for step, where, command in (
            ("generate the project", ROOT, cookiecutter(goal, Path(folder))),
            ("make setup", goal, ["make", "setup"]),
            ("make pipeline", goal, ["make", "pipeline"]),
            ("ask the champion", goal, ask),
        ):
            print(f"\n> {step}", flush=True)
            start = time.monotonic()
            run(step, command, where)
            seconds[step] = time.monotonic() - start
            if step in COMMITS:
                commit(goal, COMMITS[step])
        return seconds, json.loads(answer.read_text())


def cookiecutter(goal: Path, folder: Path) -> list[str]:
    """Build the command that a person would type, on a clean copy of the template."""
    config = folder / "cookiecutter.yaml"
    config.write_text(json.dumps({"cookiecutters_dir": str(folder), "replay_dir": str(folder)}))
    python = f"python_version={sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "cookiecutter", str(template(folder / "cookiecutter-fullmarks")), "--no-input"]
    return [*command, "--config-file", str(config), "--output-dir", str(goal.parent), f"project_slug={goal.name}", python]


def template(clean: Path) -> Path:
    """Export what is committed: a used working tree holds caches and environments as well."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:  # a download without its history
        return ROOT
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=False).stdout:
        print("demo: what is not committed yet is left out")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(clean, filter="data")
    return clean


def run(step: str, command: list[str], where: Path) -> None:
    """Run one step where everybody can watch it, free of the environment that this program runs in."""
    foreign = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    with chdir(where):
        done = subprocess.run(command, env=environment | {"PWD": str(where)}, check=False)
    if done.returncode:
        raise StoppedError(f"`{step}` failed in {where}: its last lines say why")


def commit(goal: Path, message: str) -> None:
    """Commit what a step left, as whoever made the first commit."""
    run(f"git commit, {message}", ["git", "add", "--all"], goal)
    who = subprocess.run(["git", "log", "-1", "--format=%an%n%ae"], cwd=goal, capture_output=True, text=True, check=True)
    name, mail = who.stdout.splitlines()
    known = ["-c", f"user.name={name}", "-c", f"user.email={mail}", "-c", "commit.gpgsign=false"]
    run(f"git commit, {message}", ["git", *known, "commit", "--quiet", "--no-verify", "--message", message], goal)


def show(goal: Path, seconds: dict[str, float], asked: list[dict[str, object]]) -> None:
    """Print what happened and where to look."""
    metrics = json.loads((goal / "reports" / "metrics.json").read_text())
    name, (row, answer) = metrics["score"], asked
    score = metrics["test"][name]
    rows = [(step, f"{duration:.0f} s") for step, duration in seconds.items()]
    rows += [
        (f"{name} on {metrics['rows']:,} test rows", f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"),
        *((f"the same, {other} baseline", f"{found['value']:.3f}") for other, found in metrics["baselines"].items()),
        ("one row", ", ".join(f"{key} {value}" for key, value in row.items())),
        ("its prediction", ", ".join(f"{key} {value}" for key, value in answer.items())),
        ("the project", str(goal)),
        ("its model card", "reports/model_card.md"),
        ("its data docs", "reports/data_docs/index.html"),
        ("its runs and models", "make runs"),
    ]
    left = max(len(label) for label, _ in rows)
    room = max(30, shutil.get_terminal_size().columns - left - 4)
    print()
    for label, text in rows:
        print(f"  {label:<{left}}  {text if len(text) <= room else text[: room - 1] + '…'}")


if __name__ == "__main__":
    sys.exit(main())
