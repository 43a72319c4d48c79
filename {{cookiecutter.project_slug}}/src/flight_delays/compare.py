"""What does a change do to the data, the model and the score? `make compare BASE=main`: reports/comparison.md.

Both sides are read from what is committed with them (metrics, score, contract, parameters, dvc.lock); how the rows have
moved is told by the bins that the other side's model was made with, which DVC brings from its cache or remote.
"""

import argparse
import csv
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from flight_delays.errors import InputError, report_errors
from flight_delays.settings import LOADER, flat

PAGE = Path("reports/comparison.md")
METRICS, SLICES, SCORE = "reports/metrics.json", "reports/plots/slices.csv", "reports/ml_test_score.json"
CONTRACT, PARAMS, LOCK, REFERENCE = "contract.yaml", "params.yaml", "dvc.lock", "models/candidate/reference.json"
_SHOWN = 20  # lines of a section

Read = Callable[[str], str | None]


def compare(base: str) -> str:
    """Write down how the working tree differs from a commit.

    Parameters
    ----------
    base
        A branch, tag or commit; compared is its last common commit with this one.

    Returns
    -------
    str
        A page of Markdown.

    Raises
    ------
    InputError
        There is no such commit.
    """
    if not base.strip("0"):  # what CI calls the commit before the first
        return "# Nothing to compare with\n\nThese are the first commits.\n"
    commit = _common(base)
    before: Read = lambda path: _git_or_none("show", f"{commit}:./{path}")  # noqa: E731 (one of a pair)
    now: Read = lambda path: Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None  # noqa: E731
    greater = _greater_is_better() if Path(METRICS).is_file() else set()  # the contract may be a proposal until then
    sections = {
        "Model": _model(before, now, greater),
        "Slices": _slices(before, now, greater),
        "ML Test Score": _score(before, now),
        "Data": [*_files(before, now), *_moved(commit)],
        "Contract": _fields(before(CONTRACT), now(CONTRACT), _columns),
        "Parameters": _fields(before(PARAMS), now(PARAMS), flat),
        "To be committed": _uncommitted(),
    }
    title = f"# Compared with `{base}` ({commit[:12]})"
    parts = [f"## {name}\n\n" + "\n".join(_few(lines)) for name, lines in sections.items() if lines]
    return "\n\n".join([title, *parts, *([] if parts else ["Nothing that is measured is different."])]) + "\n"


def _common(base: str) -> str:
    found = _git_or_none("merge-base", base, "HEAD")
    if found is None:
        raise InputError(f"{base} is no commit known here: fetch it (`git fetch origin`), or give another BASE")
    return found.strip()


def _git_or_none(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    return done.stdout if done.returncode == 0 else None


def _few(lines: list[str]) -> list[str]:
    left = len(lines) - _SHOWN
    return lines if left <= 1 else [*lines[:_SHOWN], "" if lines[0].startswith("|") else "-", f"… and {left} more"]


# What is measured


def _model(before: Read, now: Read, greater: set[str]) -> list[str]:
    """Put the scores side by side; better or worse is said where the intervals do not meet."""
    old, new = (json.loads(text) if text else {} for text in (before(METRICS), now(METRICS)))
    if not new:
        return ["There is no model yet: `make pipeline`."]
    earlier = old.get("test", {})
    rows = []
    for name, value in new["test"].items():
        then = earlier.get(name)
        rows.append(f"| {name} | {_shown(then)} | {_shown(value)} | {_apart(then, value, name in greater)} |")
    counts = f"| test rows | {old.get('rows', '')} | {new['rows']} | |"
    same = earlier == new["test"] and old.get("rows") == new["rows"]
    return [] if same else ["| on its test rows | before | now | |", "|---|---|---|---|", *rows, counts]


def _shown(value: dict[str, float] | None) -> str:
    from flight_delays.scores import Interval

    return str(Interval(**value)) if value else ""


def _greater_is_better() -> set[str]:
    """Name the scores of which more is better."""
    from flight_delays.contract import Contract
    from flight_delays.scores import scores

    contract = Contract.read()
    return {score.name for score in scores(contract.task, contract.classes) if score.greater_is_better}


def _apart(before: dict[str, float] | None, now: dict[str, float], greater_is_better: bool) -> str:
    if before is None:
        return "new"
    if now["low"] > before["high"]:
        return "**better**" if greater_is_better else "**worse**"
    if now["high"] < before["low"]:
        return "**worse**" if greater_is_better else "**better**"
    return "alike"


def _slices(before: Read, now: Read, greater: set[str]) -> list[str]:
    """Name the slices whose intervals do not meet."""
    old, new = _by_slice(before(SLICES)), _by_slice(now(SLICES))
    if not old or not new:
        return []
    deciding = json.loads(now(METRICS) or "{}").get("score", "")
    found = {name: _apart(old[name], value, deciding in greater) for name, value in new.items() if name in old}
    return [
        f"- {name}: {word}, {_shown(old[name])} before, {_shown(new[name])} now"
        for name, word in found.items()
        if word != "alike"
    ]


def _by_slice(text: str | None) -> dict[str, dict[str, float]]:
    rows = csv.DictReader(io.StringIO(text or ""))
    names = {"score": "value", "low": "low", "high": "high"}
    return {row["slice"]: {names[key]: float(row[key]) for key in names} for row in rows if row["score"]}


def _score(before: Read, now: Read) -> list[str]:
    """Name the rows of the ML Test Score that changed."""
    old, new = (json.loads(text) if text else None for text in (before(SCORE), now(SCORE)))
    if new is None:
        return ["There is none any more: `make score`."] if old else []
    first = f"{new['score']:g} of 7" + (f", was {old['score']:g}" if old else "; there was none before")
    earlier = _states(old) if old else {}
    changed = [
        f"- {name}: {earlier[name][0]} before, **{state}** now" + (f": {detail}" if detail else "")
        for name, (state, detail) in _states(new).items()
        if name in earlier and earlier[name][0] != state
    ]
    return [first, "", *changed] if changed else [] if old and old["score"] == new["score"] else [first]


def _states(score: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["state"], row["detail"]) for section in score["sections"] for row in section["rows"]}


# What it is made of


def _files(before: Read, now: Read) -> list[str]:
    """Compare what dvc.lock says of the data."""
    old, new = _data(before(LOCK)), _data(now(LOCK))
    lines = []
    for path in dict.fromkeys([*old, *new]):
        sizes = [f"{side[path][1] / 1e6:.3g} MB" if path in side else "none" for side in (old, new)]
        if old.get(path) != new.get(path):
            lines.append(f"- `{path}` is other than it was: {sizes[0]} before, {sizes[1]} now")
    return lines if old else []


def _data(text: str | None) -> dict[str, tuple[str, int]]:
    stages = yaml.load(text or "{}", LOADER).get("stages", {})  # noqa: S506 (it is a safe one)
    entries = [entry for stage in ("ingest", "split") for entry in stages.get(stage, {}).get("outs", [])]
    return {entry["path"]: (entry["md5"], int(entry["size"])) for entry in entries}


def _moved(commit: str) -> list[str]:
    """Tell how far each feature of the training rows has moved: over 0.25, by custom, it is another population."""
    if not Path(REFERENCE).is_file():
        return []
    before = _brought(commit)
    if before is None:
        return [f"- How far the features have moved is not known: DVC has not got the model of {commit[:12]}"]
    now = Path(REFERENCE).read_text(encoding="utf-8")
    if before == now:
        return []
    return [*_strayed(json.loads(before)["features"], json.loads(now)["features"])]


def _brought(commit: str) -> str | None:
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError
    from dvc_data.index.index import DataIndexDirError

    try:
        return str(dvc.api.read(REFERENCE, repo=".", rev=commit))
    except (DvcException, SCMError, DataIndexDirError, OSError):
        return None


def _strayed(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    import numpy as np
    import pyarrow.parquet as pq

    from flight_delays.contract import Contract
    from flight_delays.features import encode, features
    from flight_delays.reference import LIMIT, Bins, psi

    contract = Contract.read()
    X = encode(pq.read_table("data/train.parquet"), contract)
    for place, feature in enumerate(features(contract)):
        old = before.get(feature.name)
        if old is None:
            yield f"- `{feature.name}`: a new feature"
        elif old["names"] != (names := now[feature.name]["names"]) and names[1:] == list(
            map(str, feature.column.values)
        ):
            yield f"- `{feature.name}`: its categories are others"
        else:
            bins = Bins(tuple(old["edges"]), tuple(old["names"]), tuple(old["shares"]))
            far = psi(np.array(bins.shares), bins.count(X[:, place]))
            if far >= LIMIT / 10:
                yield f"- `{feature.name}`: moved by {far:.2f} (population stability index)" + (
                    ", **another population**" if far >= LIMIT else ""
                )
    yield from (f"- `{name}`: no feature any more" for name in before if name not in now)


def _fields(before: str | None, now: str | None, flat: Callable[[Any], dict[str, Any]]) -> list[str]:
    """Compare two documents field by field."""
    if before is None or now is None:
        return ["It is new." if before is None else "It is gone."]
    old, new = (flat(yaml.load(text, LOADER)) for text in (before, now))  # noqa: S506 (it is a safe one)
    changed = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [f"- `{name}`: {_word(old, name)} → {_word(new, name)}" for name in changed]


def _word(side: dict[str, Any], name: str) -> str:
    text = json.dumps(side[name], ensure_ascii=False, default=str) if name in side else "not there"
    return text if len(text) <= 80 else text[:79] + "…"


def _columns(contract: Any) -> dict[str, Any]:
    """Name the contract's fields by column."""
    other = {key: value for key, value in contract.items() if key != "schema"}
    for entry in contract.get("schema") or ():
        for column in entry.get("properties") or ():
            other[column["name"]] = {key: value for key, value in column.items() if key != "name"}
    return flat(other)


def _uncommitted() -> list[str]:
    """List what this run changed of what belongs into the commit."""
    changed = _git_or_none("status", "--porcelain", "--", LOCK, METRICS, CONTRACT, PARAMS, "uv.lock") or ""
    if not changed:
        return []
    names = ", ".join(f"`{line[3:]}`" for line in changed.splitlines())
    return [f"What ran here gave other files than the commit holds: {names}. Run `make pipeline score`, and commit."]


@report_errors
def main() -> None:
    """Compare, write the page and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m flight_delays.compare",
        description=__doc__,
    )
    parser.add_argument("base", help="a branch, tag or commit")
    page = compare(parser.parse_args().base)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
