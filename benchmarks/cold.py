"""What do DVC, MLflow and Great Expectations add to a cold run of the example, and where does it go?"""

import shutil
from pathlib import Path

import yaml
from measure import Cost, cost, example, median, verdict, write

ROUNDS = 3
BARE = """
from PACKAGE.pipeline import ingest, split, train, evaluate
for stage in (ingest, split, train, evaluate):
    stage.main()
"""


def main() -> None:
    """Alternate the pipeline, one bare script of the same reading, fitting and evaluating, and each stage by itself."""
    with example() as project:
        python = str(project / ".venv/bin/python")
        package = next(project.glob("src/*/pipeline")).parent.name
        stages = list(yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
        stages.remove("assess")  # of `make score`
        names = ["one bare script", "`make pipeline`", *stages, "`dvc`, empty"]
        costs: dict[str, list[Cost]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            _forget(project)
            costs["one bare script"].append(cost([python, "-c", BARE.replace("PACKAGE", package)], project))
            _forget(project)
            costs["`make pipeline`"].append(cost(["make", "pipeline"], project))
            shutil.rmtree(project / "mlruns")
            (project / "mlflow.db").unlink()
            for stage in stages:
                costs[stage].append(cost([python, "-m", f"{package}.pipeline.{stage}"], project))
            costs["`dvc`, empty"].append(cost([str(project / ".venv/bin/dvc"), "version"], project))
    cpu = {name: median(found, "cpu") for name, found in costs.items()}
    rows = [
        [name, f"{median(costs[name], 'wall'):.1f}", f"{cpu[name]:.1f}", f"{median(costs[name], 'memory'):.2f}"] for name in names
    ]
    ratio = verdict("`make pipeline` to the bare script, CPU", cpu["`make pipeline`"] / cpu["one bare script"], 3)
    rest = cpu["`make pipeline`"] - sum(cpu[stage] for stage in stages)
    extra = cpu["validate"] + cpu["register"]
    where = f"not in a stage, so DVC's own: {rest:.1f} CPU s; validate and register, which the script has not: {extra:.1f}"
    header = ["what", "wall s", "CPU s", "largest process, GiB"]
    write("cold", f"What does a cold run of the example cost? Median of {ROUNDS}", header, rows, [ratio, where])


def _forget(project: Path) -> None:
    """Remove all that a run left."""
    for name in ("dvc.lock", "mlflow.db"):
        (project / name).unlink(missing_ok=True)
    for name in ("data", "models", "reports", "mlruns", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project / name, ignore_errors=True)


if __name__ == "__main__":
    main()
