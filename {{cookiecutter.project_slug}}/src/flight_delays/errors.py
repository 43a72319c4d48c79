"""How does a stage tell the user what is wrong? One line, a non-zero exit, no traceback."""

import errno
import functools
import sys
from collections.abc import Callable, Sequence


class InputError(Exception):
    """What the user gave cannot be used; the message says what, where and what to do."""


def some(names: Sequence[str], most: int = 3) -> str:
    """Name the first of several things, and how many more there are.

    Parameters
    ----------
    names
        All of them.
    most
        That are named.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def report_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Make an entry point end on one clear line where the fault is not the program's.

    Parameters
    ----------
    main
        The entry point. An `InputError`, a full disk and Ctrl-C become one line on standard error;
        anything else is a defect and keeps its traceback.
    """

    @functools.wraps(main)
    def entry_point() -> None:
        try:
            main()
        except InputError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or "No space left" in str(error):
                sys.exit(f"error: the disk is full ({error}): free some space and run the same command again")
            raise
        except KeyboardInterrupt:
            sys.exit("interrupted: run the same command again to go on")

    return entry_point
