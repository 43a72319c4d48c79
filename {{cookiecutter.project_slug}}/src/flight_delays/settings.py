"""What is set from outside? `params.yaml` by stage, the environment's variables, and what each tier insists on."""

import configparser
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from flight_delays.errors import InputError

PARAMS = Path("params.yaml")
DVC_CONFIG = (Path(".dvc/config"), Path(".dvc/config.local"))
TIERS = DEVELOPMENT, INTEGRATION, PRODUCTION = "development", "integration", "production"
SOURCES = ("src", "contract.yaml", "params.yaml", "dvc.yaml", "pyproject.toml", "uv.lock")  # what a model is made by

NEEDS = {  # what `make doctor` looks for, and the tiers whose machine cannot do without
    "python": TIERS,
    "uv": TIERS,
    "git": TIERS,
    "disk": TIERS,
    "contract": TIERS,
    "data": (DEVELOPMENT, INTEGRATION),
    "docker": (INTEGRATION, PRODUCTION),
    "promtool": (INTEGRATION,),
}
INSISTS = {  # without which `make promote` and `make deploy` refuse as well, each by tier; see tiers/checks.py
    "environment": (INTEGRATION, PRODUCTION),  # installed as locked, and locked as asked for
    "sources": (INTEGRATION, PRODUCTION),      # committed, and the model made from them as committed
    "model": (INTEGRATION, PRODUCTION),        # passed the gate
    "tree": (PRODUCTION,),                     # nothing at all is uncommitted
    "review": (PRODUCTION,),                   # somebody has read the contract: `status: active`, committed
    "secrets": (PRODUCTION,),                  # keys of the service
    "tracking": (PRODUCTION,),                 # a server that others reach
    "remote": (PRODUCTION,),                   # has all data and outputs
}  # fmt: skip
VARIABLES = {  # of the environment, and what each says
    "TIER": f"{', '.join(TIERS)}; the first where it is not set",
    "MLFLOW_TRACKING_URI": "where MLflow is; MLFLOW_TRACKING_URI_PRODUCTION and its like: of that tier alone",
    "DVC_REMOTE": "which remote of .dvc/config has the data; else the one named as the tier, else the default one",
    "IMAGES": "where images are pushed to and pulled from, such as ghcr.io/org; else they stay in this engine",
    "BUILD": "more options of `docker build`, such as --network host",
    "API_KEYS": "name:hash of each key that opens the service, with commas between",  # pragma: allowlist secret
    "API_KEY": "a client's own key, with which `make traffic` and `make deploy` ask the service",
    "SERVING_DIR": "the service's store, else models/serving",
    "PORT": "of the service or its proxy on this machine",
    "LOG": "the least urgent lines that the service writes",
    "COMMIT": "that an image was made from",
    "REGISTRY": "where the containers of `make stack` find MLflow",
    "STACK_USER": "under which numbers, user:group, the containers of `make stack` run",
    "OSV_URL": "a mirror of https://osv.dev",
    "UV_PROJECT_ENVIRONMENT": "of uv: where the environment is, if it is not the one that runs",
    "CI": "set where a run is nobody's to watch",
}


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


def flat(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by their way down: `train.seed`.

    Parameters
    ----------
    sections
        Such as the content of `params.yaml`.
    prefix
        Before each name.
    """
    found: dict[str, Any] = {}
    for key, value in sections.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def given(name: str) -> str:
    """Read a variable of the environment; empty where it is not set.

    Parameters
    ----------
    name
        Of `VARIABLES`, which says what it is for.
    """
    if name not in VARIABLES and name.partition("_URI_")[2].lower() not in TIERS:
        raise KeyError(name)
    return os.environ.get(name, "")


def tier() -> str:
    """In which environment this runs, from `TIER`: development where it is not set.

    Raises
    ------
    InputError
        There is no such tier.
    """
    found = given("TIER") or DEVELOPMENT
    if found not in TIERS:
        raise InputError(f"the environment variable TIER is {found!r}: use one of {', '.join(TIERS)}")
    return found


def insists(on: str, of: str) -> bool:
    """Whether a tier cannot do without something.

    Parameters
    ----------
    on
        A key of `NEEDS` or `INSISTS`.
    of
        The tier.
    """
    return of in (NEEDS | INSISTS)[on]


def tracking_uri(of: str = "") -> str:
    """Where MLflow keeps runs and models: the tier's own server, the one of all, or a file beside the project's files.

    The file's path is absolute, since MLflow keeps what it has opened by this name, whatever folder is current later.

    Parameters
    ----------
    of
        The tier; the one that this runs in where it is empty.
    """
    own = given(f"MLFLOW_TRACKING_URI_{(of or tier()).upper()}")
    return own or given("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def without_password(uri: str) -> str:
    """Give an address that may be shown: whoever it names, and by which password, is left out.

    Parameters
    ----------
    uri
        Of a server or database.
    """
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def remote(of: str = "") -> str:
    """Name the DVC remote of a tier; empty for the default one of `.dvc/config`.

    Parameters
    ----------
    of
        The tier; the one that this runs in where it is empty.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read(DVC_CONFIG, encoding="utf-8")
    named = of or tier()
    return given("DVC_REMOTE") or (named if f"'remote \"{named}\"'" in config else "")


def image(tag: str) -> str:
    """Name the image of the service, with the place that it is pushed to where there is one.

    Parameters
    ----------
    tag
        The beginning of the model's hash.
    """
    place = given("IMAGES").rstrip("/")
    return f"{place}{'/' if place else ''}flight-delays-serve:{tag}"
