"""The density of a cloud of points at every point, up to a factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from harness.errors import GeometryError
from harness.geometry.neighbors import Neighbors

SMALLEST_EXPONENT = -700.0  # a little above float64's smallest normal number, e^-708
LARGEST_EXPONENT = 300.0  # DADApy clips the logarithm of a shell's volume there


@dataclass(frozen=True)
class Density:
    """The density at N points.

    log: (N,) natural logarithm; error: (N,) its standard error; k: (N,) neighbours it is from.
    """

    log: NDArray[np.float64]
    error: NDArray[np.float64]
    k: NDArray[np.int64]


def knn_density(neighbors: Neighbors, dimension: float, k: int) -> Density:
    """Return the density from the distance to the k-th neighbour, in `dimension` dimensions.

    It is k over the volume of the ball that reaches the k-th neighbour, over N; its logarithm has
    the standard error 1 / sqrt(k).

    Raises GeometryError if there are fewer than k neighbours, or for so many dimensions (above some
    450) that float64 does not tell the unit ball's volume from 0.
    Source: DADApy's `compute_density_kNN`.
    """
    if neighbors.count < k:
        raise GeometryError(
            f"a density over k={k} neighbours needs {k + 1} distinct points, there are "
            f"{neighbors.count + 1}; analyse more questions"
        )
    _log_unit_ball(dimension)
    data = neighbors.as_data()
    data.set_id(dimension)
    data.compute_density_kNN(k=k)
    return Density(data.log_den, data.log_den_err, data.kstar)


def pak_density(neighbors: Neighbors, dimension: float) -> Density:
    """Return the point-adaptive density (PAk): as many neighbours as look uniformly dense.

    Raises GeometryError if there are fewer than 4 neighbours, for too many dimensions, as
    `knn_density` does, or if a volume cannot be told in float64: there DADApy clips it, and its
    iteration need not end.
    Source: DADApy's `compute_kstar` and `compute_density_PAk`; Rodriguez et al. 2018.
    """
    if neighbors.count < 4:
        raise GeometryError(
            f"PAk needs 5 distinct points, there are {neighbors.count + 1}; analyse more questions"
        )
    log_unit_ball = _log_unit_ball(dimension)
    data = neighbors.as_data()
    data.set_id(dimension)
    data.compute_kstar()
    largest = np.take_along_axis(neighbors.distances, data.kstar[:, None], axis=1).max()
    smallest = neighbors.distances[:, 1].min()
    too_large = max(0.0, log_unit_ball) + dimension * np.log(largest) > LARGEST_EXPONENT
    if too_large or log_unit_ball + dimension * np.log(smallest) < SMALLEST_EXPONENT:
        raise GeometryError(
            f"PAk's volumes leave float64's range at a dimension of {dimension:.0f} and distances "
            f"of {smallest:.3g} to {largest:.3g}; scale the representations so that these are "
            "near 1, or take the kNN density"
        )
    data.compute_density_PAk()
    return Density(data.log_den, data.log_den_err, data.kstar)


def _log_unit_ball(dimension: float) -> float:
    """Return the log of the unit ball's volume, which DADApy needs as a plain number."""
    found = float(dimension / 2 * np.log(np.pi) - gammaln(dimension / 2 + 1))
    if not np.exp(found):
        raise GeometryError(
            f"an intrinsic dimension of {dimension:.0f} is too large for a density in float64; "
            "take representations of fewer dimensions"
        )
    return found
