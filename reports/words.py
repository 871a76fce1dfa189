"""Numbers as the terminal and the report have them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float | None) -> str:
    """Return a number with three decimals, or with two digits where these say nothing.

    None and NaN are unknown.
    """
    if value is None or math.isnan(value):
        return "unknown"
    if value and not 0.0005 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.3f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Return an interval in brackets, after a space; nothing without one."""
    if bounds is None:
        return ""
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        return " [unbounded]"
    return f" [{number(low)}, {number(high)}]"


def effect(value: float, bounds: Sequence[float] | None) -> str:
    """Return an effect and its interval."""
    return number(value) + interval(bounds)
