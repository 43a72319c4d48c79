"""What was tested by hand, and may it count? Half a point for a record that is signed, dated, and not too old.

A record is `docs/ml_test_score/<row>.md`: front matter `by: Name <mail>`, `date` and `expires` (YYYY-MM-DD), then what
was done and what was found. It is signed by being committed under the same mail.
"""

import datetime
import subprocess
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import yaml

from flight_delays.ml_test_score.rubric import ROWS

FOLDER = Path("docs/ml_test_score")
_LONGEST = datetime.timedelta(days=365)  # things change: after a year, look again


@dataclass(frozen=True)
class Record:
    """What somebody wrote of a row.

    Attributes
    ----------
    path
        The file, relative to the project.
    refused
        Why it does not count; None if it does.
    words
        Who tested and when, if it counts.
    """

    path: str
    refused: str | None
    words: str = ""


def read_records(root: Path, today: datetime.date) -> dict[str, Record]:
    """Read all records of a project, by row.

    Parameters
    ----------
    root
        The project's folder.
    today
        A record counts from its date to the day it expires.
    """
    found = {row: root / FOLDER / f"{row}.md" for row in ROWS}
    return {row: _read(root, path, today) for row, path in found.items() if path.is_file()}


def find_strays(root: Path) -> list[str]:
    """List the files among the records that are named after no row.

    Parameters
    ----------
    root
        The project's folder.
    """
    known = {*ROWS, "README"}
    return [str(path.relative_to(root)) for path in sorted((root / FOLDER).glob("*.md")) if path.stem not in known]


def _read(root: Path, path: Path, today: datetime.date) -> Record:
    name = path.relative_to(root).as_posix()
    try:
        head, body = _parse(path.read_text(encoding="utf-8"))
        words = _check(head, body, today)
        _check_signature(root, name, parseaddr(str(head["by"]))[1])
    except ValueError as fault:
        return Record(name, str(fault))
    return Record(name, None, words)


def _parse(text: str) -> tuple[dict[str, Any], str]:
    start, _, rest = text.partition("---\n")
    front, end, body = rest.partition("\n---\n")
    if start.strip() or not end:
        raise ValueError("it has no front matter between two lines `---`")
    try:
        head = yaml.safe_load(front)
    except yaml.YAMLError:
        raise ValueError("its front matter is not YAML") from None
    return head if isinstance(head, dict) else {}, body


def _check(head: dict[str, Any], body: str, today: datetime.date) -> str:
    name, mail = parseaddr(str(head.get("by", "")))
    if not name or "@" not in mail:
        raise ValueError("`by` must be `Name <mail>`")
    done, expires = head.get("date"), head.get("expires")
    if type(done) is not datetime.date or type(expires) is not datetime.date:
        raise ValueError("`date` and `expires` must be dates, YYYY-MM-DD")
    if done > today:
        raise ValueError(f"it is dated in the future, {done}")
    if not done <= expires <= done + _LONGEST:
        raise ValueError(f"it must expire within {_LONGEST.days} days after its date")
    if expires < today:
        raise ValueError(f"it expired on {expires}: test again")
    if not body.strip():
        raise ValueError("it does not say what was done and found")
    return f"tested by {name} on {done}, counts until {expires}"


def _check_signature(root: Path, name: str, mail: str) -> None:
    commit, _, author = _git(root, "log", "-1", "--format=%H %ae", "--", name).partition(" ")
    if not commit:
        raise ValueError("it is not committed")
    if _git(root, "status", "--porcelain", "--", name):
        raise ValueError("it has changes that are not committed")
    shallow = Path(root, _git(root, "rev-parse", "--git-path", "shallow"))
    if shallow.is_file() and commit in shallow.read_text(encoding="ascii").split():
        raise ValueError("git's history is cut off here, so its signature cannot be seen: `git fetch --unshallow`")
    if author.casefold() != mail.casefold():
        raise ValueError(f"it is by {mail}, but {author} committed it last")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()
