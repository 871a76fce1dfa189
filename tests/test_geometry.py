"""Geometry against brute force, known answers, and DADApy on coordinates."""

import numpy as np
import pytest
from dadapy import Data
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from harness.errors import GeometryError
from harness.geometry.agreement import adjusted_rand_index
from harness.geometry.density_peaks import density_peaks
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import distinct_points, nearest_neighbors
from harness.pipeline import measure_layer
from harness.protocol import GeometrySettings


def blobs(seed: int, size: int = 400, centers: int = 4, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(centers, width)) * 20
    return middles[np.arange(size) % centers] + rng.normal(size=(size, width))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 40), count=st.integers(1, 50))
def test_neighbors_are_those_of_a_double_loop(seed: int, size: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(size, 3))
    found = nearest_neighbors(points, count)
    for row in range(size):
        distances = [float(np.sqrt(((points[row] - other) ** 2).sum())) for other in points]
        order = sorted(range(size), key=distances.__getitem__)[: min(count, size - 1) + 1]
        np.testing.assert_array_equal(found.indices[row], order)
        np.testing.assert_allclose(found.distances[row], np.array(distances)[order], atol=1e-6)


def test_distinct_points_keeps_the_first_of_identical_rows() -> None:
    points = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6], [3, 4]])
    assert distinct_points(points).tolist() == [0, 1, 3]


@pytest.mark.parametrize("dimension", [2, 5])
def test_gride_finds_the_dimension_of_a_gaussian_in_a_larger_space(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    flat = rng.normal(size=(2000, dimension))
    rotation = np.linalg.qr(rng.normal(size=(50, 50)))[0][:dimension]
    assert gride(nearest_neighbors(flat @ rotation, 100), 16) == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_dimension_and_peaks_are_dadapys_on_coordinates(seed: int) -> None:
    points = blobs(seed)
    ours = nearest_neighbors(points, 1000)
    dimension = gride(ours, 16)
    peaks = density_peaks(ours, dimension, 16, 1.6)
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


def test_a_layer_of_blobs_agrees_with_their_labels_and_not_with_others() -> None:
    points = blobs(7)
    row = measure_layer(
        np.concatenate([points, points[:9]]),  # duplicates do not count
        [str(index % 4) for index in range(400)] + ["0"] * 9,
        [str(index // 4 % 4) for index in range(400)] + ["0"] * 9,
        GeometrySettings(),
    )
    assert row["ari_subjects"] == 1.0
    assert abs(row["ari_answers"]) < 0.05
    assert row["density_peaks"] == 4


def test_ari_is_one_for_renamed_groups() -> None:
    assert adjusted_rand_index(np.array([2, 2, 0, 1]), ["x", "x", "y", "z"]) == 1.0


def test_too_few_points_and_bad_values_are_refused() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(GeometryError, match="Gride at k=16 needs 33 distinct points, there are 20"):
        gride(nearest_neighbors(points, 1000), 16)
    with pytest.raises(GeometryError, match="density over k=32"):
        density_peaks(nearest_neighbors(points, 1000), 3.0, 32, 1.6)
    points[3, 1] = np.nan
    with pytest.raises(GeometryError, match="NaN"):
        nearest_neighbors(points, 10)
