"""The hierarchy of density peaks: which are joined by a high saddle, and what they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage

from harness.errors import GeometryError
from harness.geometry.density_peaks import DensityPeaks


@dataclass(frozen=True)
class Dendrogram:
    """A binary tree over P peaks.

    linkage: (P - 1, 4), scipy's: the two joined nodes, the height, the number of peaks below.
        Heights are log density: the highest peak's less the (averaged) saddle's.
    labels: P, of every peak the label that most of its points have.
    shares: (P,) the share of its points that have it, 0 to 1.
    """

    linkage: NDArray[np.float64]
    labels: tuple[str, ...]
    shares: NDArray[np.float64]


def dendrogram(peaks: DensityPeaks, labels: Sequence[str]) -> Dendrogram:
    """Return the dendrogram of the peaks of N points with N labels.

    Two peaks are as far apart as the log density of the saddle between them is below the highest
    peak's; a joined pair has the mean of its two parts (WPGMA).

    Raises GeometryError for fewer than two peaks.
    Source: the paper, section 3; d'Errico et al. 2021, whose tree has the same dissimilarity.
    """
    if peaks.count < 2:
        raise GeometryError("one density peak has no hierarchy; take a smaller z or another layer")
    dissimilarity = peaks.log_peak.max() - peaks.log_saddle
    upper = np.triu_indices(peaks.count, 1)
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((peaks.count, len(names)), dtype=np.int64)
    np.add.at(counts, (peaks.assignment, numbers), 1)
    return Dendrogram(
        linkage(dissimilarity[upper], method="weighted"),
        tuple(names[counts.argmax(axis=1)].tolist()),
        counts.max(axis=1) / counts.sum(axis=1),
    )


def category_agreement(
    tree: Dendrogram, categories: Mapping[str, str], permutations: int, seed: int = 0
) -> tuple[float, NDArray[np.float64]]:
    """Return how much lower peaks of one category join than peaks of two, and its null.

    categories: of every label. The value is the mean height (cophenetic distance) of pairs of peaks
        of two categories less that of pairs of one, over the mean of all: 0 is no agreement. Pairs
        with the same label are left out, and the null deals the labels' categories out anew among
        the labels, so peaks of one label, which join low whatever the categories are, prove
        nothing.
    permutations: so many times they are dealt out, with `seed`; the null is (R,).

    Raises GeometryError for a label without a category, or if no two labels share one.
    Source: this project's; the paper shows the dendrogram and measures nothing on it.
    """
    for label in tree.labels:
        if label not in categories:
            raise GeometryError(f"{label!r} has no category; add it to the table of categories")
    names, numbers = np.unique(np.asarray(tree.labels), return_inverse=True)
    groups = np.unique([categories[name] for name in names.tolist()], return_inverse=True)[1]
    one, other = np.triu_indices(len(numbers), 1)
    differ = numbers[one] != numbers[other]
    one, other = numbers[one[differ]], numbers[other[differ]]
    heights = cophenet(tree.linkage)[differ]
    if len(set(groups.tolist())) in (1, len(groups)):
        raise GeometryError(
            f"the peaks' {len(groups)} labels are in {len(set(groups.tolist()))} categories, "
            "which cannot be compared; take coarser or finer categories"
        )

    middle = heights.mean()

    def contrast(groups: NDArray[np.int64]) -> float:
        same = groups[one] == groups[other]
        return float((heights[~same].mean() - heights[same].mean()) / middle)

    rng = np.random.default_rng(seed)
    null = [contrast(rng.permutation(groups)) for _ in range(permutations)]
    return contrast(groups), np.array(null)
