"""Dimension, density and peaks against known answers, and DADApy on coordinates."""

import math
from functools import partial

import numpy as np
import pytest
from dadapy import Data
from scipy.optimize import minimize_scalar
from sklearn.metrics import adjusted_rand_score

from fixtures.cases import TOY
from harness.errors import GeometryError
from harness.extraction.shards import read_layer, saved_layers
from harness.geometry.density import knn_density, pak_density
from harness.geometry.density_peaks import density_peaks
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import first_identical, nearest_neighbors
from harness.geometry.overlap import representation_overlap
from harness.pipeline import Experiment
from harness.protocol import PromptFormat, Subset
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
