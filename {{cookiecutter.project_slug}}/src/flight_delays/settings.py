"""What is set from outside? `params.yaml` by stage, and the environment's variables."""

import os
from pathlib import Path
from typing import Any

import yaml

from flight_delays.errors import InputError

PARAMS = Path("params.yaml")
TIERS = ("development", "integration", "production")


# Ten times as fast as yaml.safe_load, where PyYAML was built with its C library.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def params(stage: str) -> dict[str, Any]:
    """Read one stage's section of `params.yaml`.

    Parameters
    ----------
    stage
        The section's name.

    Raises
    ------
    InputError
        The file or the section is missing, or is not a mapping.
    """
    try:
        sections = yaml.load(PARAMS.read_text(encoding="utf-8"), LOADER)  # noqa: S506 (it is a safe one)
    except FileNotFoundError:
        raise InputError(f"{PARAMS} is missing: take it back from git") from None
    except yaml.YAMLError as error:
        raise InputError(f"{PARAMS} is not YAML: {' '.join(str(error).split())}") from None
    section = (sections or {}).get(stage)
    if not isinstance(section, dict):
        raise InputError(f"{PARAMS}: section `{stage}` is missing")
    return section


def tracking_uri() -> str:
    """Where MLflow keeps runs and models: `MLFLOW_TRACKING_URI`, or a database file beside the project's files.

    The file's path is absolute, since MLflow keeps what it has opened by this name, whatever folder is current later.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def tier() -> str:
    """In which environment this runs, from `TIER`: development where it is not set.

    Raises
    ------
    InputError
        There is no such tier.
    """
    found = os.environ.get("TIER") or TIERS[0]
    if found not in TIERS:
        raise InputError(f"the environment variable TIER is {found!r}: use one of {', '.join(TIERS)}")
    return found
