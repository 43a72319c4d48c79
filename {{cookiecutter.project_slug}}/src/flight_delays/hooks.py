"""What must not be committed? A contract that cannot be read, and data that DVC does not know as they are.

`.pre-commit-config.yaml` runs this module with `contract` and with `data`: both are for people who wait.
"""

import hashlib
import sys
from pathlib import Path

import yaml

from flight_delays.errors import InputError, report_errors
from flight_delays.settings import LOADER

RAW = Path("data/raw")
READ_WHOLE = 1 << 30  # bytes that are read in about two seconds; of what is larger, the size alone is compared


def check_contract() -> None:
    """Read the contract; one that does not describe features yet need only say what `make contract` begins with.

    Raises
    ------
    InputError
        It cannot be used; the message names the column and the rule.
    """
    # takes longer than all that is done for data
    from flight_delays.contract import (
        PATH,
        Contract,
    )
    from flight_delays.infer.document import Document

    document = Document(PATH)
    if document.target and document.described:
        Contract.read(PATH)


def check_data() -> None:
    """Compare the raw data that are here with what their `.dvc` files say; `dvc` itself takes a second to start.

    Raises
    ------
    InputError
        A file is new or was changed without `dvc add`.
    """
    for path in sorted(RAW.glob("[!.]*")):
        if path.suffix == ".dvc":
            continue
        pointer = path.with_name(f"{path.name}.dvc")
        if not pointer.is_file():
            raise InputError(f"{path} is new to DVC: run `dvc add {path}`, and commit {pointer}")
        if not _is_as_added(path, pointer):
            raise InputError(f"{path} is not what {pointer} says: run `dvc add {path}`, and commit {pointer} with it")


def _is_as_added(path: Path, pointer: Path) -> bool:
    try:
        (known,) = yaml.load(pointer.read_text(encoding="utf-8"), LOADER)["outs"]  # noqa: S506 (it is a safe one)
        size, digest = known["size"], known["md5"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise InputError(f"{pointer} is damaged: take it back from git, or run `dvc add {path}`") from None
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if sum(file.stat().st_size for file in files) != size:
        return False
    if path.is_dir() or size > READ_WHOLE:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == str(digest)


@report_errors
def main() -> None:
    """Check what the command line names."""
    checks = {"contract": check_contract, "data": check_data}
    if sys.argv[1:] not in [[name] for name in checks]:
        raise InputError(f"say what to check: {' or '.join(checks)}")
    checks[sys.argv[1]]()


if __name__ == "__main__":
    main()
