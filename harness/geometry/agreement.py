"""How well a clustering agrees with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information

ROUNDING = 1e-12  # of an entropy: what is less than this share of it is none


@dataclass(frozen=True)
class Agreement:
    """Three scores of one clustering: 1 is the best, and 0 is chance for the first two."""

    adjusted_rand_index: float
    adjusted_mutual_information: float
    homogeneity: float


def adjusted_rand_index(
    assignment: NDArray[np.int64], labels: Sequence[str] | NDArray[np.int64]
) -> float:
    """Return the ARI of (N,) cluster numbers with N labels: 1 for the same groups, 0 by chance.

    Raises ValueError for other than one label a point.
    Source: Hubert and Arabie 1985, in whole numbers as scikit-learn's `adjusted_rand_score`, which
    spends most of its time on checks.
    """
    return _rand_index(_contingency(assignment, labels))


def pure_share(assignment: NDArray[np.int64], labels: Sequence[str], above: float = 0.8) -> float:
    """Return the share of clusters more than `above` of whose points have one label, 0 to 1.

    assignment: (N,) cluster numbers; labels: N.

    Raises ValueError for other than one label a point.
    Source: the paper, section 4.2, which calls such clusters pure.
    """
    table = _contingency(assignment, labels)
    return float((table.max(axis=0) > above * table.sum(axis=0)).mean())


def majority_share(
    assignment: NDArray[np.int64], labels: Sequence[str], clusters: int = 5
) -> float:
    """Return the share of all points that lie in a large cluster and have its main label, 0 to 1.

    assignment: (N,) cluster numbers; labels: N. clusters: so many of the largest count as large.

    Raises ValueError for other than one label a point.
    Source: the paper, section 4.3: after fine-tuning 4 or 5 clusters hold most points, and most of
    a cluster's points have one letter.
    """
    table = _contingency(assignment, labels)
    large = np.argsort(-table.sum(axis=0), kind="stable")[:clusters]
    return float(table[:, large].max(axis=0).sum() / table.sum())


def agreement(assignment: NDArray[np.int64], labels: Sequence[str]) -> Agreement:
    """Return the ARI, AMI and homogeneity of (N,) cluster numbers with N labels.

    Raises ValueError for other than one label a point.
    Source: scikit-learn's `adjusted_rand_score`, `adjusted_mutual_info_score` (with the arithmetic
    mean; Vinh et al. 2010) and `homogeneity_score` (Rosenberg and Hirschberg 2007).
    """
    table = _contingency(assignment, labels)
    label_entropy = float(entropy(table.sum(axis=1)))
    most = (label_entropy + float(entropy(table.sum(axis=0)))) / 2
    expected = expected_mutual_information(table, int(table.sum()))
    information = float(mutual_info_score(None, None, contingency=table))
    return Agreement(
        _rand_index(table),
        # One group on both sides: nothing to tell apart, which scikit-learn calls 1.
        (information - expected) / (most - expected) if most - expected > ROUNDING * most else 1.0,
        min(information / label_entropy, 1.0) if label_entropy else 1.0,
    )


def _contingency(
    assignment: NDArray[np.int64], labels: Sequence[str] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many points labels and clusters share: a row a label, a column a cluster."""
    names, rows = np.unique(np.asarray(labels), return_inverse=True)
    clusters, columns = np.unique(assignment, return_inverse=True)
    if len(rows) != len(columns):
        raise ValueError(f"{len(rows)} labels of {len(columns)} points")
    cells = np.bincount(rows * len(clusters) + columns, minlength=len(names) * len(clusters))
    return cells.reshape(len(names), len(clusters))


def _rand_index(table: NDArray[np.int64]) -> float:
    points, common = int(table.sum()), int((table**2).sum())
    # Ordered pairs of points: of one label or not, and of one cluster or not.
    both = common - points
    cluster_only = int((table.sum(axis=0) ** 2).sum()) - common
    label_only = int((table.sum(axis=1) ** 2).sum()) - common
    neither = points**2 - cluster_only - label_only - common
    if not (cluster_only or label_only):
        return 1.0
    chance = (both + label_only) * (label_only + neither)
    chance += (both + cluster_only) * (cluster_only + neither)
    return 2.0 * (both * neither - label_only * cluster_only) / chance
