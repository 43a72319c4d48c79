"""Is a file predicted three times as fast as MLflow predicts it in chunks, in memory that does not grow with it?"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Cost, cost, example, median, write

ROUNDS = 3
FEW, MANY, MORE = 10**3, 10**6, 10**7  # the few show what a start takes
PACKAGE = "flight_delays"
KINDS = ("csv", "parquet")
PEER_WAY, REGISTRY, FOLDER = "MLflow, in chunks", "ours, from the registry", "ours, from a folder"
# The example's rows over and over; a chunk is shorter than the example, so no row comes twice in one.
ROWS = """
import sys, duckdb
rows, path = int(sys.argv[1]), sys.argv[2]
times = f"(SELECT r.* EXCLUDE (late) FROM range({rows // 300_000 + 1}), 'data/rows.parquet' r LIMIT {rows})"
duckdb.execute(f"SET preserve_insertion_order = true; COPY {times} TO '{path}' (FORMAT {path.rsplit('.', 1)[1]})")
"""
# What MLflow's documentation advises for a file that does not fit into memory, with the same columns in and out.
PEER = """
import sys
import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
source, output = sys.argv[1:]
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with open("contract.yaml") as contract:
    name = yaml.safe_load(contract)["id"]
model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
names, keys = model.metadata.get_input_schema().input_names(), ["scheduled_at", "carrier", "flight"]
columns = list(dict.fromkeys([*keys, *names]))
first, writer = 1, None
if source.endswith(".csv"):
    chunks = pd.read_csv(source, usecols=columns, parse_dates=["scheduled_at"], chunksize=131_072)
else:
    chunks = (batch.to_pandas() for batch in pq.ParquetFile(source).iter_batches(131_072, columns=columns))
for chunk in chunks:
    answer = pd.concat([chunk[keys].reset_index(drop=True), model.predict(chunk[names]).reset_index(drop=True)], axis=1)
    answer.insert(0, "row", range(first, first + len(chunk)))
    if output.endswith(".csv"):
        answer.to_csv(output, mode="w" if first == 1 else "a", header=first == 1, index=False)
    else:
        table = pa.Table.from_pandas(answer, preserve_index=False)
        writer = writer or pq.ParquetWriter(output, table.schema, compression="zstd")
        writer.write_table(table)
    first += len(chunk)
if writer:
    writer.close()
"""
# LightGBM alone: the matrix is in memory, nothing is read, checked, encoded or written.
FLOOR = f"""
import sys, time
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
from {PACKAGE} import features
from {PACKAGE}.forest import quick
from {PACKAGE}.model import Model
model = Model.load(Path("models/candidate"))
X = np.concatenate([features.encode(batch, model.contract) for batch in pq.ParquetFile(sys.argv[1]).iter_batches(131_072)])
for predict in (model.predict, quick(model)):
    start, used = time.perf_counter(), time.process_time()
    predict(X)
    print(time.perf_counter() - start, time.process_time() - used)
"""
SAME = """
import sys, duckdb
ours, theirs = (f"SELECT row, flight, prediction, probability FROM '{path}'" for path in sys.argv[1:])
different = duckdb.execute(f"SELECT count(*) FROM (({ours} EXCEPT {theirs}) UNION ALL ({theirs} EXCEPT {ours}))").fetchone()[0]
sys.exit(f"{different} rows differ" if different else 0)
"""


def main() -> None:
    """Measure in a fresh example, or in a trained project whose folder is given."""
    with _project() as project, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        python, place = str(project / ".venv/bin/python"), Path(folder)
        found: dict[tuple[str, int, str], list[Cost]] = {}
        for kind in KINDS:
            for size, rounds in ((FEW, ROUNDS), (MANY, ROUNDS), (MORE, 1)):
                source = place / f"{size}.{kind}"
                cost([python, "-c", ROWS, str(size), str(source)], project)
                ways = _ways(python, source) if size < MORE else {FOLDER: _ways(python, source)[FOLDER]}
                for _ in range(rounds):
                    for way, command in ways.items():
                        found.setdefault((kind, size, way), []).append(cost(command, project))
                        print(kind, size, way, found[kind, size, way][-1], flush=True)
                if size == MANY:
                    cost([python, "-c", SAME, *(str(_output(source, way)) for way in (PEER_WAY, FOLDER))], project)
        floors = _floors(python, project, place / f"{MANY}.parquet")
    rows = [_row(*key, costs) for key, costs in found.items()]
    verdicts = [_verdict(found, kind, way) for kind in KINDS for way in (FOLDER, REGISTRY)]
    for kind in KINDS:
        grown = median(found[kind, MORE, FOLDER], "memory") / median(found[kind, MANY, FOLDER], "memory")
        verdicts.append(f"{kind}: largest resident set from {MANY:,} to {MORE:,} rows × {grown:.2f}")
    verdicts += [f"the answers of both are the same to the bit, {MANY:,} rows of each kind", *floors]
    header = ["file", "rows", "way", "wall s", "CPU s", "memory, GiB"]
    question = "Is a file predicted faster than by MLflow in chunks, in flat memory? Whole processes, in turn"
    write("batch", question, header, rows, verdicts)


def _ways(python: str, source: Path) -> dict[str, list[str]]:
    ours = [python, "-m", f"{PACKAGE}.serving.batch", str(source)]
    return {
        PEER_WAY: [python, "-c", PEER, str(source), str(_output(source, PEER_WAY))],
        REGISTRY: [*ours, str(_output(source, REGISTRY))],
        FOLDER: [*ours, str(_output(source, FOLDER)), "--model", "models/candidate"],
    }


def _output(source: Path, way: str) -> Path:
    return source.with_name(f"{way[:4]}{len(way)}{source.name}")


def _verdict(found: dict[tuple[str, int, str], list[Cost]], kind: str, way: str) -> str:
    """Say how many times as fast as the peer, round by round; and what of it is not the start."""
    pairs = list(zip(found[kind, MANY, PEER_WAY], found[kind, MANY, way], strict=True))
    wall, cpu = (statistics.median(getattr(a, part) / getattr(b, part) for a, b in pairs) for part in ("wall", "cpu"))
    rows = [median(found[kind, MANY, one], "cpu") - median(found[kind, FEW, one], "cpu") for one in (PEER_WAY, way)]
    kept = "reached" if wall >= 3 else "**not reached**"
    return (
        f"{kind}, {way}: {wall:.1f} × the speed of MLflow, at least 3 wanted: {kept}; "
        f"{cpu:.1f} × in CPU time, {rows[0] / rows[1]:.1f} × without what {FEW:,} rows take"
    )


@contextmanager
def _project() -> Iterator[Path]:
    if len(sys.argv) > 1:
        yield Path(sys.argv[1]).resolve()
        return
    with example() as project:
        cost(["make", "pipeline"], project)
        yield project


def _row(kind: str, size: int, way: str, costs: list[Cost]) -> list[str]:
    words = [f"{median(costs, 'wall'):.1f}", f"{median(costs, 'cpu'):.1f}", f"{median(costs, 'memory'):.2f}"]
    return [kind, f"{size:,}", way, *words]


def _floors(python: str, project: Path, source: Path) -> list[str]:
    done = subprocess.run([python, "-c", FLOOR, str(source)], cwd=project, capture_output=True, text=True, check=True)
    (wall, cpu), (own_wall, own_cpu) = (map(float, line.split()) for line in done.stdout.splitlines())
    return [
        (
            f"the prediction alone, matrix in memory, {MANY:,} rows: LightGBM on all cores {wall:.1f} s ({cpu:.1f} CPU s); "
            f"the same trees as tables, one thread, {own_wall:.1f} s ({own_cpu:.1f} CPU s)"
        )
    ]


if __name__ == "__main__":
    main()
