"""How sure is a number that is looked at again after each batch? Confidence sequences: intervals for all times at once.

An interval for a fixed number of observations, looked at until it says what one hopes for, is wrong far more often
than it promises. These hold at all times together, whenever one looks and stops (Robbins, Annals of Mathematical
Statistics 1970; Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 2021).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_HALVINGS = 40  # of the search for an end of an interval: to 12 digits


class Rate:
    """A rate of observations between 0 and 1, such as failures.

    Robbins' mixture with a beta distribution. What lies between 0 and 1 varies at most like a coin of the same mean
    (sub-Bernoulli in Howard et al. 2021), so shares of rows are as welcome as zeros and ones, at any number of them.

    Parameters
    ----------
    expected
        Where the interval shall be narrowest: near the bound that the rate is held against, above 0 and below 1.
    """

    def __init__(self, expected: float) -> None:
        self.count, self.sum = 0, 0.0
        self._prior = 0.5, 0.5 * (1 - expected) / expected  # Jeffreys' weight at a rare end: few observations decide

    def add(self, count: int, total: float) -> None:
        """Count observations.

        Parameters
        ----------
        count, total
            How many, and their sum.
        """
        self.count += count
        self.sum += total

    def interval(self, level: float) -> tuple[float, float, float]:
        """Give the rate with the ends of its interval.

        Parameters
        ----------
        level
            The probability that the interval ever misses the rate.
        """
        if not self.count:
            return math.nan, 0.0, 1.0
        value = min(1.0, max(0.0, self.sum / self.count))
        a, b = self._prior
        mixed = _log_beta(a + self.sum, b + self.count - self.sum) - _log_beta(a, b) + math.log(level)

        def inside(rate: float) -> bool:
            if rate <= 0 or rate >= 1:
                return rate == value
            return mixed < self.sum * math.log(rate) + (self.count - self.sum) * math.log1p(-rate)

        return value, _end(inside, value, 0.0), _end(inside, value, 1.0)


class Ratio:
    """Ratios of means of what was observed together, such as the two models' milliseconds.

    For each ratio k, the mean of `above - k * below` is held against 0 by the asymptotic confidence sequence of
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Annals of Statistics 2024, theorem 2.2); the interval is all k
    that stand (Fieller, Journal of the Royal Statistical Society B 1954).

    Parameters
    ----------
    narrowest
        The number of observations at which the intervals shall be narrowest.
    """

    def __init__(self, narrowest: float) -> None:
        self.count = 0
        self._narrowest = narrowest
        self._sums: tuple[Floats, ...] = tuple(np.zeros(1) for _ in range(5))

    def add(self, above: Floats, below: Floats) -> None:
        """Take observations in.

        Parameters
        ----------
        above
            Of shape (observations, ratios).
        below
            Of shape (observations,), not negative.
        """
        self.count += len(below)
        below = below[:, None]
        new = (above, below, above**2, above * below, below**2)
        self._sums = tuple(total + values.sum(axis=0) for total, values in zip(self._sums, new, strict=True))

    def interval(self, level: float) -> tuple[Floats, Floats, Floats]:
        """Give each ratio with the ends of its interval, which are infinite where the divisor may be 0.

        Parameters
        ----------
        level
            The probability that an interval ever misses its ratio, for each of them.
        """
        above, below, above_2, both, below_2 = (total / max(self.count, 1) for total in self._sums)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = above / below
            width = self._width(level)
            first = below**2 - width * (below_2 - below**2)
            second = above * below - width * (both - above * below)
            third = above**2 - width * (above_2 - above**2)
            root = np.sqrt(np.maximum(second**2 - first * third, 0))
            bounded = (first > 0) & np.isfinite(root)
            low = np.where(bounded, (second - root) / first, -np.inf)
            high = np.where(bounded, (second + root) / first, np.inf)
        return value, low, high

    def _width(self, level: float) -> float:
        """Give the square of the half width, in standard deviations."""
        if not self.count:
            return math.inf
        odds = -2 * math.log(level)
        rho = (odds + math.log(odds + 1)) / self._narrowest
        grown = self.count * rho + 1
        return 2 * grown / (self.count**2 * rho) * math.log(math.sqrt(grown) / level)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _end(inside: Callable[[float], bool], value: float, end: float) -> float:
    """Find, from a value inside an interval, where it ends on the way to 0 or 1."""
    if inside(end):
        return end
    for _ in range(_HALVINGS):
        middle = (value + end) / 2
        value, end = (middle, end) if inside(middle) else (value, middle)
    return end
