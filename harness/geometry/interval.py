"""How far a value may be off, from its values in subsamples of the points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

LEVEL = 0.95


def interval_of(value: float, draws: Sequence[float], share: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a value; None without two draws.

    draws: the value in R subsamples of a `share` of the points. Without replacement, their spread
        is smaller than that of samples as large as the whole, by the factor that the delete-d
        jackknife gives. The interval is as many standard errors to each side as Student's t of
        R - 1 degrees of freedom says (2.26 of ten draws). With fewer points k neighbours reach
        farther, so all draws can lie to one side of the value: the interval reaches to their mean
        at least. That is also what is left where a value jumps, as a count does, and draws that
        all agree have no spread.

    A draw without a finite value leaves the interval unbounded.
    Source: Shao and Wu 1989, A general theory for jackknife variance estimation.
    """
    if len(draws) < 2:
        return None
    if not all(math.isfinite(one) for one in draws):
        return -math.inf, math.inf
    error = statistics.stdev(draws) * math.sqrt(share / (1 - share))
    reach = float(stdtrit(len(draws) - 1, (1 + LEVEL) / 2)) * error
    mean = statistics.fmean(draws)
    return min(value - reach, mean), max(value + reach, mean)
