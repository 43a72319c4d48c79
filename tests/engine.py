"""What do tests ask of a container engine? That one runs, what it prints, and what stands in for images of a registry."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from projects import Made

STAND_INS = Path(__file__).parent / "stand_ins"


def need_engine() -> None:
    """Skip the test where no engine runs."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine runs here: `.ci/engine` starts one on Debian")


def docker(*arguments: str, **more: str) -> str:
    """Run docker; give what it printed."""
    ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert ran.returncode == 0, f"docker {' '.join(arguments)}: {ran.stderr[-3000:]}"
    return str(ran.stdout)


def need_image(made: Made, name: str) -> None:
    """Bring the image of a part of the compose file; where no registry is reached, make one of packages in its place."""
    image = yaml.safe_load((made.path / "compose.yaml").read_text(encoding="utf-8"))["services"][name]["image"]
    if (
        subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode
        and subprocess.run(["timeout", "60", "docker", "pull", "--quiet", image], capture_output=True, check=False).returncode
    ):
        docker("build", "--network", "host", "--tag", image, str(STAND_INS / name))


def clear(made: Made, name: str) -> None:
    """Take away what a project's tiers leave under its name: containers, volumes, images."""
    for tier in ("integration", "production"):
        made.make("stack-down", TIER=tier)
        docker("volume", "rm", "--force", f"{name}-{tier}_store")
    remove_images(name)


def remove_images(name: str) -> None:
    """Take away the images of a project."""
    images = docker("image", "ls", "--quiet", "--filter", f"label=org.opencontainers.image.title={name}").split()
    subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, check=False)
