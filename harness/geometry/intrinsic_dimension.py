"""The intrinsic dimension (ID) of a cloud of points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import GeometryError
from harness.geometry.neighbors import Neighbors


@dataclass(frozen=True)
class Scales:
    """The Gride ID from the smallest scale to larger ones.

    k: (S,) the powers of two; the ID at k compares the distances to neighbours 2k and k.
    dimension, error: (S,) the ID and its standard error.
    distance: (S,) the mean distance of those neighbours, in the unit of the points.
    """

    k: NDArray[np.int64]
    dimension: NDArray[np.float64]
    error: NDArray[np.float64]
    distance: NDArray[np.float64]


def gride_scales(neighbors: Neighbors, largest: int) -> Scales:
    """Return the Gride ID at k = 1, 2, 4, ... up to `largest`.

    Raises GeometryError if there are fewer than 2 `largest` neighbours.
    Source: DADApy's `return_id_scaling_gride`; Denti et al. 2022 (arXiv 2104.13832).
    """
    if neighbors.count < 2 * largest:
        raise GeometryError(
            f"Gride at k={largest} needs {2 * largest + 1} distinct points, there are "
            f"{neighbors.count + 1}; analyse more questions or take a smaller k"
        )
    found = neighbors.as_data().return_id_scaling_gride(range_max=2 * largest)
    dimension, error, distance = found
    return Scales(2 ** np.arange(len(dimension)), dimension, error, distance)


def gride(neighbors: Neighbors, k: int) -> float:
    """Return the Gride ID from the ratios of the distances to neighbours 2k and k.

    k: a power of two; 16 in the paper (k1=16, k2=32).

    Raises GeometryError if there are fewer than 2k neighbours.
    Source: the paper, section 3; `gride_scales`.
    """
    return float(gride_scales(neighbors, k).dimension[int(math.log2(k))])
