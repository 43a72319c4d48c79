"""Is a secret where others read it? Looks through files, all that git remembers, the layers of images, and logs."""

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from bakery import PAYLOAD, git
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

Texts = Iterable[tuple[str, bytes]]  # each with its place
APART = {".venv", ".secrets"}  # where libraries and secrets belong
LOGGED = {"Base64HighEntropyString", "HexHighEntropyString"}  # logs are full of ids, which look like these
OURS = ("app/", "home/", "root/", "run/", "store/", "tmp/", "var/log/")  # what an image has beside its libraries


def leaks(
    texts: Texts,
    secrets: Iterable[str] = (),
    *,
    without: Iterable[str] = (),
    trusted: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Name the places where a secret stands that is in use, or something that looks like one.

    Parameters
    ----------
    texts
        What is looked at.
    secrets
        Those in use, each searched for as it is.
    without
        Detectors that are left out.
    trusted
        Whether a place may hold what looks like a secret; those in use are searched for everywhere.
    """
    detectors: dict[str, Any] = get_mapping_from_secret_type_to_class()
    names = {kind.__name__ for kind in detectors.values()} - set(without)
    known = [(secret, secret.encode()) for secret in secrets]
    found, seen = [], set()
    with (
        transient_settings({"plugins_used": [{"name": name} for name in names]}) as settings,
        tempfile.TemporaryDirectory() as folder,
    ):
        settings.filters["detect_secrets.filters.regex.should_exclude_line"] = {"pattern": [_no_secrets()]}
        for number, (place, content) in enumerate(texts):
            found += [f"{place}: {secret[:4]}…, which is in use" for secret, sought in known if sought in content]
            if b"\0" not in content and content not in seen and not trusted(place):
                seen.add(content)
                path = Path(folder, str(number), Path(place).name)  # the name says what kind of text it is
                path.parent.mkdir()
                path.write_bytes(content)
                found += [f"{place}: {hit.type}, line {hit.line_number}" for hit in scan_file(str(path))]
                path.unlink()
    return found


def _no_secrets() -> str:
    """Read which lines the project's own check passes over."""
    hooks = yaml.safe_load((PAYLOAD / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["id"] == "secrets"]
    match = re.search(r"--exclude-lines '(.+)'", entry)
    assert match
    return match[1]


def of_project(folder: Path, secrets: Iterable[str] = ()) -> list[str]:
    """Name the places in a project, in what git remembers of it, and in what git ignores: programs fill that with ids."""
    secrets = list(secrets)
    return leaks([*history(folder), *files(folder)], secrets) + leaks(ignored(folder), secrets, trusted=lambda _: True)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read the files that are committed, or could be."""
    for name in git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()


def ignored(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read the files that git ignores, but for libraries and the folder of secrets."""
    for name in git(folder, "ls-files", "--others", "--ignored", "--exclude-standard", "-z").split("\0"):
        path = folder / name
        if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] not in APART:
            yield name, path.read_bytes()


def in_use(folder: Path) -> list[str]:
    """List the secrets of a project that was started as a stack."""
    texts = [path.read_text(encoding="utf-8") for path in (folder / ".secrets").iterdir()]
    return sorted({word for text in texts for word in re.findall(r"[0-9a-f]{20,}", text)})


def history(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read each version of each file that was ever committed, on any branch, and what was said of it."""
    yield "messages of commits", git(folder, "log", "--all", "--format=%an %ae%n%B").encode()
    listed = ("rev-list", "--all", "--objects", "--filter=object:type=blob", "--filter-provided-objects")
    for line in git(folder, *listed).splitlines():
        name, _, path = line.partition(" ")
        content = subprocess.run(["git", "-C", str(folder), "cat-file", "blob", name], capture_output=True, check=True)
        yield f"{name[:12]}/{path}", content.stdout


def layers(image: str) -> Iterator[tuple[str, bytes]]:
    """Read what each layer of an image holds, also of files that a later one removed."""
    with tempfile.TemporaryFile() as saved:
        subprocess.run(["docker", "save", image], stdout=saved, check=True)
        saved.seek(0)
        with tarfile.open(fileobj=saved) as archive:
            for entry in archive:
                if not entry.name.endswith(("/layer.tar", ".json", "/json", "/VERSION", "repositories")) and entry.isfile():
                    pytest.fail(f"`docker save` writes {entry.name}, which is not looked into")
                if entry.name.endswith("/layer.tar") and entry.isfile():
                    yield from _inside(archive.extractfile(entry), entry.name[:12])


def _inside(layer: IO[bytes] | None, name: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=layer) as files:
        for file in files:
            content = files.extractfile(file) if file.isfile() else None
            if content:
                yield f"{name}/{file.name.removeprefix('./')}", content.read()


def made_by(image: str) -> Iterator[tuple[str, bytes]]:
    """Read how an image was made, and what it starts with."""
    for command in (["image", "inspect", image], ["history", "--no-trunc", image]):
        yield " ".join(command), subprocess.run(["docker", *command], capture_output=True, check=True).stdout


def of_a_library(place: str) -> bool:
    """Whether a file of an image is the system's or a library's, which have keys in their examples."""
    return not place.partition("/")[2].startswith(OURS) or "/site-packages/" in place
