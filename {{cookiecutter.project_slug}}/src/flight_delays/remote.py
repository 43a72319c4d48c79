"""Do data and models reach the remote, and come back, whole? `make push` and `make pull`.

Both are DVC's own, which takes an object in its cache for what it is called, and one in the remote for what was once
pushed. So each object of this commit is read here before it is used or sent, and can be sent over one that is damaged.
"""

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

# It asks Google for each bucket's kind, over another protocol and for half a minute where it may not.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from dvc.exceptions import CheckoutError, DownloadError, DvcException, UploadError
from dvc.repo import Repo
from dvc_data.hashfile.hash import file_md5
from dvc_objects.errors import ObjectFormatError

from flight_delays.errors import InputError, report_errors, some

_HELP = "README.md, “Data and models for others”, says how address and credentials are given"


class _Heard(logging.Handler):
    """Keeps what DVC complains of, which it would print over several lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        for name in ("dvc", "dvc_data", "dvc_objects"):
            logger = logging.getLogger(name)
            logger.handlers = [*(other for other in logger.handlers if other.level < self.level), self]
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it shows as tracebacks, it raises as well

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        fault = record.exc_info[1] if record.exc_info else None
        self.said.append(record.getMessage() + (f" - {fault}" if fault else ""))


def share(command: str, *, again: bool = False) -> str:
    """Push or pull what the commit that is checked out has of data and models, and say what was done.

    Parameters
    ----------
    command
        `push` or `pull`.
    again
        Send also what is in the remote already, over what is there.

    Raises
    ------
    InputError
        The remote refuses, or something is missing or damaged; what was whole before still is.
    """
    heard = _Heard()
    try:
        with Repo() as repo:
            where = _reached(repo.cloud.get_remote(command=command))
            damaged = _drop_damaged(repo)
            if command == "pull":
                return _pull(repo, heard, where)
            if damaged:
                raise InputError(
                    f"{some(damaged)} in DVC's cache was damaged, and is taken out of it: `make pull` first"
                )
            return _push(repo, heard, where, again=again)
    except DvcException as fault:  # also of the settings
        raise InputError(f"{command}: {_folded(fault)}: {_HELP}") from None


def _pull(repo: Any, heard: _Heard, where: str) -> str:
    lacking = "let somebody who has it run `make push AGAIN=1`, then `make pull` once more"
    try:
        done = repo.pull()
    except CheckoutError as fault:
        lost = {str(name) for name in fault.target_infos}
        if sources := sorted(lost & {str(out) for out in repo.index.outs if out.stage.is_data_source}):
            raise InputError(f"{where} lacks {some(sources)}, or what it has is damaged: {lacking}") from None
        return f"the sources are here; `make pipeline` makes what {where} lacks: {some(sorted(lost))}"
    except ObjectFormatError as fault:
        raise InputError(f"{where}: {_folded(fault)}: {lacking}") from None
    except DownloadError as fault:
        raise _failed("pull", where, [*heard.said, str(fault)]) from None
    except DvcException as fault:
        first, *names = str(fault).splitlines()
        if "unsaved" in first:
            raise InputError(f"pull would overwrite changes: move {some(names)} away, and pull again") from None
        raise InputError(f"pull: {_folded(fault)}") from None
    changed = [name for how in ("added", "modified", "deleted") for name in done.get(how, ())]
    return f"{done['stats']['fetched']} objects from {where}; changed here: {', '.join(changed) or 'nothing'}"


def _push(repo: Any, heard: _Heard, where: str, *, again: bool) -> str:
    try:
        count = _send_again(repo) if again else repo.push()
    except UploadError as fault:
        raise _failed("push", where, [*heard.said, str(fault)]) from None
    if heard.said:  # it only warns of what is nowhere
        raise InputError(f"push, {where}: {_folded(heard.said[0])}: `make pull` or `make pipeline` brings it here")
    return f"{count} objects to {where}" if count else f"{where} has it all"


def _failed(command: str, where: str, said: list[str]) -> InputError:
    return InputError(f"{command}, {where}: {_folded(said[0])}: {_HELP}")


def _reached(remote: Any) -> str:
    """Give the remote's address, having seen that it lets us in."""
    where = str(remote.fs.unstrip_protocol(remote.path))
    try:
        remote.fs.exists(remote.path)
    except Exception as fault:  # of its own library
        raise InputError(f"{where} cannot be used: {_folded(fault)}: {_HELP}") from None
    return where


def _objects(repo: Any) -> dict[str, str]:
    """List this commit's objects that are in the cache, and the file or folder that each is."""
    found = {}
    for out in repo.index.outs:
        name = out.hash_info.value
        if not out.use_cache or not name:
            continue
        found[name] = str(out)
        listing = Path(repo.cache.local.oid_to_path(name))
        if out.hash_info.isdir and listing.exists():
            try:
                found |= {entry["md5"]: f"{out}/{entry['relpath']}" for entry in json.loads(listing.read_bytes())}
            except (ValueError, TypeError, KeyError):  # damaged, as will be seen
                continue
    return {name: what for name, what in found.items() if Path(repo.cache.local.oid_to_path(name)).exists()}


def _drop_damaged(repo: Any) -> list[str]:
    """Take out of the cache what is not what its name says, and the copies that were made of it; say which files."""
    dropped = []
    for name, what in _objects(repo).items():
        path, copy = Path(repo.cache.local.oid_to_path(name)), Path(what)
        found = file_md5(str(path))
        if found != name.removesuffix(".dir"):
            path.unlink()
            if copy.is_file() and file_md5(str(copy)) == found:
                copy.unlink()
            dropped.append(what)
    return dropped


def _send_again(repo: Any) -> int:
    """Put each object into the remote, whatever lies there, a folder's list after its files."""
    cache, remote = repo.cache.local, repo.cloud.get_remote_odb(command="push")
    names = sorted(_objects(repo), key=lambda name: name.endswith(".dir"))
    for name in names:
        remote.add(cache.oid_to_path(name), cache.fs, name, check_exists=False, verify=False)
    repo.push()  # what is not in the cache is missed as ever
    return len(names)


def _folded(said: object) -> str:
    return " ".join(str(said).split())[:300].rstrip(".")


@report_errors
def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("push", "pull"))
    parser.add_argument("--again", action="store_true", help="push also what is there already, over what is there")
    arguments = parser.parse_args()
    print(share(arguments.command, again=arguments.again))


if __name__ == "__main__":
    main()
