"""How do files come into a repository that has files already? Whole or not at all, and over nothing that is there."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from found import RefusedError

KEPT = ".fullmarks"  # where the template's version of what is there already can be looked at; git ignores it


@dataclass(frozen=True)
class File:
    """What a file is to be.

    Attributes
    ----------
    content
        Its bytes.
    mode
        Its rights.
    """

    content: bytes
    mode: int = 0o644


@dataclass
class Plan:
    """What comes, what is there already, and what differs."""

    brought: dict[str, File] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    differing: dict[str, File] = field(default_factory=dict)


def read(root: Path, names: list[str]) -> dict[str, File]:
    """Read files and folders with all that is in them."""
    found = [path for name in names for path in ([root / name] if (root / name).is_file() else sorted((root / name).rglob("*")))]
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(root).as_posix(): File(path.read_bytes(), path.stat().st_mode & 0o777) for path in files}


def plan(repository: Path, files: dict[str, File]) -> Plan:
    """Compare with what is there."""
    made = Plan()
    for name, file in sorted(files.items()):
        path = repository / name
        if os.path.lexists(path) or is_blocked(repository, path):
            if path.is_file() and path.read_bytes() == file.content:
                made.same.append(name)
            else:
                made.differing[name] = file
        else:
            made.brought[name] = file
    return made


def is_blocked(repository: Path, path: Path) -> bool:
    """Whether a file stands where a folder would have to be, or a link leads out of the repository."""
    parents = [parent for parent in path.parents if repository in parent.parents and os.path.lexists(parent)]
    return any(not parent.is_dir() for parent in parents) or not path.parent.resolve().is_relative_to(repository.resolve())


def lay(repository: Path, helper: Path, made: Plan) -> None:
    """Write what is new, and beside it what differs; take all back if one cannot be written."""
    kept = repository / KEPT
    if made.differing and os.path.lexists(kept):
        raise RefusedError(f"{KEPT}: an earlier run left the template's versions there: look at them, and remove the folder")
    written: list[Path] = []
    try:
        for name, file in made.differing.items():
            write(helper / name, file, written)
        for name, file in made.brought.items():
            write(repository / name, file, written)
        if made.differing:
            helper.rename(kept)
    except OSError as fault:
        for path in reversed(written):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        raise RefusedError(f"{fault.filename or repository}: cannot be written ({fault.strerror}): nothing was changed") from None
    if not made.differing:
        shutil.rmtree(helper)


def write(path: Path, file: File, written: list[Path]) -> None:
    """Write one new file and the folders it needs, and remember each."""
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir()
        written.append(folder)
    with path.open("xb") as stream:  # never over a file
        written.append(path)
        stream.write(file.content)
    path.chmod(file.mode)
