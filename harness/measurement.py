"""From the representations of layers and the questions' labels to the values of a landscape."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from harness.device import device_with_room
from harness.errors import GeometryError
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
from harness.geometry.neighbors import (
    WORKING_MEMORY,
    Neighbors,
    Points,
    first_identical,
    nearest_neighbors,
)
from harness.geometry.overlap import label_overlap, representation_overlap
from harness.geometry.subsample import neighbors_among
from harness.protocol import GeometrySettings, enough_neighbors

T = TypeVar("T")
Values = dict[str, float]

MOST_PROCESSES = 4  # by default: each needs memory for a layer
PARALLEL_POINTS = 4000  # fewer are measured before the processes have started
PERMUTATIONS = 200  # of the categories, for what is kindred by chance
CHANCE = 0.95  # the quantile of those that counts as chance


@dataclass(frozen=True)
class Labels:
    """What N questions are about and what is right: N subjects, N answer letters.

    categories: of every subject, or of none: kindred peaks are then not measured.
    given: the N letters that the model gives, right or wrong; None where they are not known.
    """

    subjects: Sequence[str]
    answers: Sequence[str]
    categories: Mapping[str, str] = field(default_factory=dict)
    given: Sequence[str] | None = None

    def of(self, rows: NDArray[np.int64]) -> Labels:
        """Return the labels of the questions in (M,) rows."""

        def some(labels: Sequence[str]) -> list[str]:
            return [labels[row] for row in rows]

        given = None if self.given is None else some(self.given)
        return Labels(some(self.subjects), some(self.answers), self.categories, given)


@dataclass(frozen=True)
class LayerMeasurement:
    """A value for each of CURVES, of all points and of every subsample of them.

    tree: the dendrogram of the density peaks of all; None of a single peak.
    """

    values: Values
    subsamples: tuple[Values, ...] = ()
    tree: Dendrogram | None = None


def measure_layer(
    points: Points,
    labels: Labels,
    settings: GeometrySettings,
    subsamples: Sequence[NDArray[np.int64]] = (),
) -> LayerMeasurement:
    """Return the values of (N, D) points of any float type, and those of `subsamples` of them.

    subsamples: (M,) row numbers each, ascending. Their neighbours come from the full lists, so each
        of their values is the one that the subsample alone would give with as many neighbours.

    Raises GeometryError for too few distinct points or values that are not finite.
    Source: the paper, section 3, and `analyze` in its repository.
    """
    first, distinct, neighbors = _where_there_is_room(
        partial(_distinct_neighbors, count=settings.neighbors), points
    )
    number = np.full(len(first), -1)
    number[distinct] = np.arange(len(distinct))
    parts = []
    for subsample in subsamples:
        # Of identical points the first in the subsample counts, with its own labels.
        among, place = np.unique(number[first[subsample]], return_index=True)
        own = labels.of(subsample[place])
        parts.append(_values(neighbors_among(neighbors, among), own, settings)[0])
    values, tree = _values(neighbors, labels.of(distinct), settings)
    return LayerMeasurement(values, tuple(parts), tree)


def measure_layers(
    layers: Sequence[int],
    read: Callable[[int], Points],
    labels: Labels,
    settings: GeometrySettings,
    subsamples: Sequence[NDArray[np.int64]] = (),
    description: str = "measure",
    processes: int | None = None,
) -> list[LayerMeasurement]:
    """Return the measurement of every layer, with its progress on stderr.

    read: returns a layer's (N, D) points; it is called when the layer's turn comes. With several
        processes it is called in one of them, so it must be something that pickle can send.
    processes: layers measured at the same time; torch's threads are shared out among them. Each
        needs memory for a layer. None is one, or one a thread but at most MOST_PROCESSES where that
        was measured to be faster: when many points have subsamples, most of whose analysis uses one
        core.

    Raises GeometryError as `measure_layer` does.
    """
    threads = torch.get_num_threads()
    if processes is None:
        worthwhile = bool(subsamples) and len(labels.subjects) >= PARALLEL_POINTS
        processes = min(threads, MOST_PROCESSES) if worthwhile else 1
    processes = min(processes, len(layers))
    measure = partial(_measure, read, labels, settings, subsamples)
    progress = partial(tqdm, total=len(layers), desc=description, unit="layer")
    if processes <= 1:
        return list(progress(map(measure, layers)))
    # Forked processes can hang in a matrix product when the parent has already used threads.
    with ProcessPoolExecutor(
        processes,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, threads // processes),),
    ) as pool:
        return list(progress(pool.map(measure, layers)))


def measure_overlap(
    layers: Sequence[int],
    read: Callable[[int], Points],
    read_other: Callable[[int], Points],
    k: int,
    subsamples: Sequence[NDArray[np.int64]] = (),
    description: str = "overlap",
) -> list[tuple[float, list[float]]]:
    """Return, a layer, the mean share, 0 to 1, of the k nearest neighbours that both have.

    Beside it stands what each of `subsamples` of the points gives, with neighbours of its own.

    read, read_other: a layer's (N, D) points in each, of the same questions in the same order.

    Raises GeometryError for fewer than k + 1 questions, values that are not finite, or unequal
    numbers of points.
    Source: `representation_overlap`; the paper compares checkpoints so.
    """
    found = []
    kept = enough_neighbors(k)
    for layer in tqdm(layers, desc=description, unit="layer"):
        with _named(layer):
            find = partial(nearest_neighbors, count=kept)
            one, other = (_where_there_is_room(find, of(layer)) for of in (read, read_other))
            whole = float(representation_overlap(one, other, k).mean())
            parts = []
            for rows in subsamples:
                mine, theirs = (neighbors_among(near, rows) for near in (one, other))
                parts.append(float(representation_overlap(mine, theirs, k).mean()))
        found.append((whole, parts))
    return found


def _begin(threads: int) -> None:
    """Take `threads` of torch's in a process of the pool, and end it when its parent is killed."""
    torch.set_num_threads(threads)
    parent = parent_process()
    assert parent

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _measure(
    read: Callable[[int], Points],
    labels: Labels,
    settings: GeometrySettings,
    subsamples: Sequence[NDArray[np.int64]],
    layer: int,
) -> LayerMeasurement:
    with _named(layer):
        return measure_layer(read(layer), labels, settings, subsamples)


@contextmanager
def _named(layer: int) -> Iterator[None]:
    """Have an error name the layer that it is of."""
    try:
        yield
    except GeometryError as error:
        raise GeometryError(f"layer {layer}: {error}") from error


def _where_there_is_room(compute: Callable[[Points], T], points: Points) -> T:
    """Return what is computed of (N, D) points: by a GPU that has room for it, or by the CPU."""
    cloud = torch.as_tensor(points)
    # The points, a copy in float64, and another one while that is made.
    device = device_with_room(WORKING_MEMORY + 3 * 8 * cloud.numel())
    if device.type != "cpu":
        with suppress(torch.OutOfMemoryError):  # another process was faster
            return compute(cloud.to(device))
    return compute(points)


def _distinct_neighbors(
    points: Points, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Neighbors]:
    """Return `first_identical`, the rows of distinct points, and the neighbours among these."""
    first = first_identical(points)
    distinct = np.unique(first)
    found = nearest_neighbors(points[distinct], count)
    if not found.distances[:, 1].all():  # the first is the point itself
        raise GeometryError(
            "the representations differ so little that distances are 0 in float64; multiply them "
            "by a constant"
        )
    return first, distinct, found


def _peaks(neighbors: Neighbors, dimension: float, settings: GeometrySettings) -> DensityPeaks:
    if settings.density_k is None:
        density = pak_density(neighbors, dimension)
    else:
        density = knn_density(neighbors, dimension, settings.density_k)
    return density_peaks(neighbors, density, settings.z)


def _values(
    neighbors: Neighbors, labels: Labels, settings: GeometrySettings
) -> tuple[Values, Dendrogram | None]:
    dimension = gride(neighbors, settings.id_k)
    peaks = _peaks(neighbors, dimension, settings)
    tree = dendrogram(peaks, labels.subjects) if peaks.count > 1 else None
    kindred, by_chance = _kindred(tree, labels)
    values = {
        "intrinsic_dimension": dimension,
        "density_peaks": float(peaks.count),
        "core_fraction": peaks.core_fraction,
        **_by_label("subjects", labels.subjects, peaks, neighbors),
        **_by_label("answers", labels.answers, peaks, neighbors),
        **_by_given(labels.given, peaks, neighbors),
        "pure_peaks": pure_share(peaks.assignment, labels.subjects),
        "answer_clusters": majority_share(peaks.assignment, labels.answers),
        "kindred": kindred,
        "kindred_by_chance": by_chance,
    }
    return values, tree


def _by_label(
    name: str, labels: Sequence[str], peaks: DensityPeaks, neighbors: Neighbors
) -> Values:
    """Return how peaks and neighbourhoods agree with one kind of label."""
    found = agreement(peaks.assignment, labels)
    return {
        f"ari_{name}": found.adjusted_rand_index,
        f"ami_{name}": found.adjusted_mutual_information,
        f"homogeneity_{name}": found.homogeneity,
        f"overlap_{name}": _label_overlap(neighbors, labels),
    }


def _by_given(given: Sequence[str] | None, peaks: DensityPeaks, neighbors: Neighbors) -> Values:
    """Return how they agree with the letters that the model gives; NaN where these are unknown."""
    if given is None:
        return {"ari_given": math.nan, "overlap_given": math.nan}
    return {
        "ari_given": adjusted_rand_index(peaks.assignment, given),
        "overlap_given": _label_overlap(neighbors, given),
    }


def _label_overlap(neighbors: Neighbors, labels: Sequence[str]) -> float:
    try:
        return label_overlap(neighbors, labels)
    except GeometryError:  # a label has more points than neighbours are kept for
        return math.nan


def _kindred(tree: Dendrogram | None, labels: Labels) -> tuple[float, float]:
    """Return how much lower peaks of one category join, and how much by chance; NaN if unknown."""
    if tree is None:
        return math.nan, math.nan
    try:
        value, null = category_agreement(tree, labels.categories, PERMUTATIONS)
    except GeometryError:  # no two categories to compare
        return math.nan, math.nan
    return value, float(np.quantile(null, CHANCE))
