"""The density peaks of a cloud of points (advanced density peaks, ADP)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import GeometryError
from harness.geometry.neighbors import Neighbors


@dataclass(frozen=True)
class DensityPeaks:
    """The peaks of N points: one cluster a peak.

    assignment: (N,) cluster number of every point, from 0.
    core: (N,) whether the point is in its cluster's core, that is not in the halo.
    """

    assignment: NDArray[np.int64]
    core: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of density peaks."""
        return int(self.assignment.max()) + 1

    @property
    def core_fraction(self) -> float:
        """Share of the points that are core points, 0 to 1."""
        return float(self.core.mean())


def density_peaks(neighbors: Neighbors, dimension: float, k: int, z: float) -> DensityPeaks:
    """Return the density peaks that stand out at confidence `z`.

    dimension: the intrinsic dimension in which the kNN density (k neighbours) is estimated.

    Raises GeometryError if there are fewer than k neighbours.
    Source: DADApy's `compute_density_kNN` and `compute_clustering_ADP`; d'Errico et al. 2021.
    """
    if neighbors.count < k:
        raise GeometryError(
            f"a density over k={k} neighbours needs {k + 1} distinct points, there are "
            f"{neighbors.count + 1}; analyse more questions (--per-subject)"
        )
    data = neighbors.as_data()
    data.set_id(dimension)
    data.compute_density_kNN(k=k)
    assignment = np.array(data.compute_clustering_ADP(Z=z, halo=False), dtype=np.int64)
    core = np.array(data.compute_clustering_ADP(Z=z, halo=True)) != -1
    return DensityPeaks(assignment, core)
