"""How well a clustering agrees with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information


@dataclass(frozen=True)
class Score:
    """An agreement, and the same after the labels were permuted.

    value: of the labels as they are; null: (R,) of R permutations.
    """

    value: float
    null: NDArray[np.float64]

    @property
    def p_value(self) -> float:
        """Share of permutations, the labels as they are included, that agree at least as well."""
        return permutation_p_value(self.value, self.null)


@dataclass(frozen=True)
class Agreement:
    """Three scores of one clustering: 1 is the best, and 0 is chance for the first two."""

    adjusted_rand_index: Score
    adjusted_mutual_information: Score
    homogeneity: Score


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


def agreement(
    assignment: NDArray[np.int64], labels: Sequence[str], permutations: int = 100, seed: int = 0
) -> Agreement:
    """Return the ARI, AMI and homogeneity of (N,) cluster numbers with N labels, with their nulls.

    permutations: so many times the labels are dealt out anew, with `seed`; each null is (R,).

    Raises ValueError for other than one label a point.
    Source: scikit-learn's `adjusted_rand_score`, `adjusted_mutual_info_score` (with the arithmetic
    mean; Vinh et al. 2010) and `homogeneity_score` (Rosenberg and Hirschberg 2007). What takes the
    AMI its time, the mutual information expected by chance, depends on the sizes of the groups
    alone, so all permutations have it in common.
    """
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1]
    table = _contingency(assignment, numbers)
    rng = np.random.default_rng(seed)
    null = np.array(
        [
            _rand_and_information(_contingency(assignment, rng.permutation(numbers)))
            for _ in range(permutations)
        ]
    ).reshape(permutations, 2)
    label_entropy = float(entropy(table.sum(axis=1)))
    most = (label_entropy + float(entropy(table.sum(axis=0)))) / 2
    expected = expected_mutual_information(table, len(numbers))
    rand, information = _rand_and_information(table)

    def adjusted(value: Any) -> Any:
        # One group on both sides: nothing to tell apart, which scikit-learn calls 1.
        return (value - expected) / (most - expected) if most > expected else value * 0 + 1.0

    def homogeneity(value: Any) -> Any:
        return value / label_entropy if label_entropy else value * 0 + 1.0

    return Agreement(
        Score(rand, null[:, 0]),
        Score(adjusted(information), adjusted(null[:, 1])),
        Score(homogeneity(information), homogeneity(null[:, 1])),
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


def _rand_and_information(table: NDArray[np.int64]) -> tuple[float, float]:
    return _rand_index(table), float(mutual_info_score(None, None, contingency=table))


def permutation_p_value(value: float, null: NDArray[np.float64]) -> float:
    """Return the share of (R,) null values, `value` included, that are at least `value`.

    Source: Phipson and Smyth 2010.
    """
    return float((1 + (null >= value).sum()) / (1 + len(null)))
