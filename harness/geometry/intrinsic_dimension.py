"""The intrinsic dimension (ID) of a cloud of points."""

from __future__ import annotations

import math

from harness.errors import GeometryError
from harness.geometry.neighbors import Neighbors


def gride(neighbors: Neighbors, k: int) -> float:
    """Return the Gride ID from the ratios of the distances to neighbours 2k and k.

    k: a power of two; 16 in the paper (k1=16, k2=32).

    Raises GeometryError if there are fewer than 2k neighbours.
    Source: the paper, section 3; DADApy's `return_id_scaling_gride`; Denti et al. 2022 (arXiv
    2104.13832).
    """
    if neighbors.count < 2 * k:
        raise GeometryError(
            f"Gride at k={k} needs {2 * k + 1} distinct points, there are "
            f"{neighbors.count + 1}; analyse more questions or take a smaller k"
        )
    at_powers_of_two, _, _ = neighbors.as_data().return_id_scaling_gride(range_max=2 * k)
    return float(at_powers_of_two[int(math.log2(k))])
