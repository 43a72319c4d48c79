"""Do time and memory grow no faster than the rows, from 10⁵ to 10⁷ rows of 20 columns?"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from measure import Cost, cost, example, verdict, write

SIZES = (10**5, 10**6, 10**7)
STAGES = ("ingest", "validate", "split", "train")
# 12 numbers, 3 whole numbers, 3 categories, a time and the target, with nulls, written by the database that reads it.
QUERY = """
COPY (
    SELECT TIMESTAMP '2020-01-01' + to_seconds(i) AS happened_at, {numbers},
        (random() * 100)::INT AS count1, (random() * 9)::INT AS count2, (random() * 999)::INT AS count3,
        chr(65 + (random() * 5)::INT) AS kind1, chr(65 + (random() * 15)::INT) AS kind2, 'v' || (random() * 60)::INT AS kind3,
        random() + 0.3 * sin(i / 5000.0) > 0.6 AS late
    FROM range({rows}) t(i)
) TO '{path}' (FORMAT csv)
"""
NUMBERS = ", ".join(f"CASE WHEN random() > 0.05 THEN round(random() * {n + 1}, 4) END AS number{n}" for n in range(12))


def main() -> None:
    """Generate a project for each size, and run its stages one by one."""
    sizes = SIZES[: int(sys.argv[1])] if len(sys.argv) > 1 else SIZES
    found: dict[tuple[int, str], Cost] = {}
    with example() as project, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        template, python = project.parent / "cookiecutter-fullmarks", str(project / ".venv/bin/python")
        for size in sizes:
            made = _project(size, Path(folder), template, python)
            for stage in STAGES:
                found[size, stage] = cost([python, "-m", f"rows.pipeline.{stage}"], made, PYTHONPATH=str(made / "src"))
                print(size, stage, found[size, stage], flush=True)
    rows = [
        [f"{size:,}", stage, f"{entry.wall:.1f}", f"{entry.cpu:.1f}", f"{entry.memory:.2f}", f"{entry.wall / size * 1e6:.1f}"]
        for (size, stage), entry in found.items()
    ]
    most = verdict("largest process, GiB", max(entry.memory for entry in found.values()), 8)
    growth = []
    for smaller, larger in pairwise(sizes):
        for stage in STAGES:
            ratio = found[larger, stage].wall / found[smaller, stage].wall
            growth.append(verdict(f"{stage}, time from {smaller:,} to {larger:,} rows", ratio, larger / smaller))
    header = ["rows", "stage", "wall s", "CPU s", "memory, GiB", "µs a row"]
    write("rows", "Do time and memory grow no faster than the rows? 20 columns, one run", header, rows, [most, *growth])


def _project(size: int, folder: Path, template: Path, python: str) -> Path:
    source, made = folder / "rows.csv", folder / f"out{size}" / "rows"
    query = QUERY.format(numbers=NUMBERS, rows=size, path=source)
    cost([python, "-c", f"import duckdb; duckdb.execute('SELECT setseed(0.5)'); duckdb.execute({query!r})"], folder)
    answers = [f"dataset={source}", "target=late", "project_slug=rows", "package_name=rows"]
    cost(["cookiecutter", str(template), "--no-input", "-o", str(made.parent), *answers], folder)
    source.unlink()
    cost([python, "-m", "rows.infer"], made, PYTHONPATH=str(made / "src"))
    return made


if __name__ == "__main__":
    main()
