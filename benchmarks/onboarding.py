"""How long does a new member take from the clone to a change that can be reviewed? Each step of docs/onboarding.md, timed."""

import subprocess
import tempfile
from pathlib import Path

from measure import cost, example, verdict, write

COLUMN = "distance"  # a column of the example that is no feature yet
STEPS = {
    "clone": "",
    "the environment, data and model of this commit": "make setup pull",
    "nothing is left to run": "make pipeline",
    "a registry of one's own": "make register",
    "why a row is predicted so": "make explain ROW=0",
    "add a feature: contract.yaml, on a branch": "",
    "learn from it": "make pipeline",
    "what CI will say of the code": "make check",
    "the whole suite": "make test",
    "what the reviewer will see": "make compare BASE=main",
}


def main() -> None:
    """Push the example to a remote and a bare repository, then walk as somebody who has neither."""
    rows, total = [], 0.0
    with example() as project, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["uv", "run", "dvc", "remote", "modify", "store", "url", f"{folder}/store"], cwd=project, check=True)
        cost(["make", "pipeline"], project)
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "--message", "First model")
        cost(["make", "push"], project)
        for step, command in STEPS.items():
            if step == "clone":
                took = cost(["git", "clone", "--quiet", "--branch", "main", str(project), str(clone)], Path(folder)).wall
                command = "git clone"
            elif not command:
                took, command = add_feature(clone), f"tag `{COLUMN}` in contract.yaml"
            else:
                took = cost(["make", *command.split()[1:]], clone).wall
            total += took
            rows.append([step, f"`{command}`", f"{took:.0f}"])
        page = (clone / "reports/comparison.md").read_text(encoding="utf-8")
        if f"`{COLUMN}`: a new feature" not in page:
            raise SystemExit(f"the reviewer would not see the new feature:\n{page}")
    lines = [verdict("minutes in all, without reading", total / 60, 50)]
    write("onboarding", "From a clone to a change that can be reviewed", ["step", "command", "seconds"], rows, lines)


def add_feature(clone: Path) -> float:
    """Tag the column, as a person does in an editor."""
    git(clone, "switch", "--quiet", "--create", "one-feature-more")
    path = clone / "contract.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"- name: {COLUMN}\n", f"- name: {COLUMN}\n        tags: [feature]\n", 1), encoding="utf-8")
    return 0.0


def git(where: Path, *arguments: str) -> None:
    """Run git there, as somebody."""
    someone = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(where), *someone, *arguments], check=True)


if __name__ == "__main__":
    main()
