"""One quantity over the layers of a model, and what is read off it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """One quantity over relative depth (layer / number of layers, 0 to 1).

    depth, values: (L,) for L layers.
    NaN is a value that is not known: where one is, or there are none, what follows is NaN too.
    """

    depth: NDArray[np.float64]
    values: NDArray[np.float64]

    def between(self, low: float, high: float) -> Curve:
        """Return the part of the curve with low <= relative depth <= high."""
        # A layer at the limit belongs inside, whatever rounding made of its depth.
        inside = (self.depth >= low - 1e-9) & (self.depth <= high + 1e-9)
        return Curve(self.depth[inside], self.values[inside])

    @property
    def without_ends(self) -> Curve:
        """The curve from its first known value to its last."""
        known = np.flatnonzero(np.isfinite(self.values))
        part = slice(known[0], known[-1] + 1) if len(known) else slice(0)
        return Curve(self.depth[part], self.values[part])

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.values.max()) if len(self.values) else math.nan

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return float(self.values.min()) if len(self.values) else math.nan

    @property
    def last(self) -> float:
        """The value of the deepest layer."""
        return float(self.values[-1]) if len(self.values) else math.nan

    @property
    def median(self) -> float:
        """The median value."""
        return float(np.median(self.values)) if len(self.values) else math.nan

    @property
    def mean(self) -> float:
        """The mean value."""
        return float(self.values.mean()) if len(self.values) else math.nan

    @property
    def peak_depth(self) -> float:
        """The relative depth of the largest value."""
        if math.isnan(self.maximum):
            return math.nan
        return float(self.depth[self.values.argmax()])

    @property
    def centroid(self) -> float:
        """The mean relative depth, 0 to 1, weighted with the values that are above 0; ours."""
        weights = np.clip(self.values, 0, None)
        return float((self.depth * weights).sum() / weights.sum()) if weights.any() else math.nan

    @property
    def width(self) -> float:
        """The share of layers, 0 to 1, whose value is at least half the largest; ours."""
        if math.isnan(self.maximum):
            return math.nan
        return float((self.values >= self.maximum / 2).mean())
