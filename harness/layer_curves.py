"""A landscape's curves over layers: of all questions, and of draws of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.geometry.neighbors import Points
from harness.geometry.subsample import draw_subsamples
from harness.landscape import CURVES, FIRST_HALF, OVERLAP, Draw, Landscape, LayerDendrogram
from harness.measurement import Labels, LayerMeasurement, measure_layers, measure_overlap
from harness.protocol import DRAW_SHARE, GeometrySettings

Curves = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class LayerCurves:
    """What was measured of L layers.

    measured: of every layer. drawn: the rows of every draw of the questions.
    overlaps: of every layer the overlap with another model's, of all and of every draw; or nothing.
    """

    layers: tuple[int, ...]
    measured: list[LayerMeasurement]
    drawn: list[NDArray[np.int64]]
    overlaps: list[tuple[float, list[float]]]

    @cached_property
    def whole(self) -> Curves:
        """The curves of all questions by name, L values each."""
        curves = {name: tuple(one.values[name] for one in self.measured) for name in CURVES}
        if self.overlaps:
            curves[OVERLAP] = tuple(share for share, _ in self.overlaps)
        return curves

    @cached_property
    def draws(self) -> list[Curves]:
        """The curves of every draw."""
        found = []
        for number in range(len(self.drawn)):
            parts = [one.subsamples[number] for one in self.measured]
            curves = {name: tuple(values[name] for values in parts) for name in CURVES}
            if self.overlaps:
                curves[OVERLAP] = tuple(some[number] for _, some in self.overlaps)
            found.append(curves)
        return found

    @property
    def tree(self) -> LayerDendrogram | None:
        """The dendrogram of the layer in the first half that agrees best with the subjects.

        None where that has a single peak.
        """
        early = [
            place
            for place, layer in enumerate(self.layers)
            if layer <= FIRST_HALF[1] * self.layers[-1]
        ]
        best = max(early or [0], key=lambda place: self.whole["ari_subjects"][place])
        found = self.measured[best].tree
        if found is None:
            return None
        linkage = tuple(tuple(row) for row in found.linkage.tolist())
        return LayerDendrogram(
            self.layers[best], linkage, found.labels, tuple(found.shares.tolist())
        )

    def landscape(
        self, model: str, condition: str, subjects: int, right: Sequence[bool] | None
    ) -> Landscape:
        """Return the landscape that has these curves, without its origin.

        model, condition: their names in it. subjects: how many the questions are of.
        right: of each of N questions whether its answer is; None where that is not known.
        """

        def accuracy(rows: NDArray[np.int64] | slice) -> float | None:
            return None if right is None else float(np.asarray(right)[rows].mean())

        return Landscape(
            model,
            condition,
            self.layers,
            self.whole,
            subjects,
            accuracy(slice(None)),
            draws=tuple(
                Draw(curves, accuracy(rows))
                for curves, rows in zip(self.draws, self.drawn, strict=True)
            ),
            tree=self.tree,
        )


def measure_curves(
    layers: Sequence[int],
    read: Callable[[int], Points],
    labels: Labels,
    settings: GeometrySettings,
    name: str,
    read_before: Callable[[int], Points] | None = None,
) -> LayerCurves:
    """Return the curves over `layers`, with their progress on stderr.

    read, read_before: return a layer's (N, D) points, as for `measure_layers`; the second those
        before fine-tuning, to measure the overlap with.
    name: of what is measured, for the bars.

    Raises GeometryError as `measure_layers` and `measure_overlap` do.
    """
    drawn = draw_subsamples(len(labels.subjects), settings.draws, DRAW_SHARE)
    measured = measure_layers(layers, read, labels, settings, drawn, f"{name}: measure")
    overlaps = []
    if read_before:
        k = settings.overlap_k
        overlaps = measure_overlap(layers, read, read_before, k, drawn, f"{name}: overlap")
    return LayerCurves(tuple(layers), measured, drawn, overlaps)
