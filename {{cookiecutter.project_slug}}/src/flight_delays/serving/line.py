"""Who is next? Requests wait in line for a moment's work each, and there is only room for what is soon done.

How much that is depends on the rows in them, so it is measured. Few are begun at a time: in between the process looks
at its sockets, and so lets connections in and refuses what is too much at once, however long the line is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

MOST_WAITING, LEAST_WAITING = 32, 8  # requests at work or waiting for it in a process
WAIT_SECONDS = 0.012  # of work, for which there is room between these two
_TURN_SECONDS = 0.002  # of work, begun at a time
_FIRST_SECONDS = 0.0003  # a request's work before any was measured
_WEIGHT = 1 / 4  # of the last turn


class Line:
    """The requests of one server.

    Parameters
    ----------
    loop
        It runs in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._work = _FIRST_SECONDS
        self._begun, self._open = 0, True  # in this turn, and whether it can take more
        self._since = 0.0
        self._end: asyncio.Handle | None = None

    def has_room(self, at_work: int) -> bool:
        """Say whether one more request would be answered in time.

        Parameters
        ----------
        at_work
            Requests that have left the line, and are not answered yet.
        """
        enough = max(LEAST_WAITING, int(WAIT_SECONDS / self._work))
        return at_work + len(self._waiting) < min(MOST_WAITING, enough)

    def add(self, begin: Callable[[], None]) -> None:
        """Let a request wait for its turn.

        Parameters
        ----------
        begin
            Makes a task of it.
        """
        if self._open and not self._waiting and self._begun < self._most():
            self._begin(begin)
        else:
            self._waiting.append(begin)

    def _most(self) -> int:
        return max(1, int(_TURN_SECONDS / self._work))

    def _begin(self, begin: Callable[[], None]) -> None:
        """Begin a request; its first steps, for most the only ones, stand between two looks at a clock."""
        if not self._begun:
            self._loop.call_soon(self._start)
        self._begun += 1
        begin()
        if self._end:
            self._end.cancel()
        self._end = self._loop.call_soon(self._stop)

    def _start(self) -> None:
        self._open, self._since = False, time.perf_counter()

    def _stop(self) -> None:
        taken = (time.perf_counter() - self._since) / self._begun
        self._work += _WEIGHT * (min(taken, 2 * self._work) - self._work)  # a hiccup is not the rule
        self._open, self._begun = True, 0
        while self._waiting and self._begun < self._most():
            self._begin(self._waiting.popleft())
