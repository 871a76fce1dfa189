"""How far a value may be off, from its values in subsamples of the points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def interval_of(
    value: float, draws: Sequence[float], share: float = 0.8
) -> tuple[float, float] | None:
    """Return the interval of a value, two standard errors to each side; None without two draws.

    draws: the value in subsamples of a `share` of the points. Without replacement, their spread
        is smaller than that of samples as large as the whole, by the factor that the delete-d
        jackknife gives. The interval is about the value itself and not about the draws' mean:
        with fewer points, k neighbours reach farther, so all draws can lie to one side.

    A draw without a finite value leaves the interval unbounded.
    Source: Shao and Wu 1989, A general theory for jackknife variance estimation.
    """
    if len(draws) < 2:
        return None
    if not all(math.isfinite(one) for one in draws):
        return -math.inf, math.inf
    error = statistics.pstdev(draws) * math.sqrt(share / (1 - share))
    return value - 2 * error, value + 2 * error
