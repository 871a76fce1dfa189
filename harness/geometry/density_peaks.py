"""The density peaks of a cloud of points (advanced density peaks, ADP)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.geometry.density import Density
from harness.geometry.neighbors import Neighbors


@dataclass(frozen=True)
class DensityPeaks:
    """The P peaks of N points: one cluster a peak.

    assignment: (N,) cluster number of every point, from 0.
    core: (N,) whether the point is in its cluster's core, that is not in the halo.
    peaks: (P,) row numbers of the points of highest density.
    log_peak: (P,) log density there.
    log_saddle: (P, P) log density at the saddle between two peaks, symmetric; on the diagonal the
        peak's own. Peaks that do not touch have DADApy's value for it, one below the lowest log
        density less Z standard errors.
    """

    assignment: NDArray[np.int64]
    core: NDArray[np.bool_]
    peaks: NDArray[np.int64]
    log_peak: NDArray[np.float64]
    log_saddle: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of density peaks."""
        return len(self.peaks)

    @property
    def core_fraction(self) -> float:
        """Share of the points that are core points, 0 to 1."""
        return float(self.core.mean())


def density_peaks(neighbors: Neighbors, density: Density, z: float) -> DensityPeaks:
    """Return the density peaks that stand out at confidence `z`.

    z: how many standard errors of the log density a peak is above its saddles.

    Source: DADApy's `compute_clustering_ADP`; d'Errico et al. 2021.
    """
    data = neighbors.as_data()
    data.kstar, data.log_den, data.log_den_err = density.k, density.log, density.error
    assignment = np.array(data.compute_clustering_ADP(Z=z, halo=False), dtype=np.int64)
    peaks = np.array(data.cluster_centers, dtype=np.int64)
    log_saddle = np.array(data.log_den_bord, dtype=np.float64)
    np.fill_diagonal(log_saddle, density.log[peaks])
    # The halo is what is less dense than its cluster's highest saddle. DADApy would find all
    # peaks again to say so (halo=True); its own shifted values keep its answer to the last bit.
    shifted = density.log - np.min(density.log - z * density.error) + 1
    saddles = np.array(data.bord_indices, dtype=np.int64)
    highest = np.where(saddles >= 0, shifted[saddles], 0).max(axis=1)
    core = shifted >= highest[assignment]
    return DensityPeaks(assignment, core, peaks, density.log[peaks], log_saddle)
