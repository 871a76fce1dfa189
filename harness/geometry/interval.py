"""How far a value may be off, from its values in subsamples of the points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def interval_of(value: float, draws: Sequence[float], share: float) -> tuple[float, float] | None:
    """Return the interval of a value, two standard errors to each side; None without two draws.

    draws: the value in subsamples of a `share` of the points. Without replacement, their spread
        is smaller than that of samples as large as the whole, by the factor that the delete-d
        jackknife gives. With fewer points k neighbours reach farther, so all draws can lie to one
        side of the value: the interval reaches to their mean at least. That is also what is left
        where a value jumps, as a count does, and draws that all agree have no spread.

    A draw without a finite value leaves the interval unbounded.
    Source: Shao and Wu 1989, A general theory for jackknife variance estimation.
    """
    if len(draws) < 2:
        return None
    if not all(math.isfinite(one) for one in draws):
        return -math.inf, math.inf
    error = statistics.stdev(draws) * math.sqrt(share / (1 - share))
    mean = statistics.fmean(draws)
    return min(value - 2 * error, mean), max(value + 2 * error, mean)
