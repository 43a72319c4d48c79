"""What happens as the model ages? Models learned from ever older rows, all scored on the newest ones.

Each window holds equally many rows, so that age alone tells them apart. What a difference in score may be off by comes
from two sources: the test rows, by a jackknife over blocks of time, since rows of one day resemble each other (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 11), and the rows learned from, by two fits on halves of
each window. The bounds hold for all ages at once (Bonferroni), and no model gets better with age (isotonic regression).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn import config_context

from flight_delays import baselines, features
from flight_delays.assess.chance import tidy
from flight_delays.assess.evidence import Evidence
from flight_delays.contract import Contract
from flight_delays.features import Floats
from flight_delays.picture import BLUE, GREY, RED, panel
from flight_delays.pipeline.split import PARTS

_EARLIER = [PARTS["train"], PARTS["valid"]]
_BLOCKS = 40  # of test rows in a row: a day or longer wherever they span six weeks
_HALVES = (slice(0, None, 2), slice(1, None, 2))
_FEWEST_OF_CLASS = 12  # rows of half a window: a rarer class may not reach each fit
_FEWEST = 100  # rows in half a window, below which a fit says more about chance than about age
_RARE = 20  # test rows of the rarer class


def measure(evidence: Evidence, chosen: dict[str, Any]) -> dict[str, Any]:
    """Find the age from which a model has surely lost too much.

    Parameters
    ----------
    evidence
        The model and its test rows.
    chosen
        The section `assess` of `params.yaml`, with its `staleness`.

    Returns
    -------
    dict
        `curve` (by `days` of age: `score`, `loss` against the freshest model with `low` and `high`, and `aged`, the
        loss as a curve that never falls), `limit_days`, `limit_reached` (if not, `limit_days` is the oldest age
        measured), `problems`.
    """
    if evidence.contract.time is None:
        return {"does_not_apply": "the contract has no time column"}
    windows = _windows(evidence, chosen)
    if reason := _too_little(evidence, windows):
        return _unmeasured(reason)
    return judge(evidence, fits(evidence, windows), chosen)


def fits(evidence: Evidence, windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit a model on each half of each window.

    Parameters
    ----------
    evidence
        As for `measure`.
    windows
        From the freshest to the oldest: `X`, `y`, `days` from the window's end to the first test row, `length` in days.

    Returns
    -------
    list of dict
        The windows without `X`, with `models`.
    """
    found = []
    for window in windows:
        models = [evidence.fit_alone(window["X"][half], window["y"][half]) for half in _HALVES]
        found.append({"days": window["days"], "length": window["length"], "y": window["y"], "models": models})
    return found


def judge(evidence: Evidence, fitted: list[dict[str, Any]], chosen: dict[str, Any]) -> dict[str, Any]:
    """Say how fast models age, from fits that stand.

    Parameters
    ----------
    evidence
        The test rows that the models are scored on.
    fitted
        From `fits`.
    chosen
        As for `measure`.
    """
    from sklearn.isotonic import IsotonicRegression

    score = evidence.score
    days = np.array([window["days"] for window in fitted])
    constant = baselines.constant(evidence.contract, fitted[0]["y"], len(evidence.y))
    value, parts = _jackknife(
        evidence, [constant, *(model.predict(evidence.X) for window in fitted for model in window["models"])]
    )
    halves = value[1:].reshape(-1, 2)
    scored, parts = halves.mean(axis=1), np.column_stack([parts[:, 0], parts[:, 1::2] / 2 + parts[:, 2::2] / 2])
    noise = float(np.mean(np.diff(halves) ** 2)) / 4  # variance of a window's score, for the rows it learned from
    tail = (1 - chosen["confidence"]) / 2

    advantage = score.sign * (scored[0] - value[0])
    margin = _margin(parts[:, 1] - parts[:, 0], noise, len(days), tail)
    if advantage <= margin:
        return _unmeasured(_worthless(score.name, scored[0], value[0], advantage < -margin))
    loss = score.sign * (scored[0] - scored)
    each = tail / (len(days) - 1)
    differences = (parts[:, 1 + index] - parts[:, 1] for index in range(1, len(days)))
    width = np.array([0.0, *(_margin(difference, 2 * noise, len(days), each) for difference in differences)])
    weight = 1 / np.maximum(width, max(width.max(), 1e-12) / 10) ** 2  # the freshest has lost nothing, for sure
    aged = IsotonicRegression(y_min=0).fit(days, loss, weight).predict(days)
    low = np.minimum(np.maximum.accumulate(loss - width), aged)
    high = np.maximum(np.minimum.accumulate((loss + width)[::-1])[::-1], aged)
    limit, reached = _limit(days, low, chosen["tolerance"] * advantage)
    curve = zip(days, scored, loss, low, high, aged, strict=True)
    found = {
        "score": score.name,
        "rows": len(evidence.y),
        "window_rows": len(fitted[0]["y"]),
        "window_days": tidy(float(np.median([window["length"] for window in fitted]))),
        "constant": tidy(value[0]),
        "advantage": {name: tidy(advantage + by) for name, by in (("value", 0), ("low", -margin), ("high", margin))},
        "tolerance": chosen["tolerance"],
        "retrain_days": chosen["retrain_days"],
        "limit_days": tidy(limit),
        "limit_reached": reached,
        "curve": [
            dict(zip(("days", "score", "loss", "low", "high", "aged"), map(tidy, row), strict=True)) for row in curve
        ],
    }
    return found | {"problems": [problem] if (problem := _problem(found)) else []}


def _unmeasured(reason: str) -> dict[str, Any]:
    return {"limit_days": None, "curve": [], "problems": [f"how the model ages cannot be told, as {reason}"]}


def _worthless(score: str, fresh: float, constant: float, surely: bool) -> str:
    words = f"({score} {fresh:.4g} against {constant:.4g})"
    if surely:
        return f"even the freshest is worse than a constant {words}: find what has changed since in the data"
    return (
        f"even the freshest is not surely better than a constant {words}: bring more rows, or features that tell more"
    )


def _windows(evidence: Evidence, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Cut windows of equally many rows from what came before the test rows, the freshest first."""
    contract = evidence.contract
    times = np.concatenate([_times(pq.read_table(path, columns=[_name(contract)]), contract) for path in _EARLIER])
    order = np.argsort(times, kind="stable")
    size = int(len(order) * chosen["window"])
    if size < 2 * _FEWEST:
        return []
    places = np.linspace(0, size - 1, min(size, chosen["window_rows"])).astype(np.intp)
    windows: list[dict[str, Any]] = []
    for end in np.linspace(len(order), size, chosen["windows"]).astype(np.intp):
        rows = order[end - size : end]
        days = times[order[-1]] - times[rows[-1]]
        if not windows or days > windows[-1]["days"]:
            windows.append({"days": days, "length": times[rows[-1]] - times[rows[0]], "rows": rows[places]})
    kept = np.unique(np.concatenate([window["rows"] for window in windows]))
    first = pq.ParquetFile(_EARLIER[0]).metadata.num_rows
    loaded = [
        features.load(path, contract, rows)
        for path, rows in zip(_EARLIER, (kept[kept < first], kept[kept >= first] - first), strict=True)
    ]
    X, y = (np.concatenate(both) for both in zip(*loaded, strict=True))
    for window in windows:
        rows = np.searchsorted(kept, window.pop("rows"))
        window |= {"X": X[rows], "y": y[rows]}
    return windows


def _name(contract: Contract) -> str:
    return contract.time.name if contract.time else ""


def _times(rows: pa.Table, contract: Contract) -> Floats:
    """Give each row's time in days."""
    return rows[_name(contract)].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() / 86_400e6


def _too_little(evidence: Evidence, windows: list[dict[str, Any]]) -> str:
    """Say why these rows tell nothing of ageing, if so."""
    contract, reason = evidence.contract, ""
    if not windows:
        before = sum(pq.ParquetFile(path).metadata.num_rows for path in _EARLIER)
        reason = f"there are {before:,} rows before the test rows"
    elif len(windows) < 3:
        reason = f"{_name(contract)!r} has too few different times"
    elif contract.task == "binary" and (rare := int(np.bincount(evidence.y.astype(int), minlength=2).min())) < _RARE:
        reason = f"the rarer value of {contract.target.name!r} has {rare} test rows"
    elif rare_classes := [
        name
        for index, name in enumerate(contract.classes)
        if min((window["y"][half] == index).sum() for window in windows for half in _HALVES) < _FEWEST_OF_CLASS
    ]:
        reason = f"{contract.target.name} = {rare_classes[0]} hardly happens at some times"
    return reason and f"{reason}: bring more rows, over a longer time"


def _jackknife(evidence: Evidence, outputs: list[Floats]) -> tuple[Floats, Floats]:
    """Score outputs on all rows, and give the pseudo-values of each block of time, of shape (blocks, outputs)."""
    score, y = evidence.score, evidence.y
    order = np.argsort(_times(evidence.rows, evidence.contract), kind="stable")
    value = np.array([score.function(y, output) for output in outputs])
    without = []
    for block in np.array_split(order, _BLOCKS):
        rest = np.ones(len(y), bool)
        rest[block] = False
        with config_context(assume_finite=True, skip_parameter_validation=True):
            without.append([score.function(y[rest], output[rest]) for output in outputs])
    return value, _BLOCKS * value - (_BLOCKS - 1) * np.array(without)


def _margin(parts: Floats, noise: float, windows: int, tail: float) -> float:
    """Give how far a mean of pseudo-values with a noise of its own may be off (Welch and Satterthwaite's t)."""
    from scipy import stats

    rows = float(parts.var(ddof=1)) / len(parts)
    if rows + noise == 0:
        return 0.0
    freedom = (rows + noise) ** 2 / (rows**2 / (len(parts) - 1) + noise**2 / windows)
    return float(stats.t.ppf(1 - tail, freedom) * np.sqrt(rows + noise))


def _limit(days: Floats, low: Floats, allowed: float) -> tuple[float, bool]:
    """Find the age at which the sure loss passes what is allowed, and whether it does."""
    if not (low > allowed).any():
        return float(days[-1]), False
    after = int(np.argmax(low > allowed))
    return float(np.interp(allowed, np.maximum(low[[after - 1, after]], 0), days[[after - 1, after]])), True


def _problem(found: dict[str, Any]) -> str:
    limit, every = found["limit_days"], found["retrain_days"]
    fresh, oldest = found["curve"][0], found["curve"][-1]
    if limit >= every:
        return ""
    if not found["limit_reached"]:
        return (
            f"the rows tell how a model ages over {limit:.3g} days, but it is trained again every {every} days: "
            "bring older rows, or train more often and lower assess.staleness.retrain_days in params.yaml"
        )
    return (
        f"a model loses more than {found['tolerance']:.0%} of its advantage over a constant within {limit:.3g} days "
        f"({found['score']} {oldest['score']:.4g} at {oldest['days']:.3g} days, {fresh['score']:.4g} fresh), but is "
        f"trained again every {every} days only: find what changed in the data, or train more often and lower "
        "assess.staleness.retrain_days in params.yaml"
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the loss against age.

    Parameters
    ----------
    found
        From `measure`.
    path
        A PNG file.
    """
    with panel(path, "" if found["curve"] else "too few rows to tell") as axes:
        if found["curve"]:
            _draw_curve(axes, found)


def _draw_curve(axes: Any, found: dict[str, Any]) -> None:
    share = 100 / found["advantage"]["value"]
    days, loss, low, high, aged = (
        np.array([point[name] for point in found["curve"]]) for name in ("days", "loss", "low", "high", "aged")
    )
    color = RED if found["problems"] else BLUE
    axes.fill_between(days, low * share, high * share, color=color, alpha=0.15, lw=0, label="surely in here")
    axes.plot(days, aged * share, color=color, lw=2, label="ageing")
    axes.plot(days, loss * share, "o", color=color, ms=4, label="measured")
    axes.axhline(100 * found["tolerance"], color=GREY, lw=1, ls="--", label="allowed")
    if found["retrain_days"] <= 1.3 * days[-1]:
        axes.axvline(found["retrain_days"], color=GREY, lw=1, ls=":", label="trained again")
    axes.set_ylim(top=max(130 * found["tolerance"], 1.1 * share * high.max()))
    if found["limit_reached"]:
        axes.axvline(found["limit_days"], color=RED, lw=1.2, label="limit")
        title = f"A model is too old after {found['limit_days']:.3g} days"
    else:
        title = f"A model is good for {found['limit_days']:.3g} days at least"
    axes.set(xlabel="age of the model in days", ylabel="share of the advantage lost, in %", title=title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def say(found: dict[str, Any]) -> str:
    """Say how fast the model ages.

    Parameters
    ----------
    found
        From `measure`.
    """
    if not found["curve"]:
        return "This cannot be told yet."
    advantage, limit, share = found["advantage"]["value"], found["limit_days"], f"{found['tolerance']:.0%}"
    lost = f"lost more than {share} of the fresh model's advantage over a constant"
    if found["limit_reached"]:
        finding = f"A model is too old after **{limit:.3g} days**: from then on it has surely {lost}."
    else:
        finding = (
            f"A model is good for **{limit:.3g} days** at least, the oldest age measured: it has not surely {lost}."
        )
    how = (
        f"Each model learned from {found['window_rows']:,} rows out of about {found['window_days']:.3g} days and was "
        f"scored on the same {found['rows']:,} newest rows; a constant has {found['score']} {found['constant']:.4g}."
    )
    lines = [
        finding,
        how,
        "",
        f"| age in days | {found['score']} | lost, of the advantage | surely between |",
        "|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {point['days']:.3g} | {point['score']:.4g} | {point['aged'] / advantage:.1%} | "
        f"{point['low'] / advantage:.1%} and {point['high'] / advantage:.1%} |"
        for point in found["curve"]
    ]
    return "\n".join(lines)
