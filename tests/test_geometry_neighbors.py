"""Nearest neighbours, duplicates and subsamples against plain float64 loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.errors import GeometryError
from harness.geometry import neighbors as module
from harness.geometry.density import knn_density
from harness.geometry.density_peaks import density_peaks
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import first_identical, nearest_neighbors
from harness.geometry.subsample import draw_subsamples, neighbors_among

TOLERANCE = 1e-9
ROUNDING = 1e-15  # a few units in the last place: two sums of the same squares


def brute_force(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and indices of differences squared and summed in float64."""
    points = points.astype(np.float64)
    distances = np.array([np.sqrt(((points - point) ** 2).sum(axis=1)) for point in points])
    own_first = distances.copy()
    np.fill_diagonal(own_first, -1)
    indices = np.argsort(own_first, axis=1, kind="stable")[:, : min(count, len(points) - 1) + 1]
    return np.take_along_axis(distances, indices, axis=1), indices


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 40), count=st.integers(1, 50))
def test_neighbors_are_those_of_a_double_loop(seed: int, size: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(size, 3))
    found = nearest_neighbors(points, count)
    for row in range(size):
        distances = [float(np.sqrt(((points[row] - other) ** 2).sum())) for other in points]
        order = sorted(range(size), key=distances.__getitem__)[: min(count, size - 1) + 1]
        np.testing.assert_array_equal(found.indices[row], order)
        np.testing.assert_allclose(found.distances[row], np.array(distances)[order], rtol=TOLERANCE)


def assert_exact(
    points: np.ndarray, count: int, working_memory: int = 2**29, ties: bool = False
) -> None:
    found = nearest_neighbors(points, count, working_memory)
    distances, indices = brute_force(points, count)
    np.testing.assert_allclose(found.distances, distances, rtol=TOLERANCE, atol=0)
    # The order is the same, but where the order of summation may decide it.
    rows = np.arange(len(points))[:, None]
    width = points.shape[1]
    true = np.sqrt(((points[rows] - points[found.indices]).astype(np.float64) ** 2).sum(axis=2))
    np.testing.assert_allclose(
        true, distances, rtol=(4 + width) * ROUNDING if not ties else 0, atol=0
    )
    if ties:
        np.testing.assert_array_equal(found.indices, indices)
    assert all(len(set(row)) == len(row) for row in found.indices.tolist())
    assert (found.indices[:, 0] == np.arange(len(points))).all()
    assert (found.distances.dtype, found.indices.dtype) == (np.float64, np.int64)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 60),
    width=st.integers(1, 40),
    count=st.integers(1, 70),
    # Of the points among themselves, over the distance of all of them from 0.
    spread=st.sampled_from([1.0, 1e-3, 1e-6, 1e-9]),
    working_memory=st.sampled_from([1, 10_000, 60_000, 2**29]),
)
def test_neighbors_are_those_of_brute_force(
    seed: int, size: int, width: int, count: int, spread: float, working_memory: int
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=width) + spread * rng.normal(size=(size, width))
    assert_exact(points, count, working_memory)


@settings(max_examples=40, deadline=None)
@given(
    points=arrays(
        np.float64,
        st.tuples(st.integers(2, 30), st.integers(1, 3)),
        elements=st.integers(-3, 3).map(float),
    ),
    count=st.integers(1, 30),
    working_memory=st.sampled_from([1, 10_000, 2**29]),
)
def test_points_at_the_same_distance_go_by_number(
    points: np.ndarray, count: int, working_memory: int
) -> None:
    assert_exact(points, count, working_memory, ties=True)


@pytest.mark.parametrize("closeness", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_near_duplicates_lose_nothing_to_cancellation(closeness: float) -> None:
    rng = np.random.default_rng(1)
    centers = np.repeat(rng.normal(size=(40, 500)) * 10, 5, axis=0)
    assert_exact(centers + closeness * rng.normal(size=(200, 500)), 60)


@pytest.mark.parametrize("size", [1000, 1500])
def test_many_blocks_are_as_one(size: int) -> None:
    points = np.random.default_rng(size).normal(size=(size, 30))
    whole = nearest_neighbors(points, 300, 2**30)
    parts = nearest_neighbors(points, 300, 2**22)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_allclose(parts.distances, whole.distances, rtol=TOLERANCE)
    some = slice(0, 200)
    distances, indices = brute_force(points, 300)
    np.testing.assert_array_equal(whole.indices[some], indices[some])
    np.testing.assert_allclose(whole.distances[some], distances[some], rtol=TOLERANCE)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_low_precision_are_compared_in_float64(precision: torch.dtype) -> None:
    points = torch.randn(150, 60, generator=torch.Generator().manual_seed(2)).to(precision)
    found = nearest_neighbors(points, 20)
    distances, indices = brute_force(points.double().numpy(), 20)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=TOLERANCE)


def test_the_points_are_left_as_they_are() -> None:
    points = np.random.default_rng(0).normal(size=(50, 5))
    before = points.copy()
    nearest_neighbors(points, 10)
    first_identical(points)
    np.testing.assert_array_equal(points, before)


def test_bad_values_and_lone_points_are_refused() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(GeometryError, match="1 distinct points have no neighbours"):
        nearest_neighbors(points[:1], 10)
    for bad in (np.nan, np.inf, -np.inf, 1e200):
        points[3, 1] = bad
        with pytest.raises(GeometryError, match="NaN, infinite or huge"):
            nearest_neighbors(points, 10)


def test_the_first_of_identical_rows_is_found() -> None:
    points = np.array([[1.0, 2], [3, 4], [1, 2], [5, 0.0], [3, 4], [5, -0.0]])
    assert first_identical(points).tolist() == [0, 1, 0, 3, 1, 3]


@settings(max_examples=40, deadline=None)
@given(
    points=arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.integers(1, 3)),
        elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]),
    ),
    collide=st.booleans(),
)
def test_first_identical_is_that_of_a_double_loop(points: np.ndarray, collide: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if collide:  # all sums alike: the rows themselves must decide
            patch.setattr(module, "_bit_sums", lambda cloud: torch.zeros(len(cloud)))
        found = first_identical(torch.from_numpy(points)).tolist()
    expected = [
        next(other for other in range(row + 1) if (points[row] == points[other]).all())
        for row in range(len(points))
    ]
    assert found == expected


def test_subsamples_are_seeded_and_of_the_size_asked_for() -> None:
    draws = draw_subsamples(1000, 3, 0.8)
    assert [len(draw) for draw in draws] == [800] * 3
    assert all((np.diff(draw) > 0).all() for draw in draws)
    assert (draws[0] != draws[1]).any()
    np.testing.assert_array_equal(draws[2], draw_subsamples(1000, 3, 0.8)[2])


@pytest.mark.parametrize("count", [60, 300, 1000])
def test_neighbors_of_a_subsample_are_those_it_has_alone(count: int) -> None:
    rng = np.random.default_rng(count)
    middles = rng.normal(size=(6, 8)) * 4
    points = middles[np.arange(1200) % 6] + rng.normal(size=(1200, 8))
    full = nearest_neighbors(points, count)
    for rows in draw_subsamples(1200, 3, 0.8):
        part = neighbors_among(full, rows)
        # Fewer where the list of all was cut; what is left is what the subsample alone gives.
        assert 0.5 * count < part.count <= min(count, len(rows) - 1)
        alone = nearest_neighbors(points[rows], part.count)
        np.testing.assert_array_equal(part.indices, alone.indices)
        np.testing.assert_allclose(part.distances, alone.distances, rtol=TOLERANCE)
        assert gride(part, 16) == pytest.approx(gride(alone, 16), rel=1e-9)
        ours, theirs = (
            density_peaks(one, knn_density(one, gride(one, 16), 16), 1.6) for one in (part, alone)
        )
        np.testing.assert_array_equal(ours.assignment, theirs.assignment)
        np.testing.assert_array_equal(ours.core, theirs.core)
