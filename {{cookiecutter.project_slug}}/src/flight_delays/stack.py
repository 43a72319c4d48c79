"""What must be there before the stack starts? Passwords and keys, made once; and a registry that containers can reach.

They lie in `.secrets`, a folder that git and images leave out and that is closed to other users of this machine. The
files in it are readable, since each container sees its own of them under whatever user it runs as.

    client_key, metrics_key, monitor_key   what opens the service; `service.env` holds their hashes
    postgres_password, postgres_service       of MLflow's database, and the same as libpq reads it
    objects.json, objects_credentials         of the object store, and the same as its clients read it
    grafana_password                          of its user `admin`
    elastic_password, kibana_password, logstash_password, kibana_encryption_key
    alert_webhook                             whom alerts are sent to: yours to fill in, nobody until then
"""

import hashlib
import json
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from flight_delays.errors import InputError, report_errors
from flight_delays.settings import given, without_password

FOLDER, REPORTS = Path(".secrets"), Path("reports")
NOBODY = "http://127.0.0.1:9/"
_KEYS = ("client", "metrics", "monitor")
_WORDS = (
    *(f"{name}_key" for name in _KEYS),
    "postgres_password",
    "grafana_password",
    "elastic_password",
    "kibana_password",
    "logstash_password",
    "kibana_encryption_key",
)


def make_secrets(folder: Path = FOLDER) -> list[str]:
    """Make what is missing, change nothing that is there, and name what was made.

    Parameters
    ----------
    folder
        Closed to other users here.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    made = [name for name in _WORDS if _write(folder / name, secrets.token_hex(24))]
    derived = {
        "service.env": f"API_KEYS={','.join(_hash(folder, name) for name in _KEYS)}\n",
        "postgres_service": _postgres((folder / "postgres_password").read_text(encoding="utf-8")),
    }
    derived["alert_webhook"] = NOBODY
    access, secret = secrets.token_hex(10), secrets.token_hex(24)
    if not (folder / "objects.json").exists():
        (folder / "objects_credentials").unlink(missing_ok=True)  # the two belong together
        derived["objects.json"] = _identities(access, secret)
        derived["objects_credentials"] = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    return made + [name for name, text in derived.items() if _write(folder / name, text)]


def _write(path: Path, text: str) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return False
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor)
        file.write(text)
    path.chmod(0o444)  # whatever the umask
    return True


def _hash(folder: Path, name: str) -> str:
    key = (folder / f"{name}_key").read_bytes()
    return f"{name}:{hashlib.sha256(key).hexdigest()}"


def _postgres(password: str) -> str:
    return f"[mlflow]\nhost=postgres\ndbname=mlflow\nuser=mlflow\npassword={password}\n"


def _identities(access: str, secret: str) -> str:
    whose = {"name": "mlflow", "credentials": [{"accessKey": access, "secretKey": secret}]}
    return json.dumps({"identities": [whose | {"actions": ["Admin", "Read", "Write", "List"]}]})


def require_registry(uri: str) -> None:
    """Refuse a registry that the containers cannot reach.

    Parameters
    ----------
    uri
        MLflow's.

    Raises
    ------
    InputError
        It is none of theirs; the message says which is.
    """
    instead = "use PROFILE=tracking, or a server in MLFLOW_TRACKING_URI"
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.is_file():
            raise InputError(f"{path} is missing: run `make pipeline` first, or {instead}")
        if os.getuid() == 0:
            raise InputError(f"{path} is root's, and no container runs as root: run this as another user, or {instead}")
    elif urlsplit(uri).hostname in {"localhost", "127.0.0.1", "::1"}:
        raise InputError(f"MLFLOW_TRACKING_URI={without_password(uri)} is another place within a container: {instead}")


@report_errors
def main() -> None:
    """Make the secrets, and check the registry that the environment names as `REGISTRY`."""
    require_registry(given("REGISTRY"))
    if os.getuid() == 0 and (user := given("STACK_USER")):  # who reports there what the jobs in containers find
        REPORTS.mkdir(exist_ok=True)
        os.chown(REPORTS, *map(int, user.split(":")))
    if made := make_secrets():
        print(f"made in {FOLDER}/, never to be committed: {', '.join(made)}")
    if (FOLDER / "alert_webhook").read_text(encoding="utf-8").strip() == NOBODY:
        print(f"alerts reach nobody yet: put an address for them into {FOLDER}/alert_webhook, see ops/alertmanager")


if __name__ == "__main__":
    main()
