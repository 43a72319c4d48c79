"""Could it be chance? Standard errors for rows that follow each other in time, and many questions asked at once.

A statistic is taken apart into what each row adds to its error (its influence), so no resampling is needed, and the far
ends of intervals, which many questions at once ask for, do not rest on a few resamples. Rows that happened together are
not independent: weather and strikes hit many at once. Where the contract has an event time, influences are summed over
few long blocks of it and the blocks are taken as independent (batch means: Law, Simulation Modeling and Analysis,
ch. 9; clusters for the area under the curve: Obuchowski, Biometrics 1997).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flight_delays.assess.evidence import Evidence
from flight_delays.features import Floats

Places = NDArray[np.intp]
_BLOCKS = 30  # of time: long enough to differ by chance alone, and enough of them to see how much they do


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Attributes
    ----------
    value
        The number.
    error
        Its standard error.
    freedom
        Degrees of freedom of the error: independent blocks or rows less one.
    """

    value: float
    error: float
    freedom: int

    def margin(self, level: float) -> float:
        """Say how far chance reaches to one side.

        Parameters
        ----------
        level
            The probability that it reaches farther, 0 to 1.
        """
        from scipy.stats import t

        return float(t.isf(level, self.freedom) * self.error)

    def chance_above(self, bound: float) -> float:
        """Say how likely chance alone lifts the number so far above a bound (one-sided p-value of Student's t).

        Parameters
        ----------
        bound
            What the number is if there is nothing to find.
        """
        from scipy.stats import t

        if not self.error:
            return float(self.value <= bound)
        return float(t.sf((self.value - bound) / self.error, self.freedom))

    def chance_below(self, bound: float) -> float:
        """Say how likely chance alone brings the number so far below a bound.

        Parameters
        ----------
        bound
            What the number is if there is nothing to find.
        """
        return Estimate(-self.value, self.error, self.freedom).chance_above(-bound)


def blocks(evidence: Evidence) -> Places:
    """Give each row the block of time it belongs to; without an event time, each row is its own.

    Parameters
    ----------
    evidence
        The rows.
    """
    places = np.arange(len(evidence.y))
    if evidence.contract.time is None:
        return places
    order = np.argsort(evidence.rows[evidence.contract.time.name].to_numpy(), kind="stable")
    found = np.empty_like(places)
    found[order] = places * min(_BLOCKS, len(places)) // len(places)
    return found


def estimate(value: float, influence: Floats, block: Places) -> Estimate:
    """Put the standard error to a statistic.

    Parameters
    ----------
    value
        The statistic.
    influence
        What each row adds to its error, of shape (rows,): for a mean, the row's deviation over the number of rows.
    block
        Each row's block, of shape (rows,).
    """
    _, place = np.unique(block, return_inverse=True)
    return of_sums(value, np.bincount(place, influence).astype(float))


def of_sums(value: float, sums: Floats) -> Estimate:
    """Put the standard error to a statistic whose influences are summed up already.

    Parameters
    ----------
    value
        The statistic.
    sums
        Of the influences in each block.
    """
    count = len(sums)
    if count < 2:
        return Estimate(float(value), np.inf, 1)
    return Estimate(float(value), float(np.sqrt((sums**2).sum() * count / (count - 1))), count - 1)


def mean(values: Floats, block: Places) -> Estimate:
    """Estimate a mean.

    Parameters
    ----------
    values
        One a row.
    block
        Each row's block.
    """
    value = values.mean()
    return estimate(value, (values - value) / len(values), block)


def area_under_curve(truth: Floats, output: Floats, block: Places) -> Estimate:
    """Estimate the area under the ROC curve by placement values (DeLong et al., Biometrics 1988).

    Parameters
    ----------
    truth
        0 or 1, both present, of shape (rows,).
    output
        What ranks the rows.
    block
        Each row's block.
    """
    positive = truth == 1
    above, below = output[positive], output[~positive]
    placed = np.empty(len(truth))
    placed[positive] = _share_below(np.sort(below), above)
    placed[~positive] = 1 - _share_below(np.sort(above), below)
    value = placed[positive].mean()
    return estimate(value, (placed - value) / np.where(positive, len(above), len(below)), block)


def _share_below(ordered: Floats, values: Floats) -> Floats:
    """Give the share of some numbers that lies below each value; equal ones count half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def holm(chances: Sequence[float], level: float) -> tuple[list[float], list[bool]]:
    """Share a probability of error out over many questions (Holm, Scandinavian Journal of Statistics 1979).

    Parameters
    ----------
    chances
        The p-value of each question.
    level
        The probability that any answer is wrongly "surely".

    Returns
    -------
    tuple of list
        The level at which each question is answered, and whether its answer is "surely".
    """
    levels, sure = [level] * len(chances), [False] * len(chances)
    going, share = True, level
    for step, place in enumerate(np.argsort(chances, kind="stable")):
        if going:
            share = level / (len(chances) - step)
            going = chances[place] <= share
        levels[place], sure[place] = share, going
    return levels, sure


def tidy(number: float) -> float | None:
    """Round to the digits that every machine agrees on, without negative zero; `None` for what is no finite number.

    Parameters
    ----------
    number
        Any.
    """
    return float(f"{number:.6g}") + 0.0 if np.isfinite(number) else None
