"""One quantity over the layers of a model, and what is read off it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """One quantity over relative depth (layer / number of layers, 0 to 1).

    depth, values: (L,) for L layers.
    NaN is a value that was not measured: what follows is of those that were, and NaN of none.
    """

    depth: NDArray[np.float64]
    values: NDArray[np.float64]

    def between(self, low: float, high: float) -> Curve:
        """Return the part of the curve with low <= relative depth <= high."""
        # A layer at the limit belongs inside, whatever rounding made of its depth.
        inside = (self.depth >= low - 1e-9) & (self.depth <= high + 1e-9)
        return Curve(self.depth[inside], self.values[inside])

    @cached_property
    def known(self) -> NDArray[np.float64]:
        """The values that were measured, (K,) of the L."""
        found: NDArray[np.float64] = self.values[np.isfinite(self.values)]
        return found

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.known.max()) if len(self.known) else math.nan

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return float(self.known.min()) if len(self.known) else math.nan

    @property
    def last(self) -> float:
        """The value of the deepest layer; NaN where that was not measured."""
        return float(self.values[-1]) if len(self.values) else math.nan

    @property
    def median(self) -> float:
        """The median value."""
        return float(np.median(self.known)) if len(self.known) else math.nan

    @property
    def mean(self) -> float:
        """The mean value."""
        return float(self.known.mean()) if len(self.known) else math.nan

    @property
    def peak_depth(self) -> float:
        """The relative depth of the largest value."""
        return float(self.depth[np.nanargmax(self.values)]) if len(self.known) else math.nan

    @property
    def centroid(self) -> float:
        """The mean relative depth, 0 to 1, weighted with the values that are above 0; ours."""
        weights = np.clip(np.nan_to_num(self.values), 0, None)
        return float((self.depth * weights).sum() / weights.sum()) if weights.any() else math.nan

    @property
    def width(self) -> float:
        """The share of layers, 0 to 1, whose value is at least half the largest; ours."""
        return float((self.known >= self.maximum / 2).mean()) if len(self.known) else math.nan
