"""What became of one request? From its id to the logged prediction, the version, the release, and the run behind it."""

import argparse
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from flight_delays.errors import InputError, report_errors
from flight_delays.serving.control import registry
from flight_delays.serving.log import Record, read
from flight_delays.serving.release import Store

_AROUND = timedelta(minutes=30)  # shown by the board, before and after
_MOST_RELEASES = 10_000

Station = dict[str, Any]


def follow(name: str, store: Store) -> Iterator[tuple[str, Station]]:
    """Give the stations of a request, one after the other, each with what is known there.

    Parameters
    ----------
    name
        The request's id: its `X-Request-Id`, also in the answer and as `http.request.id` in the log lines.
    store
        Of the service that answered.

    Raises
    ------
    InputError
        No prediction has this id, or the registry does not know the version.
    """
    found = [record for record in read(store.predictions) if record["id"] == name]
    if not found:
        raise InputError(f"{store.predictions} has no request {name!r}: it was refused, or another service answered it")
    for record in found:
        yield "prediction", _prediction(record)
    releases = {entry["id"]: entry for entry in store.past("release", _MOST_RELEASES)}
    for number in dict.fromkeys(record["release"] for record in found):
        names = ("id", "champion", "challenger", "mode", "share", "since", "by", "reason")
        yield "release", {key: releases.get(number, {"id": number}).get(key) for key in names}
    known = registry()
    for number in dict.fromkeys(record["version"] for record in found):
        version = known.version(number)
        tags = {key: version.tags.get(key, "none") for key in ("git.commit", "data")}
        yield "version", {"number": number, "run": version.run} | tags
    at = datetime.fromisoformat(found[0]["at"])
    first, last = (round((at + sign * _AROUND).timestamp() * 1000) for sign in (-1, 1))
    yield "look", {"Kibana": f'http.request.id : "{name}"', "Grafana": f"/d/release?from={first}&to={last}"}


def _prediction(record: Record) -> Station:
    shown = {key: record[key] for key in ("kind", "at", "version", "role", "release", "ms", "output")}
    return shown | {"rows": len(record["output"] or ()), "failed": record["failed"], "warnings": record["warnings"]}


@report_errors
def main() -> None:
    """Print the stations of one request."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.monitoring.follow",
        description=__doc__,
    )
    parser.add_argument("id", help="of the request: its X-Request-Id, which is also in the answer")
    for station, known in follow(parser.parse_args().id, Store()):
        print(station)
        for key, value in known.items():
            print(f"  {key:10} {value}")


if __name__ == "__main__":
    main()
