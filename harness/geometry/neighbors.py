"""Exact Euclidean nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dadapy import Data
from numpy.typing import NDArray

from harness.errors import GeometryError


@dataclass(frozen=True)
class Neighbors:
    """The nearest neighbours of N points, each point itself first.

    distances: (N, k + 1) float64, ascending; indices: (N, k + 1) int64.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Neighbours of a point, without itself."""
        return self.distances.shape[1] - 1

    def as_data(self) -> Data:
        """Return DADApy's view of these neighbours."""
        return Data(distances=(self.distances, self.indices), maxk=self.count)


def distinct_points(points: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the row numbers, ascending, of the first of each group of identical rows.

    points: (N, D). The paper's repository drops exact duplicates too (analysis/utils.py).
    """
    first: dict[bytes, int] = {}
    for row, point in enumerate(np.ascontiguousarray(points)):
        first.setdefault(point.tobytes(), row)
    return np.fromiter(first.values(), dtype=np.int64)


def nearest_neighbors(points: NDArray[np.floating[Any]], count: int) -> Neighbors:
    """Return the `count` nearest neighbours of (N, D) distinct points; N - 1 if that is fewer.

    Distances are computed in float64 (DADApy's `compute_distances`).

    Raises GeometryError for fewer than two points, or values that are not finite.
    """
    if len(points) < 2:
        raise GeometryError(
            f"{len(points)} distinct points have no neighbours; give more questions"
        )
    if not np.isfinite(points).all():
        raise GeometryError("the representations hold NaN or infinite values; try float32")
    # One job: scikit-learn's own threads already use all cores for the products.
    data = Data(coordinates=np.asarray(points, dtype=np.float64), n_jobs=1)
    data.compute_distances(maxk=min(count, len(points) - 1))
    return Neighbors(data.distances, data.dist_indices)
