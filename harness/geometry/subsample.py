"""The neighbours of a part of the points, from those of all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.geometry.neighbors import Neighbors


def draw_subsamples(total: int, count: int, share: float, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return `count` ascending draws of a `share` of the numbers 0 to `total` - 1.

    Drawn without replacement: a point that is there twice would be its own nearest neighbour.
    Each is (round(total * share),) int64. Source: the delete-d jackknife, as in `interval_of`.
    """
    size = round(total * share)
    return [
        np.sort(np.random.default_rng([seed, number]).permutation(total)[:size])
        for number in range(count)
    ]


def neighbors_among(neighbors: Neighbors, rows: NDArray[np.int64]) -> Neighbors:
    """Return the neighbours that some of the points have among themselves.

    rows: (M,) ascending numbers of distinct points; the result counts them from 0.

    A point's nearest neighbours in the part are its nearest in the whole that are in the part, in
    the same order, so the result is exact. It has as many neighbours as the point has that is left
    with the fewest: for 80 % of the points about 80 %.
    """
    number = np.full(len(neighbors.indices), -1, dtype=np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    renumbered = number[neighbors.indices[rows]]
    inside = renumbered >= 0
    kept = int(inside.sum(axis=1).min())
    inside &= inside.cumsum(axis=1, dtype=np.int32) <= kept
    shape = (len(rows), kept)
    return Neighbors(
        neighbors.distances[rows][inside].reshape(shape),
        renumbered[inside].astype(np.int64).reshape(shape),
    )
