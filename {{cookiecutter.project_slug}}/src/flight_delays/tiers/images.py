"""Which image goes with a model? Built once from committed sources, named by the model's hash, then known by digest."""

import io
import json
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flight_delays.errors import InputError
from flight_delays.settings import SOURCES, given, image
from flight_delays.tiers.checks import ask, commit

if TYPE_CHECKING:
    from flight_delays.tracking import Version

HASH_DIGITS = 12  # of the model's, as `make image` names it
_MODEL = "models/candidate"  # the one folder of models that .dockerignore lets through
_LABELS = {"model": "org.opencontainers.image.version", "commit": "org.opencontainers.image.revision"}
TAGS = ID, DIGEST, COMMIT = "image", "image.digest", "image.commit"  # of a version


@dataclass(frozen=True)
class Image:
    """An image as this engine has it.

    Attributes
    ----------
    id
        By which the engine knows it.
    digests
        By which registries of images know it, with their names.
    model, commit
        What its labels say: the beginning of the model's hash, and the commit of the code.
    """

    id: str
    digests: tuple[str, ...]
    model: str
    commit: str


def find(reference: str) -> Image | None:
    """Give an image of this engine; `None` where there is none.

    Parameters
    ----------
    reference
        A name, a digest or an id.
    """
    done = ask("docker", "image", "inspect", reference)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)[0]
    labels = found["Config"].get("Labels") or {}
    digests = tuple(found.get("RepoDigests") or ())
    return Image(found["Id"], digests, *(labels.get(_LABELS[key], "none") for key in ("model", "commit")))


def reference(version: "Version") -> str:
    """Give that by which the image of a version is known for sure: where it was pushed to, or its id in this engine.

    Parameters
    ----------
    version
        That was promoted.
    """
    return version.tags.get(DIGEST) or version.tags.get(ID, "")


def verified(version: "Version") -> Image:
    """Give the image that was made for a version, pulled where it is not here.

    Parameters
    ----------
    version
        That was promoted to `integration`.

    Raises
    ------
    InputError
        There is none, it cannot be had, or it is another one than was recorded.
    """
    wanted, digest = version.tags.get(ID, ""), version.tags.get(DIGEST, "")
    if not wanted:
        raise InputError(f"version {version.number} names no image: `make promote TO=integration` makes it")
    if (found := find(digest or wanted)) is None and digest:
        _slow("docker", "pull", "--quiet", digest)
        found = find(digest)
    if found is None:
        raise InputError(
            f"image {wanted[:19]} of version {version.number} is not in this engine, and was pushed nowhere"
        )
    if found.id != wanted and digest not in found.digests:
        raise InputError(f"the image is {found.id[:19]}, and {wanted[:19]} was recorded for version {version.number}")
    if found.model != version.tags["model"][:HASH_DIGITS]:
        raise InputError(f"image {found.id[:19]} holds model {found.model}, not {version.tags['model'][:HASH_DIGITS]}")
    if found.commit != version.tags.get(COMMIT):
        made = version.tags.get(COMMIT, "none")
        raise InputError(f"image {found.id[:19]} was built from commit {found.commit}, and {made} was recorded")
    return found


def build(model: Path, tag: str) -> dict[str, str]:
    """Build the image of a model from the sources as committed, push it where there is a place, and give its tags.

    Parameters
    ----------
    model
        Its folder.
    tag
        The beginning of its hash.

    Raises
    ------
    InputError
        It cannot be built or pushed.
    """
    name, here = image(tag), commit()
    date = ask("git", "log", "-1", "--format=%ct").stdout.strip()
    given_to_it = {"COMMIT": here, "SOURCE_DATE_EPOCH": date, "MODEL": _MODEL, "MODEL_VERSION": tag}
    words = [word for key, value in given_to_it.items() for word in ("--build-arg", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        _export(Path(folder))
        shutil.copytree(model, Path(folder) / _MODEL)
        _slow("docker", "build", *shlex.split(given("BUILD")), "--target", "baked", *words, "--tag", name, folder)
    if given("IMAGES"):
        _slow("docker", "push", "--quiet", name)
    found = find(name)
    if found is None:
        raise InputError(f"{name} was built, and is not there")
    pushed = [one for one in found.digests if one.rpartition("@")[0] == name.rpartition(":")[0]]
    return {ID: found.id, DIGEST: pushed[0] if pushed and given("IMAGES") else "", COMMIT: here}


def _export(folder: Path) -> None:
    """Write what an image is made of as it is committed, so that nothing else gets into one."""
    files = (*SOURCES, "Dockerfile", ".dockerignore")
    done = subprocess.run(["git", "archive", "HEAD", "--", *files], capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"git archive: {done.stderr.decode(errors='replace').strip()}: commit what is missing")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _slow(*command: str) -> None:
    """Run a command that may take as long as it needs."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in reversed(said) if "rror" in line), said[-1] if said else "it does not say why")
        raise InputError(f"`{' '.join(command[:2])}`: {why.strip()[:300]}")
