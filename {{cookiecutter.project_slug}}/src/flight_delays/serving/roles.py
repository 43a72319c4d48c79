"""Which model answers? The champion, and for a share of the keys the challenger; exchanged while requests go on."""

import asyncio
import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import features, forest, golden, reference
from flight_delays.errors import InputError
from flight_delays.features import Floats
from flight_delays.model import Model
from flight_delays.reference import Bins
from flight_delays.serving.door import Door, Request
from flight_delays.serving.release import REPORT_SECONDS, Release, Store

MAX_ROWS = 10_000  # of a request
WATCH_SECONDS = 0.1  # between two looks at what is to be served
_KEYS = 2**32


class Loaded:
    """A model ready to answer: it has answered its golden rows as it did when it was made.

    Parameters
    ----------
    version
        What it is called.
    model
        The model.
    bins, output_bins
        Over which its features and outputs are counted; none where nothing is counted.
    """

    def __init__(
        self, version: str, model: Model, bins: dict[str, Bins] | None = None, output_bins: Bins | None = None
    ) -> None:
        self.version, self.model = version, model
        self.door = Door(model.contract, MAX_ROWS)
        self.bins, self.output_bins = bins or {}, output_bins
        self._encode = features.encoder(model.contract)
        self._quick: Callable[[Floats], Floats] | None = None
        self._pace = math.inf  # milliseconds a row, at the fastest that was seen of many rows

    @classmethod
    def read(cls, version: str, folder: Path) -> "Loaded":
        """Load a model, and hold it against its golden rows, which warms it up as well.

        Parameters
        ----------
        version
            What it is called.
        folder
            The model's.

        Raises
        ------
        InputError
            There is none, or it does not give the answers that it gave when it was made.
        """
        model = Model.load(folder)
        golden.check(model, folder)
        return cls(version, model, *reference.read(folder))

    def score(self, request: Request) -> tuple[Floats, Floats, float]:
        """Encode and predict, by the one encoding.

        Parameters
        ----------
        request
            Let in by this model's door, or one for the same columns.

        Returns
        -------
        tuple
            The encoded rows, the output of `Model.predict`, and the milliseconds both took.

        Raises
        ------
        UnsoundError
            An output is not a finite number, or there is not one for each row.
        """
        start = time.perf_counter()
        X = self._encode(request.rows)
        output = self.model.predict(X) if len(X) < forest.FEW_ROWS else self._predict_many(X)
        taken = (time.perf_counter() - start) * 1e3
        if len(X) > forest.FEW_ROWS:
            self._pace = min(self._pace, taken / len(X))
        if len(output) != len(X) or not np.isfinite(output).all():
            raise UnsoundError("the model gave an output that is not a finite number")
        return X, output, taken

    def expected(self, rows: int) -> float:
        """Give the milliseconds in which so many rows may be encoded and predicted; 0 for few.

        Parameters
        ----------
        rows
            Of a request.
        """
        return 0.0 if rows <= forest.FEW_ROWS else rows * self._pace

    def _predict_many(self, X: Floats) -> Floats:
        """Predict to the same bits by tables, made beside the requests once the first many rows have come."""
        if self._quick is None:
            self._quick = self.model.predict
            threading.Thread(target=self._make_tables, name="tables", daemon=True).start()
        return self._quick(X)

    def _make_tables(self) -> None:
        self._quick = forest.quick(self.model)


class UnsoundError(Exception):
    """A model gave outputs that must not be sent."""


@dataclass(frozen=True)
class Roles:
    """Who answers now.

    Attributes
    ----------
    release
        What is served.
    champion, challenger
        The models.
    """

    release: Release
    champion: Loaded
    challenger: Loaded | None = None

    def expected(self, rows: int) -> float:
        """Give the milliseconds in which the slower of the two may encode and predict so many rows.

        Parameters
        ----------
        rows
            Of a request.
        """
        return max(one.expected(rows) for one in (self.champion, self.challenger) if one)

    def assigned(self, key: str) -> bool:
        """Whether requests with this key fall into the challenger's share; the same key always does or does not.

        Parameters
        ----------
        key
            Of a request. As the share grows, keys that were in it stay in it; each challenger meets others first.
        """
        if self.challenger is None:
            return False
        drawn = hashlib.blake2b(f"{self.challenger.version}/{key}".encode(), digest_size=4).digest()
        return int.from_bytes(drawn) < self.release.share * _KEYS


class Served:
    """What one process serves.

    Parameters
    ----------
    roles
        Who answers now; replaced as a whole.
    """

    def __init__(self, roles: Roles) -> None:
        self.now = roles
        self.refused: dict[str, str] = {}  # versions that should be served and are not sound, and why

    @classmethod
    def of(cls, model: Model, version: str) -> "Served":
        """Serve one model for good, as tests and measurements do."""
        return cls(Roles(Release(version), Loaded(version, model)))

    def loaded(self) -> dict[str, Any]:
        """Say what is served, as plain data."""
        now = self.now
        challenger = now.challenger.version if now.challenger else None
        named = {"release": now.release.id, "champion": now.champion.version, "challenger": challenger}
        return named | {"refused": dict(self.refused)}


class Follower:
    """Keeps what one process serves to what the store says.

    What cannot be loaded is not served: then the last good model goes on, at the start the champion before.

    Parameters
    ----------
    store
        To follow.

    Raises
    ------
    InputError
        The store names no champion, or none that is sound.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen = self._stamp()
        self._places: dict[str, int | None] = {}  # of the folders that were loaded
        release = store.read()
        if release is None:
            raise InputError(f"{store.file} is missing: `make serve` writes it from the registry")
        self._asked = release.id  # to be served last
        self._last: Loaded | None = None  # the champion before, kept to go back to at once
        try:
            self.served = Served(Roles(release, self._read(release.champion)))
        except Exception as error:  # whatever a broken model raises
            self.served = self._before(release, error)
            return
        self._take(release, self.served.now.champion)

    def refresh(self) -> bool:
        """Load what the store names by now, and say whether anything changed."""
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:  # none where the disk was taken away: what is loaded goes on
            return False
        self._seen = stamp
        release = None
        try:
            release = self.store.read()
            if release is None:
                return False
            self._asked = release.id
            champion = self._known(release.champion) or self._read(release.champion)
        except Exception as error:  # as at the start
            self.served.refused |= {release.champion if release else "release": _line(error)}
            return True
        self._take(release, champion)
        return True

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the store until cancelled, and tell it what is loaded.

        Parameters
        ----------
        changed
            Called after each change.
        """
        due = 0.0
        while True:
            try:
                if self._stamp() != self._seen and await asyncio.to_thread(self.refresh):
                    due = 0.0
                    changed()
            except Exception as error:  # whoever stopped looking would serve this for ever
                self.served.refused |= {"release": _line(error)}
            if time.monotonic() >= due:
                self._report()
                due = time.monotonic() + REPORT_SECONDS
            await asyncio.sleep(WATCH_SECONDS)

    def _before(self, release: Release, fault: Exception) -> Served:
        """Serve the champion before the one that is not sound."""
        if release.previous is None or not self.store.model(release.previous).is_dir():
            raise fault
        champion = self._read(release.previous)
        served = Served(Roles(replace(release, champion=release.previous, challenger=None, id="none"), champion))
        served.refused = {release.champion: _line(fault)}
        return served

    def _take(self, release: Release, champion: Loaded) -> None:
        """Serve a release; a challenger that is not sound is none, and why is said to whoever looks."""
        version = release.challenger
        refused = {name: why for name, why in self.served.refused.items() if name == version}
        challenger = None
        if version is not None and version not in refused:
            try:
                challenger = self._known(version) or self._read(version)
                if _asked(challenger) != _asked(champion):
                    raise InputError("it asks for other columns than the champion, so no request is for both")
            except Exception as error:  # as in `refresh`
                refused[version] = _line(error)
                challenger = None
        self.served.refused = refused
        if champion is not self.served.now.champion:
            self._last = self.served.now.champion
        self.served.now = Roles(release, champion, challenger)

    def _known(self, version: str) -> Loaded | None:
        now = self.served.now
        if self._place(version) not in {None, self._places.get(version)}:
            return None  # a registry that was made anew gives out the same numbers again
        return next((one for one in (now.champion, now.challenger, self._last) if one and one.version == version), None)

    def _read(self, version: str) -> Loaded:
        self._places[version] = self._place(version)
        return Loaded.read(version, self.store.model(version))

    def _place(self, version: str) -> int | None:
        try:
            return self.store.model(version).stat().st_ino
        except OSError:
            return None

    def _report(self) -> None:
        with contextlib.suppress(OSError):  # a full disk keeps nobody from being served
            self.store.report(self.served.loaded() | {"asked": self._asked})

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.store.file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _asked(loaded: Loaded) -> list[tuple[str, str]]:
    return [(column.name, column.type) for column in loaded.model.contract.features]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
