"""A store that speaks S3, and says that it is there where the store that it stands for does."""

from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

store = DomainDispatcherApplication(create_backend_app)


def answer(asked: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request."""
    if asked["PATH_INFO"] != "/status":
        found: Iterable[bytes] = store(asked, start)
        return found
    start("200 OK", [])
    return [b""]


run_simple("0.0.0.0", 8333, answer, threaded=True)  # noqa: S104 (of a container)
