"""The landscape of one model in one condition: a table over its layers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.curve import Curve
from harness.errors import RecordError
from harness.geometry.interval import interval_of
from harness.protocol import DRAW_SHARE
from harness.schemas import check_table, numbers, read_json, read_schema, writable
from harness.training_record import FINE_TUNED

SCHEMA = read_schema(Path(__file__).with_name("landscape.schema.json"))
WAY_OUT = "measure it again"
VERSION: int = SCHEMA["properties"]["schema"]["const"]
# One value a layer, without a unit. Clusters are the density peaks'; labels are the questions'
# subjects, their right answers, or the letters that the model gives.
#   intrinsic_dimension       Gride's (`gride`; paper, section 3)
#   density_peaks             how many (`density_peaks`; section 3)
#   core_fraction             share of points outside the clusters' halos, 0 to 1 (section 4.1)
#   ari_*, ami_*              agreement with labels, 1 the same groups, 0 by chance (`agreement`)
#   homogeneity_*             1 where all clusters hold one label, 0 to 1 (`agreement`)
#   pure_peaks                share of clusters that one subject nearly fills (`pure_share`; 4.2)
#   answer_clusters           share of points in a large cluster of their answer (`majority_share`;
#                             4.3)
#   kindred                   how much lower peaks of one category join (`category_agreement`), and
#   kindred_by_chance         what 95 % of dealt out categories stay below
#   overlap_*                 share of a point's neighbours that have its label (`label_overlap`)
CURVES = (
    "intrinsic_dimension",
    "density_peaks",
    "core_fraction",
    "ari_subjects",
    "ari_answers",
    "pure_peaks",
    "answer_clusters",
    "kindred",
    "kindred_by_chance",
    "overlap_answers",
    "ari_given",
    "overlap_given",
    # Which the paper's repository computes too, and no claim asks for:
    "ami_subjects",
    "ami_answers",
    "homogeneity_subjects",
    "homogeneity_answers",
    "overlap_subjects",
)
FIRST_HALF = (0.0, 0.5)  # of the relative depth: where subjects are looked for
# Of a fine-tuned checkpoint too: the share of neighbours that it has in common with the model
# before fine-tuning.
OVERLAP = "overlap_with_start"


@dataclass(frozen=True)
class LayerDendrogram:
    """The dendrogram of one layer's density peaks, as `harness.geometry.hierarchy` has it.

    linkage: a row a join: the two nodes, the height (log density), the number of peaks below.
    labels, shares: a peak's most frequent subject, and the share of its points that have it.

    Raises RecordError for joins of nodes that are not there.
    """

    layer: int
    linkage: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        peaks = len(self.labels)
        if (len(self.linkage), len(self.shares)) != (peaks - 1, peaks):
            raise RecordError(
                f"tree: {len(self.linkage)} joins and {len(self.shares)} shares for {peaks} peaks"
            )
        for number, (one, other, *_) in enumerate(self.linkage):
            if not (0 <= one != other >= 0 and max(one, other) < peaks + number):
                raise RecordError(f"tree: linkage[{number}] joins what is not there")


@dataclass(frozen=True)
class Draw:
    """What a subsample of the questions alone would give: curves and accuracy, as of the whole."""

    curves: Mapping[str, tuple[float, ...]]
    accuracy: float | None = None


@dataclass(frozen=True)
class Landscape:
    """What the geometry of every layer is, for one model in one condition.

    layer: layer numbers, ascending; the last is the number of blocks (the final norm).
    curves: a value a layer, by names of CURVES, and of checkpoints OVERLAP; NaN, or a name that is
        not there, is what was not measured.
    subjects: number of subjects of the analysed questions.
    accuracy: share of right answers, 0 to 1, or None where it is not known.
    origin: settings, fingerprints and versions that made it.
    draws: of DRAW_SHARE of the questions each, the same ones wherever the same questions are asked
        (checkpoints are asked the training questions); or none.
    control, variation: the null control's, or the robustness grid's, name if measured under one.
    tree: of the layer of the first half that groups best by subject; None if that has one peak, or
        is not known.

    Raises RecordError for curves that are not of these layers.
    """

    model: str
    condition: str
    layer: tuple[int, ...]
    curves: Mapping[str, tuple[float, ...]]
    subjects: int
    accuracy: float | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    draws: tuple[Draw, ...] = ()
    control: str | None = None
    variation: str | None = None
    tree: LayerDendrogram | None = None

    def __post_init__(self) -> None:
        if not self.layer or sorted(set(self.layer)) != list(self.layer):
            raise RecordError(f"{self.model}, {self.condition}: layers are not ascending")
        for curves in (self.curves, *(draw.curves for draw in self.draws)):
            missing = self.curves.keys() ^ curves.keys()
            if missing:
                raise RecordError(
                    f"{self.model}, {self.condition}: curve {min(missing)!r} is not in the whole "
                    "and in every draw"
                )
            for name, values in curves.items():
                if len(values) != len(self.layer):
                    raise RecordError(
                        f"{self.model}, {self.condition}: curve {name!r} has {len(values)} values "
                        f"for {len(self.layer)} layers"
                    )

    @property
    def key(self) -> tuple[str | None, ...]:
        """What tells it from the others of a run: model, condition, control and variation."""
        return self.model, self.condition, self.control, self.variation

    @property
    def shots(self) -> int | None:
        """The number of shots of an `n-shot` condition, None of any other."""
        count, _, rest = self.condition.partition("-")
        return int(count) if rest == "shot" and count.isdecimal() else None

    @property
    def checkpoint(self) -> int | None:
        """The step of a condition `fine-tuned@STEP`, None of any other."""
        name, _, step = self.condition.partition("@")
        return int(step) if name == FINE_TUNED and step.isdecimal() else None

    def band(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return (L,) lower and upper ends of a curve's 95 % intervals, as `interval_of` has them.

        NaN is an end that is unknown or unbounded. None without draws.
        """
        draws = [self.drawn(number).curve(name).values for number in range(len(self.draws))]
        found = [
            interval_of(value, values, DRAW_SHARE)
            for value, *values in zip(self.curve(name).values, *draws, strict=True)
        ]
        if None in found:
            return None
        low, high = np.array(found, dtype=np.float64).T
        low[~np.isfinite(low)], high[~np.isfinite(high)] = math.nan, math.nan
        return low, high

    def extremes(self, name: str) -> list[tuple[float, float]]:
        """Return a curve's smallest and largest value, a layer, of the draws that know it; or NaN.

        Raises KeyError for a curve that was not measured.
        """
        drawn = [draw.curves[name] for draw in self.draws]
        found = []
        for place in range(len(self.layer)):
            known = [values[place] for values in drawn if not math.isnan(values[place])]
            found.append((min(known, default=math.nan), max(known, default=math.nan)))
        return found

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The accuracy's 95 % interval, as `interval_of` has it; None where it is not known."""
        known = [draw.accuracy for draw in self.draws if draw.accuracy is not None]
        return None if self.accuracy is None else interval_of(self.accuracy, known, DRAW_SHARE)

    def drawn(self, number: int) -> Landscape:
        """Return the landscape of one of `draws`.

        An accuracy that is known of the whole alone is NaN, as a value of a curve is.
        """
        draw, accuracy = self.draws[number], self.draws[number].accuracy
        if accuracy is None and self.accuracy is not None:
            accuracy = math.nan
        return replace(self, curves=draw.curves, accuracy=accuracy, draws=(), tree=None)

    def has(self, name: str) -> bool:
        """Return whether a curve was measured, of one layer at least."""
        return any(map(math.isfinite, self.curves.get(name, ())))

    def curve(self, name: str) -> Curve:
        """Return one of the curves over relative depth. Raises AssertionError for another name."""
        assert name in (*CURVES, OVERLAP), name
        depth = np.array(self.layer, dtype=np.float64) / max(*self.layer, 1)
        values = self.curves.get(name, (math.nan,) * len(self.layer))
        return Curve(depth, np.array(values, dtype=np.float64))

    def to_json(self) -> str:
        """Return the landscape as JSON text; NaN and the infinities become null."""
        table = writable(asdict(self) | {"schema": VERSION})
        return json.dumps(table, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "landscape") -> Landscape:
        """Return the landscape that `to_json` wrote.

        name: the file's name, for messages.
        Raises RecordError if the text is not such a landscape.
        """
        return cls.from_table(read_json(text, name, WAY_OUT), name)

    @classmethod
    def from_table(cls, found: object, name: str) -> Landscape:
        """Return the landscape of a JSON value. Raises RecordError as `from_json` does."""
        table = {**check_table(found, SCHEMA, name, WAY_OUT, "schema")}
        del table["schema"]
        table["layer"] = tuple(table["layer"])
        table["draws"] = tuple(
            Draw(_curves(draw["curves"]), draw.get("accuracy")) for draw in table.get("draws", ())
        )
        table["curves"] = _curves(table["curves"])
        try:
            if table.get("tree"):
                table["tree"] = _tree(table["tree"])
            return cls(**table)
        except RecordError as error:
            raise RecordError(f"{name}: {error}; {WAY_OUT}") from error


def _tree(table: Mapping[str, Any]) -> LayerDendrogram:
    linkage = tuple(tuple(float(value) for value in row) for row in table["linkage"])
    return LayerDendrogram(table["layer"], linkage, tuple(table["labels"]), tuple(table["shares"]))


def _curves(curves: Mapping[str, Sequence[float | None]]) -> dict[str, tuple[float, ...]]:
    return {name: numbers(values) for name, values in curves.items()}
