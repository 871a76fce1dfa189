"""Geometry against known answers, plain loops, and DADApy on coordinates."""

import itertools
import math
import warnings
from functools import partial

import numpy as np
import pytest
from dadapy import Data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import minimize_scalar
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, homogeneity_score

from fixtures.cases import TOY
from harness.errors import GeometryError
from harness.extraction.shards import read_layer, saved_layers
from harness.geometry.agreement import (
    adjusted_rand_index,
    agreement,
    majority_share,
    pure_share,
)
from harness.geometry.density import knn_density, pak_density
from harness.geometry.density_peaks import DensityPeaks, density_peaks
from harness.geometry.hierarchy import Dendrogram, category_agreement, dendrogram
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import first_identical, nearest_neighbors
from harness.geometry.overlap import label_overlap, representation_overlap
from harness.pipeline import Experiment
from harness.protocol import PromptFormat, Subset
from harness.questions.mmlu_categories import CATEGORY, SUBCATEGORY
from harness.store import Store


def blobs(seed: int, size: int = 400, centers: int = 4, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(centers, width)) * 20
    return middles[np.arange(size) % centers] + rng.normal(size=(size, width))


def uniform(size: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(size).uniform(size=(size, width))


def low_dimensional(size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    curve = np.sort(rng.uniform(0, 3, size=(size, 2)), axis=1)
    bent = np.concatenate([np.sin(curve), np.cos(2 * curve), curve**2], axis=1)
    return bent @ rng.normal(size=(6, 300)) + 100 + 1e-3 * rng.normal(size=(size, 300))


def with_duplicates(size: int) -> np.ndarray:
    points = blobs(size, size, 12, 64)
    points[size // 2 :: 7] = points[: len(points[size // 2 :: 7])]
    return points


@pytest.fixture(scope="module")
def real_layers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[np.ndarray]:
    """Representations early, in the middle and late: of the toy, or of `--model` on `--mmlu`."""
    option = request.config.getoption
    experiment = Experiment(
        option("--model") or str(TOY / "model"),
        option("--mmlu") or str(TOY / "questions"),
        Store(tmp_path_factory.mktemp("store")),
        Subset(per_subject=option("--per-subject") or 30),
    )
    folder = experiment.representations(PromptFormat(1))
    layers = saved_layers(folder)
    chosen = (layers[1], layers[len(layers) // 2], layers[-1])
    return [read_layer(folder, layer).double().numpy() for layer in chosen]


def assert_as_dadapy_on_coordinates(points: np.ndarray, z: float = 1.6) -> None:
    points = points[np.unique(first_identical(points))]
    ours = nearest_neighbors(points, 1000)
    data = Data(coordinates=points, n_jobs=1)
    data.compute_distances(maxk=min(1000, len(points) - 1))
    theirs, _, _ = data.return_id_scaling_gride(range_max=100)
    dimensions = [gride(ours, 2**power) for power in range(6)]
    np.testing.assert_allclose(dimensions, theirs, rtol=1e-6)
    data.set_id(theirs[4])
    data.compute_density_kNN(k=16)
    density = knn_density(ours, dimensions[4], 16)
    np.testing.assert_allclose(density.log, data.log_den, atol=1e-4)
    peaks = density_peaks(ours, density, z)
    assert adjusted_rand_score(data.compute_clustering_ADP(Z=z), peaks.assignment) == 1.0
    np.testing.assert_array_equal(peaks.peaks, data.cluster_centers)
    apart = ~np.eye(peaks.count, dtype=bool)
    np.testing.assert_allclose(peaks.log_saddle[apart], data.log_den_bord[apart], atol=1e-4)
    core = data.compute_clustering_ADP(Z=z, halo=True) != -1
    np.testing.assert_array_equal(peaks.core, core)


@pytest.mark.parametrize("size", [300, 1000, 3000, 9181])
@pytest.mark.parametrize(
    "points",
    [
        pytest.param(lambda size: blobs(size, size, 12, 64), id="clustered"),
        pytest.param(uniform, id="uniform"),
        pytest.param(low_dimensional, id="low-dimensional"),
        pytest.param(with_duplicates, id="duplicates"),
    ],
)
def test_dimension_density_and_peaks_are_dadapys_on_coordinates(  # type: ignore[no-untyped-def]
    points, size: int
) -> None:
    assert_as_dadapy_on_coordinates(points(size))


@pytest.mark.parametrize("seed", range(3))
def test_dimension_and_peaks_of_blobs_are_dadapys_to_the_last_digits(seed: int) -> None:
    points = blobs(seed)
    ours = nearest_neighbors(points, 1000)
    dimension = gride(ours, 16)
    peaks = density_peaks(ours, knn_density(ours, dimension, 16), 1.6)
    data = Data(coordinates=points, n_jobs=1)
    data.compute_distances(maxk=len(points) - 1)
    theirs = data.return_id_scaling_gride(range_max=100)[0][4]
    assert dimension == pytest.approx(theirs, rel=1e-9)
    data.set_id(theirs)
    data.compute_density_kNN(k=16)
    assert adjusted_rand_score(data.compute_clustering_ADP(Z=1.6), peaks.assignment) == 1.0
    core = data.compute_clustering_ADP(Z=1.6, halo=True) != -1
    assert peaks.core_fraction == core.mean()
    assert peaks.count == 4


@pytest.mark.parametrize("z", [0.0, 1.6, 4.0])
def test_real_representations_are_as_dadapy_on_coordinates(
    real_layers: list[np.ndarray], z: float
) -> None:
    for points in real_layers:
        assert_as_dadapy_on_coordinates(points, z)


def test_adaptive_density_and_its_peaks_are_dadapys_on_coordinates() -> None:
    points = blobs(5, 600)
    ours = nearest_neighbors(points, 1000)
    dimension = gride(ours, 16)
    density = pak_density(ours, dimension)
    data = Data(coordinates=points, n_jobs=1)
    data.compute_distances(maxk=599)
    data.set_id(dimension)
    log, error = data.compute_density_PAk()
    np.testing.assert_array_equal(density.k, data.kstar)
    np.testing.assert_allclose(density.log, log, atol=1e-6)
    np.testing.assert_allclose(density.error, error)
    theirs = data.compute_clustering_ADP(Z=1.6, halo=True)
    peaks = density_peaks(ours, density, 1.6)
    np.testing.assert_array_equal(np.where(peaks.core, peaks.assignment, -1), theirs)


@pytest.mark.parametrize("scale", [10, 1e-7])
def test_adaptive_density_refuses_what_would_not_end_in_dadapy(scale: float) -> None:
    rng = np.random.default_rng(0)
    ours = nearest_neighbors(rng.normal(size=(500, 2000)) * scale, 400)
    with pytest.raises(GeometryError, match="PAk's volumes leave float64's range"):
        pak_density(ours, gride(ours, 16))


def test_more_dimensions_than_float64_has_volumes_for_are_refused() -> None:
    rng = np.random.default_rng(0)
    ours = nearest_neighbors(rng.normal(size=(300, 40_000)), 299)
    dimension = gride(ours, 16)
    assert dimension > 453  # from there on DADApy's unit ball has no volume
    # At distances near 1.5 PAk's volumes alone would be within the range.
    near = nearest_neighbors(rng.normal(size=(300, 40_000)) * 1.5 / np.sqrt(80_000), 299)
    for density in (partial(knn_density, k=16), pak_density):
        for points in (ours, near):
            with pytest.raises(GeometryError, match=r"dimension of \d+ is too large for a density"):
                density(points, dimension)
    assert np.isfinite(knn_density(ours, 450.0, 16).log).all()


@pytest.mark.parametrize("k", [1, 4, 16])
def test_gride_is_where_the_likelihood_of_the_ratios_is_largest(k: int) -> None:
    points = uniform(300, 5)
    ratios = []
    for point in points:
        distances = sorted(math.dist(point, other) for other in points)
        ratios.append(distances[2 * k] / distances[k])

    # Denti et al. 2022, the density of the ratio of neighbours 2k and k. Of N ratios one counts for
    # the bias, as DADApy has it: of k = 1 the estimate is (N - 1) / sum(log ratio).
    def negative(dimension: float) -> float:
        log = [math.log(ratio) for ratio in ratios]
        near = sum(math.log(math.expm1(dimension * one)) for one in log)
        return (2 * k - 1) * dimension * sum(log) - (k - 1) * near - 299 * math.log(dimension)

    best = minimize_scalar(negative, bounds=(1, 20), method="bounded", options={"xatol": 1e-9}).x
    assert gride(nearest_neighbors(points, 40), k) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("dimension", [2, 5])
def test_gride_finds_the_dimension_of_a_gaussian_in_a_larger_space(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    flat = rng.normal(size=(2000, dimension))
    rotation = np.linalg.qr(rng.normal(size=(50, 50)))[0][:dimension]
    assert gride(nearest_neighbors(flat @ rotation, 100), 16) == pytest.approx(dimension, rel=0.1)


def test_too_few_points_are_refused() -> None:
    few = nearest_neighbors(np.random.default_rng(0).normal(size=(20, 3)), 1000)
    with pytest.raises(GeometryError, match="Gride at k=16 needs 33 distinct points, there are 20"):
        gride(few, 16)
    with pytest.raises(GeometryError, match="density over k=32"):
        knn_density(few, 3.0, 32)
    with pytest.raises(GeometryError, match="overlap over 30 neighbours"):
        representation_overlap(few, few)


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
