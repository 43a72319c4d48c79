"""How is a whole file predicted? `make predict INPUT=new.csv OUTPUT=answers.parquet` is the way in.

In chunks, so that memory does not grow with the file. Each chunk is kept in a folder beside the output as soon as it is
done, so a run that was killed goes on where it was; the output appears when it is whole. Rows that break the contract
go to a file of their own, with what they break.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from open_data_contract_standard.model import Server
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from flight_delays import features
from flight_delays.contract import Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.forest import quick
from flight_delays.model import Model
from flight_delays.serving import control
from flight_delays.serving.door import Violation
from flight_delays.serving.lean import without_pandas
from flight_delays.serving.release import Store
from flight_delays.serving.sieve import Sieve
from flight_delays.source import connect, open_source, unreadable

_LARGEST, _SMALLEST = 131_072, 4_096  # rows of a chunk
_CELLS = 2**21  # of a chunk
_SHOWN = 5  # lines of the table
_EDGE = 2**20  # bytes at either end of a file by which it is known again
_WRITTEN = re.compile(r"\.(parquet|pq|(csv|tsv|jsonl|ndjson)(\.gz)?)$")
_SOURCES = (
    "contract.py",
    "features.py",
    "forest.py",
    "model.py",
    "serving/batch.py",
    "serving/door.py",
    "serving/sieve.py",
    "source.py",
)

Floats = features.Floats


@dataclass(frozen=True)
class Done:
    """What came of a chunk, or of all of them.

    Attributes
    ----------
    rows, scored
        How many were read, and how many of these were predicted.
    refused, warned
        How often a rule of a column was broken: `[column, rule, times]`.
    """

    rows: int
    scored: int
    refused: list[tuple[str, str, int]]
    warned: list[tuple[str, str, int]]

    def __add__(self, other: "Done") -> "Done":
        """Count two together."""
        return Done(
            self.rows + other.rows,
            self.scored + other.scored,
            _count(self.refused + other.refused),
            _count(self.warned + other.warned),
        )


class Parts:
    """The finished chunks of a run, in a folder beside its output.

    Parameters
    ----------
    output
        The file to be made.
    what
        What the run is about, by the words in which a change of it is told. A folder of another run is emptied.
    """

    def __init__(self, output: Path, what: dict[str, Any]) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.partial")
        self.refused = output.with_name(re.sub(_WRITTEN, "", output.name) + ".refused.jsonl")
        self.changed: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        run = self.folder / "run.json"
        known = _read_json(run)
        if known != what:
            self.changed = [name for name in what if name in known and known[name] != what[name]]
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.write("run.json", json.dumps(what).encode())
        self.done = {int(path.stem): done for path in self.folder.glob("*.done") if (done := self._intact(path))}

    def keep(self, number: int, done: Done, answers: bytes, violations: bytes) -> None:
        """Store a chunk; it counts as done by the last of its files."""
        self.write(f"{number}.answers", answers)
        self.write(f"{number}.refused", violations)
        sizes = [len(answers), len(violations)]
        self.write(f"{number}.done", json.dumps(asdict(done) | {"sizes": sizes}).encode())
        self.done[number] = done

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        unfinished = self.folder / f"{name}.{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.replace(self.folder / name)

    def of(self, kind: str) -> Iterator[Path]:
        """Give the files of a kind, in the order of the chunks."""
        return (self.folder / f"{number}.{kind}" for number in sorted(self.done))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _intact(self, path: Path) -> Done | None:
        found = _read_json(path)
        sizes = [
            file.stat().st_size for kind in ("answers", "refused") if (file := path.with_suffix(f".{kind}")).is_file()
        ]
        if not found or sizes != found.pop("sizes"):
            return None
        broken, passed = ([tuple(entry) for entry in found[key]] for key in ("refused", "warned"))
        return Done(found["rows"], found["scored"], broken, passed)


def predict(
    source: Path, output: Path, model: Model, name: str, tell: Callable[[str], None] = print, rows: int | None = None
) -> tuple[Done, Parts]:
    """Predict a file's rows.

    Parameters
    ----------
    source
        CSV, TSV or JSON Lines, each also gzipped, or Parquet.
    output
        The file to write, of a kind that can also be read here.
    model
        Answers.
    name
        What the model is called, to know it again.
    tell
        Is given a line where a run goes on, or starts over.
    rows
        Of a chunk; `None` for as many as there is room for.

    Returns
    -------
    tuple
        What came of all rows, and where the files are.

    Raises
    ------
    InputError
        The file cannot be read, lacks columns, or has no row that keeps the contract.
    """
    if not _WRITTEN.search(output.name):
        raise InputError(f"{output}: unknown kind of file: use .csv, .tsv, .jsonl (each also .gz) or .parquet")
    if source.exists() and output.exists() and source.samefile(output):
        raise InputError(f"{output} is the input: give the output another name")
    connection = connect()
    sieve = _open(connection, source, model.contract)
    rows = rows or _rows_of_a_chunk(len(sieve.columns))
    what = {"input": _seen(source), "model": name, "code": _code(), "chunks": rows}
    parts = Parts(output, what)
    if parts.changed:
        tell(f"starts over: of what {parts.folder} was begun with, the {' and the '.join(parts.changed)} changed")
    elif parts.done:
        tell(f"goes on after {sum(done.rows for done in parts.done.values()):,} rows in {parts.folder}")
    score = _scorer(model, sieve, output)
    with _progress() as progress:
        bar = progress.add_task("", total=_estimate(source), completed=0)
        for done in _each_chunk(connection, sieve, rows, parts, score):
            progress.update(bar, advance=done.rows)
        whole = sum(parts.done.values(), Done(0, 0, [], []))
        progress.update(bar, total=whole.rows, completed=whole.rows)
    if _seen(source) != what["input"]:
        raise InputError(f"{source} changed while it was read: run the same command again")
    _finish(parts, whole, _empty(model, sieve), source)
    return whole, parts


def load(folder: Path | None, kept: Path) -> tuple[Model, str]:
    """Give the model, and a name by which it is known again.

    Parameters
    ----------
    folder
        A model's folder; where `None`, what is served here, and where nothing is, the registry's champion.
    kept
        An existing folder, for the champion's files.
    """
    folder = folder or _served() or _champion(kept)
    model = Model.load(folder)
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("model.*")), folder / "contract.yaml"]:
        digest.update(path.read_bytes())
    return model, digest.hexdigest()


def _served() -> Path | None:
    store = Store()
    release = store.read()
    return store.model(release.champion) if release and store.model(release.champion).is_dir() else None


def _champion(kept: Path) -> Path:
    known = control.registry()
    return known.download(control.champion_of(known), kept)


def _open(connection: duckdb.DuckDBPyConnection, source: Path, contract: Contract) -> Sieve:
    if not source.is_file():
        raise InputError(f"{source} is {'no file' if source.exists() else 'missing'}: name the file to predict")
    with source.open("rb"):
        pass  # no permission is said as such, and not as what a reader makes of it
    stored = open_source(connection, Server(server="input", type="local", path=str(source)))
    if missing := [column.name for column in contract.features if column.name not in stored]:
        names = ", ".join(map(repr, missing))
        raise InputError(
            f"{source}: no column {names}, which the model needs: it has {', '.join(map(repr, stored))[:300]}"
        )
    return Sieve(contract, stored)


def _rows_of_a_chunk(columns: int) -> int:
    return max(_SMALLEST, min(_LARGEST, 1 << (_CELLS // columns).bit_length() - 1))


def _seen(source: Path) -> list[Any]:
    """Give what tells a file from another one, or from itself after a change, without reading all of it."""
    stat = source.stat()
    with source.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        file.seek(max(0, stat.st_size - _EDGE))
        digest.update(file.read(_EDGE))
    return [source.name, stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


def _code() -> str:
    package = Path(__file__).parent.parent
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in _SOURCES)).hexdigest()


def _each_chunk(
    connection: duckdb.DuckDBPyConnection,
    sieve: Sieve,
    rows: int,
    parts: Parts,
    score: Callable[[pa.RecordBatch, int], tuple[Done, bytes, bytes]],
) -> Iterator[Done]:
    """Work through what is not done yet, on all cores, with a few chunks in memory; give what came of each chunk."""
    yield from parts.done.values()
    workers = os.cpu_count() or 1
    first = next(number for number in range(len(parts.done) + 1) if number not in parts.done)
    working: dict[Future[tuple[Done, bytes, bytes]], int] = {}

    def collect(most: int) -> Iterator[Done]:
        while len(working) > most:
            for ready in wait(working, return_when=FIRST_COMPLETED).done:
                done, answers, violations = ready.result()
                parts.keep(working.pop(ready), done, answers, violations)
                yield done

    with ThreadPoolExecutor(workers) as pool:
        for number, chunk in enumerate(_chunks(connection, sieve.query(), rows, first), first):
            if number not in parts.done:
                working[pool.submit(score, chunk, number * rows)] = number
                yield from collect(workers)
        yield from collect(0)


def _chunks(connection: duckdb.DuckDBPyConnection, query: str, rows: int, first: int) -> Iterator[pa.RecordBatch]:
    """Stream a query's result in chunks of exactly so many rows, whatever pieces it comes in, from a chunk on."""
    reader = connection.execute(f"{query} OFFSET {first * rows}").to_arrow_reader(rows)
    waiting: list[pa.RecordBatch] = []
    count = 0
    for piece in reader:
        while count + piece.num_rows >= rows:
            missing = rows - count
            yield _joined([*waiting, piece.slice(0, missing)])
            piece, waiting, count = piece.slice(missing), [], 0
        if piece.num_rows:
            waiting.append(piece)
            count += piece.num_rows
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.concat_batches(pieces) if len(pieces) > 1 else pieces[0]


def _scorer(model: Model, sieve: Sieve, output: Path) -> Callable[[pa.RecordBatch, int], tuple[Done, bytes, bytes]]:
    """Make the function that turns a chunk into what is written of it."""
    ask = quick(model)

    def score(chunk: pa.RecordBatch, before: int) -> tuple[Done, bytes, bytes]:
        sifted = sieve.sift(chunk)
        found = sifted.violations
        answers = ask(features.encode(sifted.rows, model.contract)) if len(sifted.places) else _no_output(model)
        rows, places = sifted.rows, sifted.places
        finite = np.isfinite(answers if answers.ndim == 1 else answers.sum(axis=1))
        if not finite.all():
            found = found + [_not_finite(int(place)) for place in places[~finite]]
            found.sort(key=lambda entry: entry.row or 0)
            rows, places, answers = rows.filter(pa.array(finite)), places[finite], answers[finite]
        table = _table(model, sieve, rows, places + before + 1, answers)
        broken = Counter((entry.column or "", entry.rule) for entry in found)
        warned = Counter({(column or "", rule): times for (column, rule), times in sifted.warnings.items()})
        done = Done(chunk.num_rows, len(places), _listed(broken), _listed(warned))
        lines = [
            json.dumps(asdict(entry) | {"row": before + 1 + (entry.row or 0)}, ensure_ascii=False) for entry in found
        ]
        return done, _render(table, output.name), "".join(f"{line}\n" for line in lines).encode()

    return score


def _not_finite(place: int) -> Violation:
    return Violation(place, None, "output", "the model gave an output that is not a finite number")


def _no_output(model: Model) -> Floats:
    return np.empty((0, len(model.contract.classes)) if model.contract.task == "multiclass" else 0)


def _table(model: Model, sieve: Sieve, rows: pa.RecordBatch, numbers: Any, output: Floats) -> pa.Table:
    """Put rows' numbers, keys and answers side by side: what `Model.decide` says, without a Python object for each."""
    contract = model.contract
    columns: dict[str, Any] = {"row": pa.array(numbers, pa.int64())}
    answers: dict[str, Any] = {}
    if contract.task == "regression":
        answers["prediction"] = pa.array(output)
    else:
        chosen = output >= model.threshold if contract.task == "binary" else output.argmax(axis=1)
        classes = pa.array(contract.classes, contract.target.arrow_type)
        answers["prediction"] = classes.take(pa.array(chosen.astype(np.int64)))
        shares = (
            [("probability", output)]
            if contract.task == "binary"
            else zip([f"probability_{value}" for value in contract.classes], output.T, strict=True)
        )
        answers |= {name: pa.array(np.ascontiguousarray(share)) for name, share in shares}
    for key in sieve.keys:
        columns[key.name if key.name not in {"row", *answers} else f"{key.name}_"] = rows.column(key.name)
    return pa.table(columns | answers)


def _empty(model: Model, sieve: Sieve) -> pa.Table:
    no_rows = model.contract.schema(sieve.columns).empty_table().combine_chunks()
    none = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in no_rows.schema], schema=no_rows.schema)
    return _table(model, sieve, none, np.empty(0, np.int64), _no_output(model))


def _render(table: pa.Table, name: str, header: bool = False) -> bytes:
    """Write a table as a piece of a file, of the kind that the file's name says."""
    if re.search(r"\.(parquet|pq)$", name):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue().to_pybytes()
    if re.search(r"\.(jsonl|ndjson)(\.gz)?$", name):
        with connect() as own:
            own.register("answers", table)
            lines = own.execute("SELECT to_json(answers)::VARCHAR FROM answers").to_arrow_table().column(0)
        content = "".join(f"{line}\n" for line in lines.to_pylist()).encode()
    else:
        sink = pa.BufferOutputStream()
        delimiter = "\t" if re.search(r"\.tsv(\.gz)?$", name) else ","
        options = pyarrow.csv.WriteOptions(include_header=header, delimiter=delimiter)
        pyarrow.csv.write_csv(table, sink, options)
        content = sink.getvalue().to_pybytes()
    return gzip.compress(content, 6, mtime=0) if name.endswith(".gz") and content else content


def _finish(parts: Parts, whole: Done, empty: pa.Table, source: Path) -> None:
    """Put the pieces together: first what was refused, then the output."""
    made = parts.folder / "whole"
    with made.open("wb") as file:
        for path in parts.of("refused"):
            with path.open("rb") as piece:
                shutil.copyfileobj(piece, file)
    if made.stat().st_size:
        made.replace(parts.refused)
    else:
        parts.refused.unlink(missing_ok=True)
    if not whole.scored:
        (column, rule, times) = whole.refused[0]
        parts.remove()
        where = f"most often column {column!r}, rule {rule!r}, {times:,} times"
        raise InputError(f"{source}: none of its {whole.rows:,} rows keeps the contract ({where}): see {parts.refused}")
    if re.search(r"\.(parquet|pq)$", parts.output.name):
        with pq.ParquetWriter(made, empty.schema, compression="zstd") as writer:
            for path in parts.of("answers"):
                writer.write_table(pq.read_table(path), _LARGEST)
    else:
        with made.open("wb") as file:
            file.write(_render(empty, parts.output.name, header=True))
            for path in parts.of("answers"):
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, file)
    with made.open("rb+") as file:
        os.fsync(file.fileno())
    made.replace(parts.output)
    parts.remove()


def _estimate(source: Path) -> float | None:
    """Say how many rows there are: of Parquet what it says itself, of plain text what its beginning lets expect."""
    if re.search(r"\.(parquet|pq)$", source.name):
        return float(pq.read_metadata(source).num_rows)
    if source.name.endswith(".gz"):
        return None
    with source.open("rb") as file:
        beginning = file.read(_EDGE)
    return source.stat().st_size * max(1, beginning.count(b"\n")) / len(beginning)


def _progress() -> Progress:
    columns = TextColumn("predict"), BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _count(entries: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    total: Counter[tuple[str, str]] = Counter()
    for column, rule, times in entries:
        total[column, rule] += times
    return _listed(total)


def _listed(counted: Counter[tuple[str, str]]) -> list[tuple[str, str, int]]:
    return [
        (column, rule, times)
        for (column, rule), times in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tell(whole: Done, parts: Parts, seconds: float) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("predicted", f"{whole.scored:,} rows", f"→ {parts.output}")
    if refused := whole.rows - whole.scored:
        table.add_row("refused", f"{refused:,} rows", f"→ {parts.refused}")
    for word, entries in (("broken", whole.refused), ("let pass", whole.warned)):
        for column, rule, times in entries[:_SHOWN]:
            table.add_row("", f"{times:,} × {word}", f"{column or 'model'}: {rule}")
    table.add_row("speed", f"{whole.rows / seconds:,.0f} rows/s", f"{seconds:.1f} s")
    Console().print(table)


@report_errors
def main() -> None:
    """Predict the file."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.serving.batch",
        description=__doc__,
    )
    parser.add_argument("input", type=Path, help="CSV, TSV or JSON Lines, each also gzipped, or Parquet")
    parser.add_argument("output", type=Path, help="of any of these kinds, by its ending")
    parser.add_argument("--model", type=Path, help="a model's folder, such as models/candidate; else the champion")
    chosen = parser.parse_args()
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as kept:
            model, name = load(chosen.model, Path(kept))
        without_pandas()
        whole, parts = predict(chosen.input, chosen.output, model, name, lambda line: print(line, file=sys.stderr))
    except duckdb.Error as error:
        raise unreadable(chosen.input, error) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise InputError(f"{error.filename}: {error.strerror}") from None
    _tell(whole, parts, time.perf_counter() - start)


if __name__ == "__main__":
    main()
