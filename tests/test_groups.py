"""Neighbours and clusters against labels and one another: plain loops, and answers by hand."""

import itertools
import warnings

import numpy as np
import pytest
from dadapy import Data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, homogeneity_score

from harness.errors import GeometryError
from harness.geometry.agreement import (
    adjusted_rand_index,
    agreement,
    majority_share,
    pure_share,
)
from harness.geometry.density import knn_density
from harness.geometry.density_peaks import DensityPeaks, density_peaks
from harness.geometry.hierarchy import Dendrogram, category_agreement, dendrogram
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import nearest_neighbors
from harness.geometry.overlap import label_overlap, representation_overlap
from harness.questions.mmlu_categories import CATEGORY, SUBCATEGORY


def uniform(size: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(size).uniform(size=(size, width))


def loop_label_overlap(indices: np.ndarray, labels: list[str], fraction: float) -> list[float]:
    shares = []
    for row, label in enumerate(labels):
        k = max(1, int(labels.count(label) * fraction))
        shares.append(sum(labels[other] == label for other in indices[row, 1 : k + 1]) / k)
    return shares


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(5, 40), names=st.integers(1, 6))
def test_label_overlap_is_that_of_a_double_loop(seed: int, size: int, names: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [f"label {number}" for number in rng.integers(names, size=size)]
    found = nearest_neighbors(rng.normal(size=(size, 3)), size)
    overlap = label_overlap(found, labels, 0.3)
    shares = zip(loop_label_overlap(found.indices, labels, 0.3), labels, strict=True)
    by_label: dict[str, list[float]] = {}
    for share, label in shares:
        by_label.setdefault(label, []).append(share)
    means = [sum(own) / len(own) for own in by_label.values()]
    assert overlap == pytest.approx(sum(means) / len(means))
    theirs = Data(distances=(found.distances, found.indices), maxk=found.count)
    numbers = np.unique(labels, return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a small class gets one neighbour
        expected = theirs.return_label_overlap(numbers, class_fraction=0.3)
    assert overlap == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(5, 40), k=st.integers(1, 4))
def test_representation_overlap_is_that_of_a_double_loop(seed: int, size: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(size, 3))
    one, other = (
        nearest_neighbors(points + rng.normal(size=points.shape) * 0.3, size) for _ in "ab"
    )
    shares = representation_overlap(one, other, k)
    for row in range(size):
        common = set(one.indices[row, 1 : k + 1]) & set(other.indices[row, 1 : k + 1])
        assert shares[row] == len(common) / k


def test_overlap_of_different_questions_is_refused() -> None:
    one = nearest_neighbors(uniform(40), 35)
    with pytest.raises(GeometryError, match="40 points and 50 points"):
        representation_overlap(one, nearest_neighbors(uniform(50), 35))


def test_ari_is_one_for_renamed_groups() -> None:
    assert adjusted_rand_index(np.array([2, 2, 0, 1]), ["x", "x", "y", "z"]) == 1.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 80),
    groups=st.integers(1, 9),
    names=st.integers(1, 9),
    same=st.floats(0, 1),
)
def test_agreement_is_scikit_learns(
    seed: int, size: int, groups: int, names: int, same: float
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(names, size=size)
    assignment = np.where(rng.random(size) < same, numbers, rng.integers(groups, size=size))
    found = agreement(assignment, [f"label {number}" for number in numbers])
    for ours, theirs in [
        (found.adjusted_rand_index, adjusted_rand_score),
        (found.adjusted_mutual_information, adjusted_mutual_info_score),
        (found.homogeneity, homogeneity_score),
    ]:
        assert ours == pytest.approx(theirs(numbers, assignment), abs=1e-9)


def test_where_every_point_is_its_own_cluster_and_label_the_agreement_is_whole() -> None:
    found = agreement(np.arange(10), [str(number) for number in range(10)])
    assert (found.adjusted_mutual_information, found.homogeneity) == (1.0, 1.0)


def test_pure_clusters_are_counted_by_hand() -> None:
    # Of 5 of one label; of 4 of 5, which is not more than 0.8; of 2 and 2.
    assignment = np.array([0] * 5 + [1] * 5 + [2] * 4)
    labels = [*"aaaaa", *"bbbba", *"ccbb"]
    assert pure_share(assignment, labels) == pytest.approx(1 / 3)
    assert pure_share(assignment, labels, 0.79) == pytest.approx(2 / 3)


def test_the_large_clusters_points_of_their_main_label_are_counted_by_hand() -> None:
    # Of 5 points 4, of 3 two, of 1 one, of 2 two.
    assignment = np.array([0] * 5 + [1] * 3 + [2] + [3] * 2)
    labels = [*"aaaab", *"bbc", "a", *"cc"]
    assert majority_share(assignment, labels) == pytest.approx(9 / 11)
    assert majority_share(assignment, labels, 3) == pytest.approx(8 / 11)
    assert majority_share(assignment, labels, 2) == pytest.approx(6 / 11)
    assert majority_share(np.zeros(11, dtype=np.int64), labels) == pytest.approx(5 / 11)


def peaks_with_saddles(log_saddle: list[list[float]], assignment: list[int]) -> DensityPeaks:
    saddles = np.array(log_saddle)
    numbers = np.array(assignment)
    peaks = np.array([assignment.index(peak) for peak in range(len(saddles))])
    return DensityPeaks(
        numbers, np.ones(len(numbers), dtype=bool), peaks, saddles.diagonal().copy(), saddles
    )


def test_dendrogram_joins_by_saddles_and_averages_them() -> None:
    # Peaks of log density 9, 8, 5; saddles 7 (0-1), 2 (0-2), 3 (1-2). The pair 0-1 is 2 below the
    # highest peak; its joint saddle with 2 is the mean of 2 and 3, so 6.5 below.
    peaks = peaks_with_saddles([[9, 7, 2], [7, 8, 3], [2, 3, 5]], [0, 0, 0, 1, 2, 2, 1])
    tree = dendrogram(peaks, ["a", "a", "b", "c", "d", "d", "c"])
    np.testing.assert_allclose(tree.linkage, [[0, 1, 2, 2], [2, 3, 6.5, 3]])
    assert tree.labels == ("a", "c", "d")
    np.testing.assert_allclose(tree.shares, [2 / 3, 1, 1])
    with pytest.raises(GeometryError, match="one density peak has no hierarchy"):
        dendrogram(peaks_with_saddles([[1.0]], [0, 0]), ["a", "b"])


def test_dendrogram_of_nested_blobs_finds_the_nesting() -> None:
    rng = np.random.default_rng(3)
    wholes = rng.normal(size=(4, 3)) * 30
    corners = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]) * 2.2
    parts = np.repeat(wholes, 4, axis=0) + np.tile(corners, (4, 1))
    number = np.arange(3200) % 16
    points = nearest_neighbors(parts[number] + rng.normal(size=(3200, 3)), 1000)
    peaks = density_peaks(points, knn_density(points, gride(points, 16), 16), 1.6)
    labels = [f"part {one}" for one in number]
    tree = dendrogram(peaks, labels)
    whole = {f"part {one}": f"whole {one // 4}" for one in range(16)}
    cut = fcluster(tree.linkage, tree.linkage[-1, 2] * (1 - 1e-9), "distance")
    assert adjusted_rand_index(cut, [whole[label] for label in tree.labels]) == 1.0
    value, null = category_agreement(tree, whole, 999)
    assert (null >= value).sum() <= 1
    mixed = {f"part {one}": f"whole {one % 4}" for one in range(16)}
    value, null = category_agreement(tree, mixed, 999)
    assert (null >= value).mean() > 0.05
    with pytest.raises(GeometryError, match="has no category"):
        category_agreement(tree, {}, 9)
    with pytest.raises(GeometryError, match="in 1 categories"):
        category_agreement(tree, dict.fromkeys(whole, "all"), 9)


def loop_category_agreement(tree: Dendrogram, categories: dict[str, str]) -> float:
    """The contrast, of pairs whose height is that of the first join which has them both."""
    below = [{peak} for peak in range(len(tree.labels))]
    heights: dict[tuple[int, int], float] = {}
    for one, other, height, _ in tree.linkage:
        for pair in itertools.product(below[int(one)], below[int(other)]):
            heights[min(pair), max(pair)] = height
        below.append(below[int(one)] | below[int(other)])
    of_one, of_two = [], []
    for (one, other), height in heights.items():
        names = tree.labels[one], tree.labels[other]
        if names[0] != names[1]:
            alike = categories[names[0]] == categories[names[1]]
            (of_one if alike else of_two).append(height)
    mean = sum(of_one + of_two) / len(of_one + of_two)
    return (sum(of_two) / len(of_two) - sum(of_one) / len(of_one)) / mean


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 20), names=st.integers(3, 8))
def test_category_agreement_and_its_null_are_those_of_a_double_loop(
    seed: int, size: int, names: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = [f"label {n}" for n in (*range(names), *rng.integers(names, size=size))]
    points = rng.normal(size=(len(labels), 3))
    tree = Dendrogram(linkage(points, "weighted"), tuple(labels), np.ones(len(labels)))
    kinds = ["one", "one", "two", *rng.choice(["one", "two"], size=names - 3)]
    categories = {f"label {n}": kind for n, kind in enumerate(kinds)}
    value, null = category_agreement(tree, categories, 5, seed)
    assert value == pytest.approx(loop_category_agreement(tree, categories))
    dealer = np.random.default_rng(seed)
    for found in null:
        dealt = dict(zip(categories, dealer.permutation(list(categories.values())), strict=True))
        assert found == pytest.approx(loop_category_agreement(tree, dealt))


def test_peaks_of_one_label_prove_nothing_about_categories() -> None:
    # Two peaks a label, joined at once; labels join in the order of their number.
    joins = np.array([[0, 1, 1, 2], [2, 3, 1, 2], [4, 5, 1, 2], [6, 7, 5, 4], [8, 9, 6, 6]], float)
    tree = Dendrogram(joins, ("a", "a", "b", "b", "c", "c"), np.ones(6))
    value, null = category_agreement(tree, {"a": "x", "b": "x", "c": "y"}, 300)
    assert value == pytest.approx((6 - 5) / ((4 * 5 + 8 * 6) / 12))
    assert 0.25 < (null >= value).mean() < 0.45  # one of three pairs of labels has to be the lowest


def test_subjects_that_the_paper_sees_side_by_side_are_kindred() -> None:
    assert (len(CATEGORY), len(set(SUBCATEGORY.values()))) == (57, 17)
    for kindred in (
        "college_medicine anatomy virology college_biology high_school_biology",
        "philosophy jurisprudence moral_disputes",
        "college_mathematics college_physics college_chemistry",
        "machine_learning college_computer_science",
    ):
        assert len({CATEGORY[subject] for subject in kindred.split()}) == 1
    apart = "virology philosophy college_physics machine_learning marketing prehistory".split()
    assert len({CATEGORY[subject] for subject in apart}) == len(apart)
