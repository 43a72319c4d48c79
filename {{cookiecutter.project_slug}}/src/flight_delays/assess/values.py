"""What is each feature worth to the model? The loss that it saves, and whether that is more than noise would.

Each contract column, with all that is encoded from it, is shuffled over the held-out rows: how much larger is the loss
without it (permutation importance: Breiman, Machine Learning 2001)? The loss of each row is compared with that of the
same row as it was. A feature is worth something if its gain is surely above 0, which a column of noise is not.

Two columns that say the same share their worth: shuffling one takes little away, as the model still has the other.
Such a column is named with its twin: one of the two can go.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import baselines, features, picture, scores
from flight_delays.assess.chance import Estimate, Places, blocks, holm, mean, tidy
from flight_delays.assess.evidence import Evidence, count
from flight_delays.features import Floats
from flight_delays.picture import BLUE, GREY, RED

_TWIN = 0.8  # share of a column's spread that another explains, from which they say nearly the same
_NEARLY_ALL = 0.95  # share of all gain that makes one suspect a leak of the target,
_STRONG = 0.5  # if the model also saves so much of a constant's loss: beside noise, a weak feature has all gain as well
_TWIN_ROWS, _LEAVES, _CANDIDATES = 2_000, 50, 10
_TREES = 200  # an estimator that is no LightGBM model is taken to be as slow as so many trees
_FEWEST_REPEATS, _FEWEST_ROWS = 3, 500
_MANY = 3  # features beyond which they are also told of together


@functools.lru_cache(maxsize=2)
def gains(evidence: Evidence, repeats: int, visits: int, seed: int) -> tuple[Evidence, Floats]:
    """Measure how much larger the loss of each row is when a column is shuffled.

    Parameters
    ----------
    evidence
        The model and its rows.
    repeats
        How often each column is shuffled at most; the loss of a row is averaged.
    visits
        How many rows times trees are gone through at most. With more columns, rows or trees there are fewer shuffles,
        and if that is not enough, fewer rows are looked at.
    seed
        Of the shuffles.

    Returns
    -------
    tuple
        The rows looked at, and the gains, of shape (rows, feature columns of the contract).
    """
    kinds, columns = features.features(evidence.contract), evidence.contract.features
    predictor = evidence.model.predictor
    trees = predictor.num_trees() if hasattr(predictor, "num_trees") else _TREES
    possible = visits // (max(trees, 1) * len(columns))  # rows, each shuffled once
    repeats = min(max(possible // len(evidence.y), _FEWEST_REPEATS), repeats)
    most = max(possible // repeats, _FEWEST_ROWS)
    if most < len(evidence.y):
        evidence = evidence.take(np.linspace(0, len(evidence.y) - 1, most).astype(np.intp))
    task, X, y = evidence.contract.task, evidence.X, evidence.y
    before = scores.losses(task, y, evidence.output)
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(y)) for _ in range(repeats)]
    found = np.zeros((len(y), len(columns)))
    for place, column in enumerate(columns):
        parts = np.flatnonzero([kind.column.name == column.name for kind in kinds])
        for order in orders:
            shuffled = X.copy()
            shuffled[:, parts] = X[order][:, parts]
            if not np.array_equal(shuffled[:, parts], X[:, parts], equal_nan=True):
                found[:, place] += scores.losses(task, y, evidence.model.predict(shuffled)) - before
    return evidence, found / repeats


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Measure each feature's gain, and name those that are not shown to help.

    Parameters
    ----------
    evidence
        The model and its rows.
    chosen
        `confidence` that no column of noise passes, `repeats`, `visits` and `seed`.

    Returns
    -------
    dict
        `features` (`column`, `gain` with `low` and `high`, `share` of all gains, `helps`, `excused`, `twin`), by gain;
        `loss`, `rows`, `problems`.
    """
    looked, gain = gains(evidence, chosen["repeats"], chosen["visits"], chosen["seed"])
    return judge(looked, gain, chosen["confidence"])


def judge(evidence: Evidence, gain: Floats, confidence: float) -> dict[str, Any]:
    """Say which gains are above noise.

    Parameters
    ----------
    evidence, gain
        From `gains`.
    confidence
        That no column of noise passes, 0 to 1.
    """
    columns = evidence.contract.features
    block = blocks(evidence)
    found = [mean(gain[:, place], block) for place in range(len(columns))]
    levels, helps = holm([entry.chance_above(0) for entry in found], 1 - confidence)
    total = sum(max(entry.value, 0) for entry in found) or 1.0
    entries, problems = [], []
    for place, (column, entry, level, good) in enumerate(zip(columns, found, levels, helps, strict=True)):
        excuse, margin = column.custom.get("excused"), entry.margin(level)
        twin = "" if good else _twin(evidence, place)
        entries.append(
            {"column": column.name, "gain": tidy(entry.value)}
            | {"low": tidy(entry.value - margin), "high": tidy(entry.value + margin)}
            | {"share": tidy(max(entry.value, 0) / total), "helps": good, "excused": excuse, "twin": twin}
        )
        if excuse is not None and not (isinstance(excuse, str) and excuse.strip()):
            problems.append(f"column {column.name!r}: `excused` in contract.yaml needs a reason as its value")
        elif not good and not excuse:
            problems.append(_problem(column.name, entry, margin, twin, evidence))
    useless = sorted(filter(_unexcused, entries), key=lambda entry: entry["gain"] or 0)
    if len(useless) > _MANY:
        problems.insert(0, _many([entry["column"] for entry in useless], len(columns), evidence))
    top = max(entries, key=lambda entry: entry["share"])
    if problems and top["share"] > _NEARLY_ALL and len(entries) > 1 and _explained(evidence) > _STRONG:
        words = (
            f"gives {top['share']:.1%} of all gain, which leaves nothing to the others: look whether it is known before"
        )
        problems.insert(0, f"column {top['column']!r}: {words} the target is, or gives it away")
    return {
        "loss": "squared error" if evidence.contract.task == "regression" else "log loss",
        "rows": len(evidence.y),
        "confidence": confidence,
        "features": sorted(entries, key=lambda entry: -(entry["gain"] or 0)),
        "problems": problems,
    }


def _problem(name: str, entry: Estimate, margin: float, twin: str, evidence: Evidence) -> str:
    what = "squared error" if evidence.contract.task == "regression" else "log loss"
    reason = f"gain {entry.value:.3g} ({entry.value - margin:.3g} to {entry.value + margin:.3g}) in {what}; "
    if not entry.error:
        reason = "the model does not use it; "
    else:
        reason += f"on {len(evidence.y):,} rows nothing below {margin:.2g} can be told from noise; "
    if twin:
        reason += f"it says nearly the same as {twin!r}; "
    excuse = "{property: excused, value: <reason>} to its customProperties"
    return f"column {name!r}: not shown to help: {reason}drop its tag `feature` in contract.yaml, or add {excuse}"


def _explained(evidence: Evidence) -> float:
    """Give the share of a constant's loss that the model saves; a constant knows the average of these very rows."""
    task, y = evidence.contract.task, evidence.y
    constant = scores.losses(task, y, baselines.constant(evidence.contract, y, len(y))).mean()
    return 1 - float(scores.losses(task, y, evidence.output).mean() / constant) if constant else 0.0


def _many(names: list[str], columns: int, evidence: Evidence) -> str:
    """Say in one line what many problems together mean: rows are missing, or the columns say the same."""
    listed, rows = ", ".join(map(repr, names[:_MANY])), count(evidence.contract, evidence.y)
    return (
        f"{len(names)} of {columns} features are not shown to help on {rows} test rows: bring more rows, or drop the "
        f"tag `feature` in contract.yaml of what the model can do without, the least first: {listed}, …"
    )


def _twin(evidence: Evidence, place: int) -> str:
    """Find another feature that says nearly the same: a tree that sees only that one predicts this one on new rows."""
    from sklearn.tree import DecisionTreeRegressor

    kinds, columns = features.features(evidence.contract), evidence.contract.features
    owner = np.array([kind.column.name for kind in kinds])
    rows = np.linspace(0, len(evidence.y) - 1, min(_TWIN_ROWS, len(evidence.y))).astype(np.intp)
    X = np.nan_to_num(evidence.X[rows], nan=-1.0)
    target = X[:, np.argmax(owner == columns[place].name)]  # of a date's parts, the first stands for all
    others = _likely_twins(X, target, np.flatnonzero(owner != columns[place].name))
    if len(rows) < 2 * _LEAVES or not len(others):
        return ""
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=5, random_state=0)
    tree.fit(X[::2, others], target[::2])
    best = others[[int(np.argmax(tree.feature_importances_))]]
    tree.fit(X[::2, best], target[::2])
    spread = ((target[1::2] - target[::2].mean()) ** 2).sum()
    missed = ((target[1::2] - tree.predict(X[1::2, best])) ** 2).sum()
    return str(owner[best[0]]) if missed < (1 - _TWIN) * spread else ""


def _likely_twins(X: Floats, target: Floats, others: Places) -> Places:
    """Look at all other features, or where they are many at those whose ranks agree most."""
    if len(others) <= 3 * _CANDIDATES:
        return others
    ranks = np.argsort(np.argsort(np.column_stack([target, X[:, others]]), axis=0, kind="stable"), axis=0).astype(float)
    ranks -= ranks.mean(axis=0)
    return others[np.argsort(-np.abs(ranks[:, 0] @ ranks[:, 1:]), kind="stable")[:_CANDIDATES]]


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw each feature's gain with its interval.

    Parameters
    ----------
    found
        From `measure`.
    path
        The picture to write.
    """
    entries = found["features"]
    shown = picture.worst_first(entries, _unexcused)
    wrong, label = sum(map(_unexcused, entries)), f"{found['loss']} that the feature saves, {found['rows']:,} rows"
    title = f"{wrong} of {len(entries)} features are not shown to help" if wrong else "Every feature helps"
    if not wrong and any(not entry["helps"] for entry in entries):
        title += ", or has its reason"
    figure, (axes,) = picture.start(title, len(shown))
    axes.set_xlabel(label)
    for line, entry in enumerate(shown):
        color = RED if _unexcused(entry) else BLUE if entry["helps"] else GREY
        picture.interval(axes, line, {**entry, "value": entry["gain"]}, color)
    axes.axvline(0, color=GREY, lw=1, zorder=0)
    picture.name_lines(axes, [entry["column"] + (" (excused)" if entry["excused"] else "") for entry in shown])
    picture.finish(figure, path)


def _unexcused(entry: dict[str, Any]) -> bool:
    return not entry["helps"] and not entry["excused"]


def say(found: dict[str, Any]) -> str:
    """Say in a table what each feature is worth.

    Parameters
    ----------
    found
        From `measure`.
    """
    lines = [
        (
            f"How much larger the {found['loss']} of {found['rows']:,} held-out rows is when a column is shuffled. A "
            "column helps if its gain is surely above 0: no column of noise passes, with a probability of "
            f"{found['confidence']:g}."
        ),
        "",
        "| feature | gain | share | helps |",
        "|---|---|---|---|",
    ]
    for entry in found["features"]:
        helps = "yes" if entry["helps"] else "not shown"
        if entry["twin"]:
            helps += f", says nearly the same as `{entry['twin']}`"
        if entry["excused"]:
            helps += f"; excused: {entry['excused']}"
        spread = "" if entry["low"] is None else f" ({entry['low']:.3g} to {entry['high']:.3g})"
        lines.append(f"| `{entry['column']}` | {entry['gain']:.3g}{spread} | {entry['share']:.1%} | {helps} |")
    return "\n".join(lines)
