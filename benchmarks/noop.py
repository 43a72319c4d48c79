"""What does `make pipeline` cost when there is nothing to do, against `dvc repro` of as many trivial stages?"""

import subprocess
import tempfile
from pathlib import Path

import yaml
from measure import Cost, cost, example, median, verdict, write

ROUNDS = 7


def main() -> None:
    """Alternate the two, each after a first run."""
    with example() as project, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        cost(["make", "pipeline"], project)
        count = len(yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]) - 1  # but `assess`
        trivial = Path(folder)
        dvc = str(project / ".venv/bin/dvc")
        for command in (["git", "init", "-q"], [dvc, "init", "-q"], [dvc, "config", "core.analytics", "false"]):
            subprocess.run(command, cwd=trivial, check=True)
        stages = {f"s{n}": {"cmd": f"echo {n} > {n}.txt", "outs": [f"{n}.txt"]} for n in range(count)}
        for number in range(1, count):
            stages[f"s{number}"]["deps"] = [f"{number - 1}.txt"]
        (trivial / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
        cost([dvc, "repro"], trivial)
        costs: dict[str, list[Cost]] = {"`dvc repro`, trivial stages": [], "`make pipeline`": []}
        for _ in range(ROUNDS):
            costs["`dvc repro`, trivial stages"].append(cost([dvc, "repro"], trivial))
            costs["`make pipeline`"].append(cost(["make", "pipeline"], project))
    cpu = {name: median(found, "cpu") for name, found in costs.items()}
    rows = [[name, f"{median(costs[name], 'wall'):.2f}", f"{cpu[name]:.2f}"] for name in costs]
    floor, ours = cpu.values()
    ratio = verdict("ratio of the medians, CPU", ours / floor, 1.3)
    write("noop", f"What does a run with nothing to do cost? Median of {ROUNDS}", ["command", "wall s", "CPU s"], rows, [ratio])


if __name__ == "__main__":
    main()
