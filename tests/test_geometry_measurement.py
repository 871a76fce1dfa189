"""Measuring layers: known landscapes, subsamples, processes, and overlaps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from harness.geometry.neighbors import nearest_neighbors
from harness.geometry.overlap import representation_overlap
from harness.geometry.subsample import draw_subsamples
from harness.measurement import Labels, measure_layer, measure_layers, measure_overlap
from harness.protocol import GeometrySettings
from tests.blobs import SIZE, blobs, labels


def test_a_layer_of_blobs_agrees_with_their_labels_and_not_with_others() -> None:
    points = blobs(0)
    again = Labels([*labels().subjects, *["x"] * 9], [*labels().answers, *["x"] * 9])
    # Duplicates do not count, whatever their labels.
    values = measure_layer(torch.cat([points, points[:9]]), again, GeometrySettings()).values
    assert values["ari_subjects"] == 1.0
    assert abs(values["ari_answers"]) < 0.05
    assert values["density_peaks"] == 4
    for one in ("ami", "homogeneity", "overlap"):
        assert values[f"{one}_subjects"] == pytest.approx(1.0)
    assert abs(values["ami_answers"]) < 0.05 and abs(values["overlap_answers"] - 0.25) < 0.05
    assert math.isnan(values["ari_given"]) and math.isnan(values["overlap_given"])


def test_letters_given_are_labels_of_their_own() -> None:
    values = measure_layer(blobs(0), labels(), GeometrySettings()).values
    given = adjusted_rand_score(labels().subjects, labels().given)  # the peaks are the subjects
    assert values["ari_given"] == pytest.approx(given)
    assert 0.3 < given < 0.6
    assert values["overlap_given"] == pytest.approx(1.0)


def test_a_label_of_more_points_than_neighbours_has_no_overlap_and_the_rest_is_known() -> None:
    # 60 points a label, and the share of 30 % of them that the overlap looks at is 18.
    for neighbors, known in ((17, False), (18, True)):
        settings = GeometrySettings(neighbors=neighbors, id_k=8, density_k=16, draws=0)
        values = measure_layer(blobs(0), labels(), settings).values
        assert math.isfinite(values["overlap_subjects"]) == known
        assert math.isfinite(values["homogeneity_subjects"])


def test_kindred_subjects_join_first() -> None:
    rng = np.random.default_rng(2)
    subjects = [f"{kin}{number}" for kin in "abcd" for number in range(3)]
    far = {kin: rng.normal(size=4) * 12 for kin in "abcd"}
    middles = [far[name[0]] + rng.normal(size=4) * 3 for name in subjects]
    points = np.concatenate([middle + rng.normal(size=(60, 4)) for middle in middles])
    named = [name for name in subjects for _ in range(60)]
    labels = Labels(named, ["A"] * len(named), {name: name[0] for name in subjects})
    settings = GeometrySettings(z=0.5)
    found = measure_layer(torch.from_numpy(points), labels, settings)
    assert found.values["kindred"] > found.values["kindred_by_chance"]
    assert found.tree is not None and set(found.tree.labels) <= set(subjects)
    assert len(found.tree.labels) == found.values["density_peaks"]
    unknown = replace(labels, categories={})
    values = measure_layer(torch.from_numpy(points), unknown, settings).values
    assert math.isnan(values["kindred"])


def test_subsamples_are_measured_as_if_they_were_alone() -> None:
    points = blobs(1, 900, spread=1.2)
    points[700:740] = points[100:140]  # in a subsample the second may be the first that is there
    settings = GeometrySettings(neighbors=899)
    draws = draw_subsamples(900, 4, 0.8)
    found = measure_layer(points, labels(900), settings, draws)
    for draw, values in zip(draws, found.subsamples, strict=True):
        part = labels(900).of(draw)
        alone = measure_layer(points[draw], part, settings).values
        assert values == pytest.approx(alone, rel=1e-9, abs=1e-12, nan_ok=True)
    drawn = [values["ari_subjects"] for values in found.subsamples]
    assert 0 < min(drawn) < max(drawn) < 1
    assert found.values == measure_layer(points, labels(900), settings).values


def test_processes_measure_the_same() -> None:
    draws = draw_subsamples(SIZE, 2, 0.8)
    one, two = (
        measure_layers([2, 5, 7], blobs, labels(), GeometrySettings(), draws, processes=processes)
        for processes in (1, 2)
    )
    for layer, other in zip(one, two, strict=True):
        assert (layer.values, layer.subsamples) == (other.values, other.subsamples)
        assert layer.tree and other.tree and layer.tree.labels == other.tree.labels
        np.testing.assert_array_equal(layer.tree.linkage, other.tree.linkage)
    assert len({layer.values["intrinsic_dimension"] for layer in one}) == 3


@pytest.mark.parametrize(("size", "k"), [(40, 30), (SIZE, 30), (SIZE, 1)])
def test_the_overlap_of_a_draw_is_that_of_its_points_alone(size: int, k: int) -> None:
    rng = np.random.default_rng(4)
    one = rng.normal(size=(size, 6))
    other = one + rng.normal(size=(size, 6))
    draws = draw_subsamples(size, 3, 0.8)
    ((whole, parts),) = measure_overlap([1], lambda _: one, lambda _: other, k, draws)

    def alone(rows: slice | np.ndarray) -> float:
        near = (nearest_neighbors(points[rows], k) for points in (one, other))
        return float(representation_overlap(*near, k).mean())

    assert whole == alone(slice(None))
    assert parts == [alone(rows) for rows in draws]
    assert len(set(parts)) > 1
