"""Propose `contract.yaml` from the data, or show where the two disagree.

Run `make contract`, or `python -m flight_delays.infer --help`.
"""

import argparse

from flight_delays.contract import PATH
from flight_delays.errors import report_errors
from flight_delays.infer.run import infer


@report_errors
def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--if-missing", action="store_true", help="do nothing if the contract describes features already"
    )
    parser.add_argument(
        "--accept",
        action="extend",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="let the contract follow the data in these columns",
    )
    parser.add_argument("--accept-all", action="store_true", help="let the contract follow the data everywhere")
    arguments = parser.parse_args()
    infer(PATH, if_missing=arguments.if_missing, accept=arguments.accept, accept_all=arguments.accept_all)


if __name__ == "__main__":
    main()
