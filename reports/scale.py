"""The axis that the bars of a finding share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reports.verdict import Outcome, Verdict

OVERHANG = 0.6  # of what a bar must show: how far intervals may widen it to each side


@dataclass(frozen=True)
class Scale:
    """The axis of a finding's bars, from 0 to 100."""

    low: float
    high: float

    @classmethod
    def over(cls, verdicts: Iterable[Verdict]) -> Scale:
        """Return the scale that shows all thresholds and effects of some verdicts.

        Of intervals and of controls it shows what is not much farther away than these.
        """
        found = list(verdicts)
        shown = [*(one.threshold for one in found), *_effects(found)] or [0.0]
        low, high = min(shown), max(shown)
        span = (high - low) or abs(high) or 1.0
        controls = [control for one in found for control in one.controls]
        shown_too: list[Verdict | Outcome] = [*found, *controls]
        ends = [end for one in shown_too for end in one.interval or ()]
        ends = [*filter(math.isfinite, ends), *_effects(controls)]
        low = max(min([low, *ends]), low - OVERHANG * span)
        high = min(max([high, *ends]), high + OVERHANG * span)
        margin = max(0.05 * (high - low), 1e-9 * max(abs(low), abs(high)), 1e-9)
        return cls(low - margin, high + margin)

    def beyond(self, value: float) -> int:
        """Return -1 or 1 for a value that is left or right of the axis, else 0."""
        return int(value > self.high) - int(value < self.low)

    def at(self, value: float) -> float:
        """Return where a value, which may be infinite, is on the axis, in its limits."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0), 1), 2)


def _effects(some: Iterable[Verdict | Outcome]) -> list[float]:
    return [one.effect for one in some if math.isfinite(one.effect)]
