"""What must hold for a column? Rules wide enough for tomorrow's data, tight enough for a wrong unit."""

import math
from datetime import date, datetime, time
from typing import Any

from flight_delays.infer.survey import Facts

_FEWEST_FOR_A_MEAN = 20
_FEWEST_PER_VALUE = 5  # rows per listed value, on average


def bounds(facts: Facts, *, open_end: bool = False) -> dict[str, Any]:
    """Give a column's `minimum` and `maximum`, with half its range to spare on each side.

    Parameters
    ----------
    facts
        What the column holds.
    open_end
        Whether later values are what is expected, as of an event's time.
    """
    low, high = facts.low, facts.high
    if low is None or low == high or isinstance(low, time):
        return {}
    if isinstance(low, date):
        return _bounds_of_days(low, high, open_end)
    if facts.kind.name == "integer" and (low, high) == (0, 1):
        return {"minimum": 0, "maximum": 1}
    slack = (high - low) / 2
    step = _step(slack)
    lowest, highest = _down(low - slack, step), _up(high + slack, step)
    return {
        "minimum": 0 if low >= 0 > lowest else lowest,
        "maximum": 0 if high <= 0 < highest else highest,
    }


def mean_bounds(facts: Facts) -> tuple[float, float] | None:
    """Give the range of a column's mean: half a standard deviation either way, so that a change of unit shows.

    Parameters
    ----------
    facts
        What the column holds; `None` is given where it has no mean, or too few rows to know it.
    """
    if facts.mean is None or not facts.spread or facts.present < _FEWEST_FOR_A_MEAN:
        return None
    step = _step(facts.spread / 2) / 10
    low, high = _down(facts.mean - facts.spread / 2, step), _up(facts.mean + facts.spread / 2, step)
    return (0 if facts.low >= 0 > low else low), (0 if facts.high <= 0 < high else high)


def null_limit(facts: Facts) -> int | None:
    """Give the percentage of nulls that a column must stay below: twice today's and one more.

    Parameters
    ----------
    facts
        What the column holds; `None` is given where it is never null, or always.
    """
    share = 100 * facts.nulls / facts.rows
    if facts.nulls in {0, facts.rows}:
        return None
    return min(100, math.ceil(min(2 * share + 1, (100 + share) / 2)))


def listed(facts: Facts) -> list[str]:
    """Give the values that a text column may have: all of today's, where they are few and each is seen often.

    Parameters
    ----------
    facts
        What the column holds; nothing is listed where it has too many values.
    """
    if facts.kind.name != "string" or facts.kind.nested or facts.present < _FEWEST_PER_VALUE * len(facts.counts):
        return []
    return list(facts.counts)


def _bounds_of_days(low: Any, high: Any, open_end: bool) -> dict[str, Any]:
    first = low.year if open_end else max(1, (low - (high - low) / 2).year)
    last = min(9999, high.year + math.ceil((high - low).days / 2 / 365))
    found: dict[str, date]
    if isinstance(low, datetime):
        found = {"minimum": datetime(first, 1, 1), "maximum": datetime(last, 12, 31, 23, 59, 59)}  # noqa: DTZ001
    else:
        found = {"minimum": date(first, 1, 1), "maximum": date(last, 12, 31)}
    return {name: day.isoformat() for name, day in found.items() if name == "minimum" or not open_end}


def _step(size: float) -> float:
    """Give the power of ten to which a number of this size is rounded."""
    return float(10.0 ** math.floor(math.log10(size) + 1e-9))


def _down(value: float, step: float) -> float:
    return _times(math.floor(_settled(value / step)), step)


def _up(value: float, step: float) -> float:
    return _times(math.ceil(_settled(value / step)), step)


def _settled(value: float) -> float:
    """Drop the last digits, which depend on the order in which a machine adds."""
    return float(f"{value:.9g}")


def _times(count: int, step: float) -> float:
    product = float(f"{count * step:.12g}")
    return int(product) if product.is_integer() and abs(product) < 1e15 else product
