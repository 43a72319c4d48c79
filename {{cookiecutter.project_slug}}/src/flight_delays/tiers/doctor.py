"""What does this machine lack for the tier that TIER names? `make doctor` says so, and what to type."""

import sys

from rich.console import Console
from rich.table import Table

from flight_delays.errors import report_errors
from flight_delays.settings import INSISTS, NEEDS, insists, tier
from flight_delays.tiers.checks import Finding, look

OK, LACKS, NOT_NEEDED = "ok", "lacks", "not needed here"


def state(name: str, found: Finding, of: str) -> str:
    """Say how a finding counts in a tier.

    Parameters
    ----------
    name
        Of the check.
    found
        By it.
    of
        The tier.
    """
    if found.ok:
        return OK
    return LACKS if insists(name, of) else NOT_NEEDED


@report_errors
def main() -> None:
    """Look, print, and fail where something is lacking."""
    of = tier()
    found = look(NEEDS | INSISTS, of)
    table = Table("", "", "found", "type", title=f"doctor, {of}", title_justify="left")
    for name, one in found.items():
        here = state(name, one, of)
        table.add_row(name, here, one.found, one.do if here == LACKS else "", style="red" if here == LACKS else "")
    Console(width=140, highlight=False).print(table, markup=False)
    if lacks := [name for name, one in found.items() if state(name, one, of) == LACKS]:
        sys.exit(f"error: {of} lacks {', '.join(lacks)}")


if __name__ == "__main__":
    main()
