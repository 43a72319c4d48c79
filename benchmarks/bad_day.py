"""What happens to the service on a bad day? Kills, outages, overload, a hundred swaps, and challengers with faults."""

import json
import subprocess
import sys
from pathlib import Path

from measure import cost, example, write

INSIDE = Path(__file__).resolve().parent / "bad_day_inside.py"


def main() -> None:
    """Make the example, let its own Python do the harm, and write down what it saw."""
    with example() as project:
        cost(["make", "pipeline"], project)
        command = [str(project / ".venv/bin/python"), str(INSIDE), *sys.argv[1:]]
        done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    write("bad_day", "What happens to the service on a bad day?", ["what was done", "seen"], found["rows"], found["verdicts"])


if __name__ == "__main__":
    main()
