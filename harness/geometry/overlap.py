"""Neighbourhoods compared with labels, and with those of another representation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import GeometryError
from harness.geometry.neighbors import Neighbors


def label_overlap(
    neighbors: Neighbors, labels: Sequence[str], class_fraction: float = 0.3
) -> float:
    """Return the mean share, 0 to 1, of a point's nearest neighbours that have its label.

    All labels weigh the same, whatever their number of points.

    labels: N. class_fraction: a point's nearest neighbours are as many as this share of its label's
        points, rounded down, and at least one.

    Raises GeometryError if there are fewer neighbours.
    Source: DADApy's `return_label_overlap`; the paper's repository takes 0.3.
    """
    _, numbers, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    k = np.maximum((sizes * class_fraction).astype(np.int64), 1)[numbers]
    _check(neighbors, int(k.max()))
    near = numbers[neighbors.indices[:, 1 : k.max() + 1]] == numbers[:, None]
    near &= np.arange(k.max()) < k[:, None]
    return float((np.bincount(numbers, near.sum(axis=1) / k) / sizes).mean())


def representation_overlap(one: Neighbors, other: Neighbors, k: int = 30) -> NDArray[np.float64]:
    """Return the (N,) shares, 0 to 1, of each point's k nearest neighbours that both have.

    one, other: of the same N points in the same order.

    Raises GeometryError if the points differ in number or have fewer than k neighbours.
    Source: DADApy's `return_data_overlap`; Doimo et al. 2020 (arXiv 2007.03506).
    """
    if len(one.indices) != len(other.indices):
        raise GeometryError(
            f"{len(one.indices)} points and {len(other.indices)} points have no overlap; compare "
            "representations of the same questions, without dropping duplicates from one of them"
        )
    _check(one, k)
    _check(other, k)
    both = np.concatenate([one.indices[:, 1 : k + 1], other.indices[:, 1 : k + 1]], axis=1)
    both.sort(axis=1)
    shares: NDArray[np.float64] = (both[:, 1:] == both[:, :-1]).sum(axis=1) / k
    return shares


def _check(neighbors: Neighbors, k: int) -> None:
    if neighbors.count < k:
        raise GeometryError(
            f"an overlap over {k} neighbours needs as many, there are {neighbors.count}; keep "
            "more neighbours or analyse more questions"
        )
