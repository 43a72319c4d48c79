"""How does the copied payload become this project? Gives it its names, keeps what was chosen, brings the data, commits."""

import os
import sys

# Cookiecutter starts this in the folder of temporary files, where anybody may have left a `re.py`.
sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]

import codecs
import contextlib
import datetime
import io
import json
import re
import shutil
import subprocess
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | tojson}})  # type: ignore # noqa: F821 (cookiecutter fills it in: data, not code)

PACKAGE, SLUG, TITLE = "flight_delays", "flight-delays", "Flight Delays"  # as the payload calls itself
PURPOSE = "Will a flight out of New York arrive more than 15 minutes late?"  # and what its README says it is for
TEXT_SUFFIXES = {
    ".cfg", ".conf", ".css", ".html", ".ini", ".js", ".json", ".md", ".py", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip
TEXT_NAMES = {
    ".dockerignore", ".dvcignore", ".gitattributes", ".gitignore", "CODEOWNERS", "Dockerfile", "Jenkinsfile", "Makefile",
    "config", "config.azure", "config.gcs", "config.s3",
}  # fmt: skip
VERSIONED = (".gitlab-ci.yml", ".travis.yml", "Dockerfile", "Jenkinsfile")  # these say which Python; others ask pyproject.toml

# Which files belong to which answer. Whatever belongs to an answer that was not given is removed.
CHOICES = {
    "ci": {
        "github": [".github"],
        "gitlab": [".gitlab-ci.yml", ".gitlab"],
        "jenkins": ["Jenkinsfile"],
        "travis": [".travis.yml"],
        "none": [],
    },
    "dataset": {
        "example": ["src/flight_delays/flights.py", "tests/data/test_flights.py"],
        "own": [],
    },
    "license": {
        "MIT": ["licenses/MIT.txt"],
        "Apache-2.0": ["licenses/Apache-2.0.txt"],
        "BSD-3-Clause": ["licenses/BSD-3-Clause.txt"],
        "Proprietary": ["licenses/Proprietary.txt"],
    },
    "remote": {
        "local": [],
        "s3": [".dvc/config.s3"],
        "gcs": [".dvc/config.gcs"],
        "azure": [".dvc/config.azure"],
    },
}
LEFTOVERS = (
    "data",
    "dvc.lock",
    "reports",
    "uv.lock",
)  # what a run of the payload in place leaves, beside what its .gitignore names
DVC_EXTRAS = {"s3": "s3", "gcs": "gs", "azure": "azure"}
ARTIFACTS = {  # what MLflow keeps a model's files with, in a store of this kind
    "s3": ["boto3>=1.40"],
    "gcs": ["google-cloud-storage>=3.4"],
    "azure": ["azure-identity>=1.25", "azure-storage-blob>=12.26"],
}
KINDS = r"\.(?:(csv|tsv|jsonl|ndjson)(?:\.gz)?|(parquet|pq))$"
FORMATS = {"csv": "csv", "tsv": "csv", "jsonl": "json", "ndjson": "json", "parquet": "parquet", "pq": "parquet"}
BLOCK = 1 << 20  # bytes
TIMEOUT = 30  # seconds
QUIET_GIT = ("commit.gpgSign=false", "core.autocrlf=false", f"core.excludesFile={os.devnull}", f"core.hooksPath={os.devnull}")


class RefusedError(Exception):
    """What keeps this project from being made; the text says what is wrong, where, and what to do."""


def make_project(answers: dict[str, Any]) -> None:
    """Turn the payload in the current folder into the project that was asked for."""
    remove_leftovers()
    prune(answers)
    give_names(answers)
    fill_readme(answers)
    fill_pyproject(answers)
    put_licence(answers)
    name_reviewer(answers)
    point_remote(answers["remote"])
    set_python(answers["python_version"])
    write_contract(answers)
    if is_rerendered(answers):
        print("fullmarks: rendered once more for cruft; your data and your git history are left alone")
        return
    if answers["dataset"]:
        bring_data(answers["dataset"], data_file(answers["dataset"]))
    committed = commit(answers)
    say_what_is_next(answers, committed)


def is_rerendered(answers: dict[str, Any]) -> bool:
    """Whether `cruft update` or `cruft diff` renders into a temporary folder, on a machine where the data may be gone."""
    outer = Path.cwd().parent
    in_temporary = outer.parent == Path(tempfile.gettempdir()).resolve() and re.fullmatch(r"tmp[a-z0-9_]{8}", outer.name)
    return "_output_dir" not in answers and bool(in_temporary)


# What is there too much


def remove_leftovers() -> None:
    """Remove what running the payload in place has left: it was copied from a used working tree, not from a clone."""
    with tempfile.TemporaryDirectory() as outside:
        git("init", "--quiet", "--bare", "--template=", outside)
        git(f"--git-dir={outside}", "--work-tree=.", "-c", "core.bare=false", "clean", "-ffdXq")
    for name in LEFTOVERS:
        remove(Path(name))


def prune(answers: dict[str, Any]) -> None:
    """Keep of each option's files those of the answer."""
    given = answers | {"dataset": "own" if answers["dataset"] else "example"}
    for option, files in CHOICES.items():
        kept = set(files[given[option]])
        for name in {name for names in files.values() for name in names} - kept:
            remove(Path(name))


def remove(path: Path) -> None:
    """Remove a file or folder, and the folders that are empty without it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the first one that is not empty
        for parent in path.parents[:-1]:
            parent.rmdir()


# What it is called


def give_names(answers: dict[str, Any]) -> None:
    """Put the project's names in the place of the payload's, in paths and in text."""
    names = {PACKAGE: answers["package_name"], SLUG: answers["project_slug"]}
    payload_name = re.compile("|".join(map(re.escape, names)))
    for path in text_files():
        change(path, lambda text: payload_name.sub(lambda match: names[match[0]], text))
    (Path("src") / PACKAGE).rename(Path("src") / names[PACKAGE])


def text_files() -> list[Path]:
    """List the files whose text may hold a name."""
    return [
        Path(folder, name)
        for folder, _, names in os.walk(".")
        for name in names
        if Path(name).suffix in TEXT_SUFFIXES or name in TEXT_NAMES
    ]


def change(path: Path, edit: Callable[[str], str]) -> None:
    """Rewrite a text file, keeping its mode and its line ends."""
    before = path.read_bytes().decode("utf-8")
    after = edit(before)
    if after != before:
        path.write_bytes(after.encode("utf-8"))


def replace_line(text: str, pattern: str, line: str) -> str:
    """Put a line in the place of the only one that matches."""
    changed, count = re.subn(rf"^{pattern}$", lambda _: line, text, flags=re.MULTILINE)
    if count != 1:
        raise RefusedError(f"template: {pattern!r} stands {count} times in the payload, not once: please report it")
    return changed


def fill_readme(answers: dict[str, Any]) -> None:
    """Put the project's title and purpose where the payload has its own."""
    words = {TITLE: one_line(answers["project_name"]), PURPOSE: one_line(answers["description"])}
    own = re.compile("|".join(map(re.escape, words)))
    change(Path("README.md"), lambda text: own.sub(lambda match: words[match[0]], text))


def fill_pyproject(answers: dict[str, Any]) -> None:
    """Put the answers into pyproject.toml, as data."""
    extra, licence = DVC_EXTRAS.get(answers["remote"]), answers["license"]
    lines = {
        r"description = .*": f"description = {quoted(one_line(answers['description']))}",
        r"authors = .*": "authors = [{ name = " + quoted(one_line(answers["author"])) + " }]",
        r"license = .*": f"license = {quoted('LicenseRef-Proprietary' if licence == 'Proprietary' else licence)}",
        r"requires-python = .*": f'requires-python = "=={answers["python_version"]}.*"',
    }

    def edit(text: str) -> str:
        for pattern, line in lines.items():
            text = replace_line(text, pattern, line)
        if extra:
            packages = "".join(f'    "{package}",\n' for package in ARTIFACTS[answers["remote"]])
            text = text.replace('    "dvc>=', f'{packages}    "dvc[{extra}]>=')
        if answers["dataset"]:
            text = replace_line(text, r"example = \[.*\]\n?", "")
        return text

    change(Path("pyproject.toml"), edit)


def one_line(text: str) -> str:
    """Fold a text into one line."""
    return " ".join(text.split())


def quoted(text: str) -> str:
    """Write a text as a string of JSON, which TOML and YAML read alike."""
    return json.dumps(text, ensure_ascii=False)


# What was chosen


def put_licence(answers: dict[str, Any]) -> None:
    """Put the chosen licence where everybody looks for it."""
    chosen = Path("licenses", f"{answers['license']}.txt")
    blanks = {"[year]": str(datetime.datetime.now(datetime.timezone.utc).year), "[owner]": one_line(answers["author"])}
    text = re.sub(r"\[year\]|\[owner\]", lambda match: blanks[match[0]], chosen.read_text(encoding="utf-8"))
    Path("LICENSE").write_bytes(text.encode("utf-8"))
    remove(chosen)


def name_reviewer(answers: dict[str, Any]) -> None:
    """Let whoever makes the project review it, known to GitHub and GitLab by the mail address that git has."""
    mail = os.environ.get("GIT_AUTHOR_EMAIL") or git("config", "user.email", check=False).stdout.strip()
    if re.fullmatch(r"[^\s#@]+@[^\s#@]+", mail):
        change(Path("CODEOWNERS"), lambda text: text.replace(f"* {answers['project_slug']}@localhost", f"* {mail}"))


def point_remote(remote: str) -> None:
    """Let `make push` go to the chosen store."""
    chosen = Path(".dvc", f"config.{remote}")
    if remote != "local":
        chosen.replace(Path(".dvc", "config"))


def set_python(version: str) -> None:
    """Name the Python in the files that cannot ask pyproject.toml."""
    for path in filter(Path.is_file, map(Path, VERSIONED)):
        change(path, lambda text: re.sub(r"\b3\.11\b", version, text))


# What it is about


def write_contract(answers: dict[str, Any]) -> None:
    """Name the example's contract, or begin one of the user's data: what it predicts, and from which file."""
    contract = Path("contract.yaml")
    name = quoted(one_line(answers["project_name"]))
    if not answers["dataset"]:
        change(contract, lambda text: replace_line(text, "name: .*", f"name: {name}"))
        return
    path = data_file(answers["dataset"])
    target, task = quoted(answers["target"]), quoted(answers["task"])
    contract.write_bytes(
        f"""\
apiVersion: v3.1.0
kind: DataContract
id: {quoted(answers["project_slug"])}
name: {name}
version: 1.0.0
status: draft
servers:
  - server: development
    type: local
    path: {quoted(path.as_posix())}
    format: {FORMATS[kind_of(path.name)]}
schema:
  - name: {quoted(table_name(path))}
    properties:
      - name: {target}
        tags: [target]
        customProperties:
          - property: task
            value: {task}
""".encode()
    )


def kind_of(name: str) -> str:
    """Tell from a file's name what is in it; nothing if it does not say."""
    found = re.search(KINDS, name, re.IGNORECASE)
    return next(group for group in found.groups() if group).lower() if found else ""


def data_file(dataset: str) -> Path:
    """Name the project's copy of the data, so that a shell, a URL and a YAML file can hold it."""
    name = location_name(dataset)
    stem = re.sub(KINDS, "", name, flags=re.IGNORECASE)
    suffix = name.removeprefix(stem).lower()
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return Path("data", "raw", (re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-") or "data") + suffix)


def table_name(path: Path) -> str:
    """Name the contract's one table after its file, as an identifier."""
    stem = re.sub(r"\W+", "_", re.sub(KINDS, "", path.name).lower())
    return stem if stem[0].isalpha() else f"data_{stem}"


# Where it comes from


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
    return next((candidate for candidate in standing if candidate.exists()), standing[-1])


@contextlib.contextmanager
def opened(dataset: str) -> Iterator[io.BufferedReader]:
    """Open the bytes behind a path or URL."""
    if is_url(dataset) and not dataset.lower().startswith("file:"):
        import http.client
        import urllib.request

        request = urllib.request.Request(dataset, headers={"User-Agent": "cookiecutter-fullmarks"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response, io.BufferedReader(response) as stream:
                yield stream
        except http.client.HTTPException as fault:
            raise OSError(f"{type(fault).__name__} {fault}") from None
    else:
        with local_path(dataset).open("rb") as stream:
            yield stream


def bring_data(dataset: str, goal: Path) -> None:
    """Copy or download the data, whole or not at all."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    partial = goal.with_name(goal.name + ".partial")
    checks: dict[str, type[TextCheck]] = {".gz": GzipCheck, ".parquet": NoCheck, ".pq": NoCheck}
    check = checks.get(goal.suffix, TextCheck)()
    try:
        with opened(dataset) as stream, partial.open("wb") as copy:
            while block := stream.read(BLOCK):
                check(block)
                copy.write(block)
            if expected := getattr(getattr(stream, "raw", None), "length", None):
                raise OSError(f"{expected} bytes are missing")
        check(b"")
    except (OSError, EOFError, ValueError, zlib.error) as fault:
        raise RefusedError(f"dataset: {dataset}: cannot be brought into the project: {one_line(str(fault))}") from None
    partial.replace(goal)


class TextCheck:
    """Watches text go by and complains where it is not UTF-8."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.lines, self.bytes, self.pending = 1, 0, 0

    def __call__(self, block: bytes) -> None:
        """Check the next block; an empty one is the end."""
        self.decode(block, final=not block)

    def decode(self, text: bytes, *, final: bool) -> None:
        """Decode the next bytes; a letter may go over their end."""
        try:
            self.decoder.decode(text, final)
        except UnicodeDecodeError as fault:
            line = self.lines + fault.object[: fault.start].count(b"\n")
            place = f"line {line}, byte {self.bytes + fault.start + 1} (0x{fault.object[fault.start]:02x})"
            raise ValueError(f"{place} is not UTF-8: convert it, say with `iconv -f WINDOWS-1252 -t UTF-8`") from None
        self.lines += text.count(b"\n")
        self.bytes += len(text) + self.pending - len(self.decoder.getstate()[0])
        self.pending = len(self.decoder.getstate()[0])


class NoCheck(TextCheck):
    """Lets Parquet go by: its readers check it."""

    def __call__(self, block: bytes) -> None:
        """Take the next block as it is."""


class GzipCheck(TextCheck):
    """Watches gzipped text go by, a piece at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.unzip = zlib.decompressobj(wbits=31)

    def __call__(self, block: bytes) -> None:
        """Check the next block; an empty one is the end."""
        if not block:
            self.decode(self.unzip.flush(), final=True)
            if not self.unzip.eof:
                raise EOFError("the gzip data ends too early: copy or download it again")
        while block.strip(b"\0"):
            if self.unzip.eof:  # gzip files may be joined
                self.unzip = zlib.decompressobj(wbits=31)
            self.decode(self.unzip.decompress(block, BLOCK), final=False)
            block = self.unzip.unused_data if self.unzip.eof else self.unzip.unconsumed_tail


# What is remembered


def commit(answers: dict[str, Any]) -> bool:
    """Make the first commit, unless an existing repository decides about that."""
    if is_in_repository():
        return False
    git("init", "--quiet", "--template=")
    git("symbolic-ref", "HEAD", "refs/heads/main")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"Start from cookiecutter-fullmarks {answers['_version']}", settings=identity(answers))
    return True


def is_in_repository() -> bool:
    """Whether a repository around the project, or of its own, takes part in this; one that ignores the folder does not."""
    inside = git("rev-parse", "--is-inside-work-tree", check=False).stdout.strip() == "true"
    return inside and git("check-ignore", "--quiet", str(Path.cwd()), check=False).returncode != 0


def identity(answers: dict[str, Any]) -> tuple[str, ...]:
    """Name a committer where git knows none."""
    name = one_line(answers["author"]).strip(" .,:;<>\"\\'") or "Full Marks"
    wanted = {"name": f"user.name={name}", "email": f"user.email={answers['project_slug']}@localhost"}
    known = {key for key in wanted if git("config", f"user.{key}", check=False).stdout.strip()}
    return tuple(setting for key, setting in wanted.items() if key not in known and f"GIT_AUTHOR_{key.upper()}" not in os.environ)


def git(*arguments: str, settings: tuple[str, ...] = (), check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run git here, whatever repository the caller's environment names, without the user's hooks and signatures."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    }
    options = [word for setting in (*QUIET_GIT, *settings) for word in ("-c", setting)]
    done = subprocess.run(
        ["git", *options, *arguments], env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if check and done.returncode:
        raise RefusedError(f"git: `git {arguments[0]}` failed: {one_line(done.stderr)}")
    return done


def say_what_is_next(answers: dict[str, Any], committed: bool) -> None:
    """Print what was made and the commands that follow."""
    slug, data = answers["project_slug"], answers["dataset"]
    print(f"\nfullmarks: {slug} is ready" + (", and committed" if committed else "; commit it to the repository it stands in"))
    if data:
        print(f"  your data is in {data_file(data)}, which git ignores; contract.yaml begins to say what it must be")
    if "_output_dir" not in answers:
        print("  cruft adds .cruft.json now: commit it too, so that `cruft update` can bring later versions")
    print(f"\n  cd {slug}")
    print("  make setup       # environment, uv.lock" + (" and a proposal of contract.yaml: correct it" if data else ""))
    if data:
        print("  make contract    # shows where contract and data differ")
    print("  git add --all && git commit -m 'Lock the environment'    # the model will name this commit")
    print("  make pipeline    # data to registered model; commit what it wrote")
    print("  make test        # the project's own tests")
    print("  make score       # its ML Test Score")


def main() -> int:
    """Make the project, or say in one line why not."""
    try:
        make_project(ANSWERS)
    except RefusedError as fault:
        print(f"fullmarks: {fault}", file=sys.stderr)
    except OSError as fault:
        print(f"fullmarks: the project cannot be written: {one_line(str(fault))}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
