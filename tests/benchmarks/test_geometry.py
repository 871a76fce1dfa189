"""Geometry against DADApy's own from coordinates: ratio, share of the product's floor, memory.

    pytest tests/benchmarks/test_geometry.py --benchmark-only [-m "not slow"]

One analysis is neighbours, Gride, kNN density, ADP with halo, and two ARIs. DADApy's is
`compute_distances`, Gride, density and ADP, without halo and ARIs. The floor is the time of N^2
inner products of D numbers at the rate of a large float64 matrix product measured beside it; the
halves of a symmetric product need not be computed twice, so a share above 1 is possible.
"""

import gc
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dadapy import Data
from sklearn.metrics import adjusted_rand_score

from harness.geometry.density import knn_density
from harness.geometry.density_peaks import density_peaks
from harness.geometry.intrinsic_dimension import gride
from harness.geometry.neighbors import nearest_neighbors
from harness.geometry.subsample import draw_subsamples
from harness.measurement import Labels, measure_layer
from harness.protocol import GeometrySettings

SETTINGS = GeometrySettings()
SUBJECTS = 57


def cloud(size: int, width: int) -> np.ndarray:
    """Return bf16 points as float64: a blob a subject in 30 dimensions, and noise in all."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(SUBJECTS, 30)) * 1.5
    inside = middles[np.arange(size) % SUBJECTS] + rng.normal(size=(size, 30))
    points = inside @ rng.normal(size=(30, width)) / 6 + 0.1 * rng.normal(size=(size, width))
    return torch.from_numpy(points).bfloat16().double().numpy()


def labels(size: int) -> Labels:
    return Labels(
        [str(row % SUBJECTS) for row in range(size)], ["ABCD"[row % 4] for row in range(size)]
    )


def seconds(run: Callable[[], object], rounds: int = 1) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def product_rate() -> float:
    """Return operations a second of a 4096-cubed float64 matrix product."""
    one, other = torch.randn(2, 4096, 4096, dtype=torch.float64)
    return 2 * 4096**3 / seconds(lambda: one @ other, rounds=4)


def peak_gigabytes(run: Callable[[], object]) -> float:
    """Return by how much `run` raised the memory that this process has in use, at most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use now
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1e6


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def dadapy_analysis(points: np.ndarray) -> tuple[float, np.ndarray]:
    data = Data(coordinates=points, n_jobs=1)
    data.compute_distances(maxk=SETTINGS.neighbors)
    dimension = data.return_id_scaling_gride(range_max=100)[0][4]
    data.set_id(dimension)
    data.compute_density_kNN(k=SETTINGS.density_k)
    return dimension, data.compute_clustering_ADP(Z=SETTINGS.z)


@pytest.mark.parametrize("width", [896, 4096])
@pytest.mark.parametrize("size", [2000, 9181])
def test_analysis_against_dadapy(  # type: ignore[no-untyped-def]
    size: int, width: int, benchmark, report_figures
) -> None:
    points, named = cloud(size, width), labels(size)
    measure_layer(points[:100], labels(100), SETTINGS)  # loads what is loaded once
    peak = peak_gigabytes(lambda: measure_layer(points, named, SETTINGS))
    rate = product_rate()
    benchmark.pedantic(lambda: measure_layer(points, named, SETTINGS), rounds=3)
    analysis = benchmark.stats.stats.min
    neighbors = seconds(lambda: nearest_neighbors(points, SETTINGS.neighbors), rounds=3)
    draws = draw_subsamples(size, 10, 0.8)
    with_ten = seconds(lambda: measure_layer(points, named, SETTINGS, draws), rounds=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = seconds(lambda: dadapy_analysis(points), rounds=2)
        their_dimension, their_peaks = dadapy_analysis(points)
    found = nearest_neighbors(points, SETTINGS.neighbors)
    dimension = gride(found, SETTINGS.id_k)
    assert dimension == pytest.approx(their_dimension, rel=1e-6)
    peaks = density_peaks(found, knn_density(found, dimension, SETTINGS.density_k), SETTINGS.z)
    assert adjusted_rand_score(peaks.assignment, their_peaks) == 1.0
    floor = 2 * size**2 * width / rate
    report_figures(
        dadapy_seconds=theirs,
        analysis_seconds=analysis,
        neighbors_seconds=neighbors,
        ratio_to_dadapy=theirs / analysis,
        product_gigaflops=rate / 1e9,
        floor_seconds=floor,
        share_of_floor_analysis=floor / analysis,
        share_of_floor_neighbors=floor / neighbors,
        peak_gigabytes_above_input=peak,
        ten_subsamples_over_one_analysis=(with_ten - analysis) / analysis,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [12_500, 25_000, 50_000])
def test_time_and_memory_over_points(  # type: ignore[no-untyped-def]
    size: int, benchmark, report_figures
) -> None:
    points = cloud(size, 896)
    copy = points.nbytes / 1e9
    took: list[float] = []
    peak = peak_gigabytes(
        lambda: took.append(seconds(lambda: nearest_neighbors(points, SETTINGS.neighbors)))
    )
    benchmark.pedantic(lambda: measure_layer(points, labels(size), SETTINGS), rounds=1)
    report_figures(
        neighbors_seconds=took[0],
        neighbors_nanoseconds_a_pair=took[0] / size**2 * 1e9,
        analysis_seconds=benchmark.stats.stats.min,
        peak_gigabytes_above_input=peak,
        peak_without_float64_copy=peak - copy,
        bytes_a_kept_neighbor=(peak - copy) * 1e9 / (size * (SETTINGS.neighbors + 1)),
    )
