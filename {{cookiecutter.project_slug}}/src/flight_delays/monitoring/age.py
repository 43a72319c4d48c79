"""How old is the model in use, and how old may it become? Two numbers, of which an alert is made.

Age is counted as `assess.staleness` measures it: from the newest row that the model learned from to the rows that it is
asked. Their time is what they say it is, if the contract's time is among the features, as when the past is replayed;
else it is now. Where rows have no time, age is counted from when the model was first served here.
"""

import json
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flight_delays import reference
from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.serving.log import latest
from flight_delays.serving.release import Release, Store
from flight_delays.settings import params

ASSESSMENT = Path("reports/assessment.json")
_REQUESTS = 200  # the newest, whose rows say what time it is


@dataclass(frozen=True)
class Age:
    """A model's age.

    Attributes
    ----------
    value, limit
        As they are, and as `assess` found the value may become.
    """

    value: timedelta
    limit: timedelta


def measure(store: Store, release: Release, now: datetime | None = None) -> Age | None:
    """Find the age of the champion, and its limit; `None` while no row has said what time it is.

    Parameters
    ----------
    store
        Of the service.
    release
        What is served.
    now
        When this happens.

    Raises
    ------
    InputError
        The champion's model is not in the store.
    """
    now, folder = now or datetime.now(UTC), store.model(release.champion)
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: `make release` says what is served")
    learned = reference.learned_until(folder)
    if learned is None:
        served = [entry["since"] for entry in store.past("release", 1_000) if entry["champion"] == release.champion]
        return Age(now - datetime.fromisoformat(served[-1] if served else release.since), _limit())
    asked = _asked_at(store, Contract.read(folder / "contract.yaml"), now)
    return Age(asked - learned, _limit()) if asked else None


def _asked_at(store: Store, contract: Contract, now: datetime) -> datetime | None:
    """Give the time of the rows that were asked last, the middle one of them; none where there are no rows."""
    time = contract.time
    if time is None or time not in contract.features:
        return now
    rows = [row for record in latest(store.predictions, _REQUESTS) for row in record.get("rows", ())]
    times = [datetime.fromisoformat(row[time.name]).replace(tzinfo=UTC) for row in rows if row.get(time.name)]
    return datetime.fromtimestamp(statistics.median(one.timestamp() for one in times), UTC) if times else None


def _limit() -> timedelta:
    """Give the age from which too much is lost, as measured; else the usual time between two trainings."""
    found = json.loads(ASSESSMENT.read_text(encoding="utf-8")).get("staleness", {}) if ASSESSMENT.is_file() else {}
    return timedelta(days=found.get("limit_days") or params("assess")["staleness"]["retrain_days"])
