"""Stage 6: log the run to MLflow, and make the model champion if it passes the gate.

Running it again changes nothing: the version of a model, its contract and its data is made once.
"""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

from flight_delays import gate, report
from flight_delays.contract import PATH as CONTRACT
from flight_delays.contract import Contract
from flight_delays.errors import report_errors
from flight_delays.gate import Verdict
from flight_delays.model import Model
from flight_delays.pipeline.evaluate import METRICS, PLOTS
from flight_delays.pipeline.ingest import ROWS
from flight_delays.pipeline.split import PARTS
from flight_delays.pipeline.train import CANDIDATE
from flight_delays.pipeline.validate import DATA_DOCS
from flight_delays.pipeline.validate import REPORT as VALIDATION
from flight_delays.scores import Interval
from flight_delays.serving import moves
from flight_delays.serving.control import describe
from flight_delays.serving.release import Store, digest
from flight_delays.settings import PARAMS, PRODUCTION, SOURCES, flat, params, tier
from flight_delays.tracking import CHALLENGER, CHAMPION, Registry, Version

DVC_LOCK, UV_LOCK = Path("dvc.lock"), Path("uv.lock")


def provenance(model: Model) -> dict[str, str]:
    """Say where a model comes from, as tags: hashes of all that it was made of, and the commit.

    Parameters
    ----------
    model
        The candidate in `models/candidate`.

    Returns
    -------
    dict
        `git.commit`, `git.dirty`, `server` (whose rows), and SHA-256 hashes: `model`, `contract`, `params`, `data`,
        `uv.lock`, `dvc.lock`.
    """
    commit = _git("rev-parse", "HEAD")
    files = {"params": PARAMS, "data": ROWS, UV_LOCK.name: UV_LOCK}
    tags = {name: digest(path) for name, path in files.items() if path.exists()}
    if DVC_LOCK.exists():
        tags[DVC_LOCK.name] = lock_digest(DVC_LOCK.read_text(encoding="utf-8"))
    return tags | {
        "model": digest(*sorted(CANDIDATE.iterdir())),
        "contract": model.contract.digest,
        "server": ((pq.read_schema(ROWS).metadata or {}).get(b"server") or b"").decode(),
        "git.commit": commit or "none",
        "git.dirty": str(not commit or bool(_git("status", "--porcelain", "--", *SOURCES))).lower(),
    }


def lock_digest(text: str) -> str:
    """Hash what `dvc.lock` says of the stages that made and measured the model; later stages are not part of it.

    Parameters
    ----------
    text
        The file's content, of today or of a commit.
    """
    stages = yaml.safe_load(text)["stages"]
    made = {name: stages[name] for name in ("ingest", "validate", "split", "train", "evaluate") if name in stages}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def judge(
    model: Model, metrics: dict[str, Any], registry: Registry, champion: Version | None, tags: dict[str, str]
) -> Verdict:
    """Ask the gate; the first refusal decides.

    Parameters
    ----------
    model
        The candidate.
    metrics
        The content of `reports/metrics.json`.
    registry
        Where the champion is.
    champion
        Today's, if there is one.
    tags
        Where the candidate comes from, of `provenance`.
    """
    contract, test = Contract.read(), PARTS["test"]

    def against_champion() -> Verdict:
        if champion is None:
            return gate.beats_baselines(metrics)
        with tempfile.TemporaryDirectory() as folder:
            theirs = registry.fetch(champion, Path(folder))
            return gate.holds_against(model, theirs, test, params("evaluate"), params("register")["tolerance"])

    checks: tuple[Callable[[], Verdict], ...] = (
        lambda: gate.is_traceable(tags, tier()),
        lambda: gate.is_of_this_tier(tags, contract, tier()),
        lambda: gate.is_sound(model, contract, test),
        lambda: gate.has_no_leak(contract, PARTS["train"]),
        lambda: gate.beats_baselines(metrics),
        against_champion,
    )
    verdict = Verdict(True, "")
    for check in checks:
        verdict = check()
        if not verdict.passed:
            break
    return verdict


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _log(registry: Registry, run: str, metrics: dict[str, Any]) -> None:
    chosen = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    chosen.pop("tune", None)
    numbers = {name: float(value) for name, value in flat(metrics).items() if isinstance(value, int | float)}
    files = [report.CARD, report.FIGURES, METRICS, PLOTS, VALIDATION, DATA_DOCS, CONTRACT, PARAMS, DVC_LOCK, UV_LOCK]
    registry.log(run, flat(chosen), numbers, files)


@report_errors
def main() -> None:
    """Run the stage."""
    model, metrics = Model.load(CANDIDATE), json.loads(METRICS.read_text(encoding="utf-8"))
    registry = Registry(model.contract.id)
    tags = provenance(model)
    champion = registry.champion()
    verdict = judge(model, metrics, registry, champion, tags)
    outcome = {"gate": "passed" if verdict.passed else "refused", "gate.reason": verdict.reason}
    same = {key: tags[key] for key in ("model", "contract", "data")}
    version = registry.find_version(same | {"git.dirty": "false"})
    if version is None and tags["git.dirty"] == "true":  # else what is committed by now is registered once more
        version = registry.find_version(same)
    if version is None:
        with registry.run("pipeline", tags | outcome) as run:
            _log(registry, run, metrics)
            names = [column.name for column in model.contract.features]
            example = pq.read_table(PARTS["test"], columns=names).slice(0, 5)
            version = registry.register(run, CANDIDATE, example, tags | outcome)
    if verdict.passed and (champion is None or champion.number != version.number):
        if version.tags["gate"] != "passed":  # refused once, against a champion that is gone
            version = registry.tag(version, outcome)
        alias = CHALLENGER if champion and tier() == PRODUCTION else CHAMPION  # there it is tried on requests first
        registry.promote(version, alias)
        if alias == CHAMPION:  # a service in this folder follows at once
            store = Store()
            store.add(version.number, CANDIDATE)
            describe(registry, moves.serve(store, version.number, version.tags, verdict.reason))
    _print(model.contract.id, version, champion, verdict, metrics)


def _print(name: str, version: Version, champion: Version | None, verdict: Verdict, metrics: dict[str, Any]) -> None:
    first = metrics["test"][metrics["score"]]
    tried = champion is not None and tier() == PRODUCTION
    now = version.number if verdict.passed and not tried else (champion.number if champion else "none")
    table = Table(show_header=False, title="register", title_justify="left")
    table.add_row("model", f"{name} version {version.number}, run {version.run}")
    table.add_row("test score", f"{metrics['score']} {Interval(**first)}")
    table.add_row("gate", f"{'passed' if verdict.passed else 'REFUSED'}: {verdict.reason}")
    table.add_row(
        "champion",
        f"version {now}" + (f", was {champion.number}" if champion and champion.number != now else ""),
    )
    if tried and verdict.passed and now != version.number:
        table.add_row("challenger", f"version {version.number}: the service tries it on a share of the requests")
    table.add_row("look", f"{report.CARD}, {DATA_DOCS}/index.html, `make runs`")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
