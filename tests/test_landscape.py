"""Landscapes, curves, the store and the verdict."""

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cases import TOY
from fixtures.contrast import decide
from harness.curve import Curve
from harness.errors import RecordError
from harness.geometry.interval import interval_of
from harness.geometry.subsample import draw_subsamples
from harness.landscape import CURVES, Draw, Landscape
from harness.names import dataset_name
from harness.pipeline import Experiment
from harness.protocol import PromptFormat, Subset
from harness.published import SCHEMA, read_published
from harness.store import Store
from reports.run import AUTHORS_CURVES

POSITIVE = ("intrinsic_dimension", "density_peaks")
VALUES = st.floats(allow_infinity=False, allow_nan=True)


@given(values=st.lists(VALUES, min_size=1, max_size=9), accuracy=st.none() | st.floats(0, 1))
def test_a_landscape_round_trips_through_json(values: list[float], accuracy: float | None) -> None:
    layers = tuple(range(1, len(values) + 1))

    def over(some: list[float]) -> dict[str, tuple[float, ...]]:
        above = tuple(abs(value) or 1.0 for value in some)
        return dict.fromkeys(CURVES, tuple(some)) | dict.fromkeys(POSITIVE, above)

    curves = over(values)
    draws = (Draw(curves, accuracy), Draw(over(values[::-1])))
    made = Landscape("m", "0-shot", layers, curves, 3, accuracy, draws=draws)
    read = Landscape.from_json(made.to_json())
    assert read.to_json() == made.to_json()
    assert read.layer == layers and read.accuracy == accuracy
    assert read.drawn(1).to_json() == made.drawn(1).to_json() != made.to_json()


def test_a_curve_that_is_not_there_is_unknown() -> None:
    layers = (1, 2)
    one = Landscape("m", "0-shot", layers, {"density_peaks": (3.0, 4.0)}, 2)
    assert one.has("density_peaks") and not one.has("kindred")
    assert np.isnan(one.curve("kindred").values).all() and math.isnan(one.curve("kindred").maximum)
    with pytest.raises(AssertionError, match="kindered"):
        one.curve("kindered")
    assert Landscape.from_json(one.to_json()) == one


def test_whatever_is_measured_may_be_published() -> None:
    models = SCHEMA["properties"]["models"]["additionalProperties"]
    assert set(CURVES) <= models["properties"].keys()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 2, "x": 2}'])
def test_another_json_is_no_landscape(text: str) -> None:
    with pytest.raises(RecordError, match=r"file\.json"):
        Landscape.from_json(text, "file.json")


def test_curves_by_depth() -> None:
    curve = Landscape("m", "c", (1, 2, 3, 4), {"ari_subjects": (math.nan, 1.0, 4.0, 2.0)}, 3).curve(
        "ari_subjects"
    )
    assert curve.depth.tolist() == [0.25, 0.5, 0.75, 1.0]
    known = curve.without_ends
    assert known.depth.tolist() == [0.5, 0.75, 1.0]
    assert known.between(0, 0.5).values.tolist() == [1.0]
    assert known.peak_depth == known.between(0, 1).peak_depth == 0.75
    assert known.width == pytest.approx(2 / 3)
    assert known.centroid == pytest.approx((0.5 + 3 + 2) / 7)
    assert (known.maximum, known.minimum, known.median, known.mean) == (4.0, 1.0, 2.0, 7 / 3)


@pytest.mark.parametrize("unknown", [0, 1, 2])
@pytest.mark.parametrize(
    "read", ["maximum", "minimum", "median", "mean", "peak_depth", "centroid", "width"]
)
def test_nothing_is_known_of_a_part_of_which_a_layer_is_not(read: str, unknown: int) -> None:
    values = np.array([1.0, 4.0, 2.0])
    assert math.isfinite(getattr(Curve(np.array([0.25, 0.5, 1.0]), values), read))
    values[unknown] = math.nan
    assert math.isnan(getattr(Curve(np.array([0.25, 0.5, 1.0]), values), read))
    nothing = Curve(np.array([0.25, 0.5, 1.0]), values).between(0.6, 0.9)
    assert len(nothing.values) == 0 and math.isnan(getattr(nothing, read))
    assert len(Curve(np.array([0.5]), np.array([math.nan])).without_ends.values) == 0


def test_published_curves_are_read_as_they_stand() -> None:
    published = json.loads(AUTHORS_CURVES.read_text())["models"]
    read = read_published(AUTHORS_CURVES)
    assert set(read) == set(published) and len(read) == 5
    for model, conditions in read.items():
        for name, landscape in conditions.items():
            expected = published[model]["density_peaks"][name]
            assert list(landscape.curves["density_peaks"]) == expected


@pytest.mark.parametrize(
    ("effect", "interval", "direction", "word"),
    [
        (0.3, None, "at least", "reproduced"),
        (0.1, None, "at least", "not reproduced"),
        (0.1, None, "at most", "reproduced"),
        (0.3, None, "at most", "not reproduced"),
        (0.3, (0.25, 0.4), "at least", "reproduced"),
        (0.3, (0.1, 0.4), "at least", "inconclusive"),
        (0.3, (0.1, 0.4), "at most", "inconclusive"),
        (0.2, (0.2, 0.4), "at least", "reproduced"),
        (0.2, (0.1, 0.2), "at least", "inconclusive"),
        (0.2, (0.1, 0.2), "at most", "reproduced"),
        (0.2, (0.2, 0.4), "at most", "inconclusive"),
        (math.nan, None, "at least", "inconclusive"),
    ],
)
def test_a_verdict(
    effect: float, interval: tuple[float, float] | None, direction: str, word: str
) -> None:
    assert decide(effect, interval, 0.2, direction) == word  # type: ignore[arg-type]


def test_an_interval_is_that_of_the_whole_not_of_the_draws() -> None:
    # Of the mean of n numbers, subsamples without replacement have a known spread: the interval
    # from them is 1.96 standard errors of the mean of all.
    numbers = np.random.default_rng(5).normal(3.0, 2.0, 500)
    draws = [float(numbers[rows].mean()) for rows in draw_subsamples(500, 2000, 0.8)]
    low, high = interval_of(float(numbers.mean()), draws, 0.8)  # type: ignore[misc]
    error = numbers.std(ddof=1) / np.sqrt(500)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.05)
    assert (high + low) / 2 == pytest.approx(numbers.mean())
    # Draws that are all to one side do not move it; it reaches to their mean.
    one_sided = interval_of(numbers.mean(), [one - 1 for one in draws], 0.8)
    assert one_sided == pytest.approx((numbers.mean() - 1, high), abs=0.01)
    # A count that jumps: no spread, and yet it is not certain.
    assert interval_of(-0.008, [0.0] * 10, 0.8) == (-0.008, 0.0)
    assert interval_of(3.0, [], 0.8) is None
    assert interval_of(3.0, [1.0, math.nan], 0.8) == (-math.inf, math.inf)


def test_of_a_hundred_intervals_from_ten_draws_ninety_five_hold_the_truth() -> None:
    rng = np.random.default_rng(6)
    covered = []
    for seed in range(1000):
        numbers = rng.normal(3.0, 2.0, 100)
        draws = [float(numbers[rows].mean()) for rows in draw_subsamples(100, 10, 0.8, seed)]
        low, high = interval_of(float(numbers.mean()), draws, 0.8)  # type: ignore[misc]
        covered.append(low <= 3.0 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment() -> Experiment:
        return Experiment(
            str(TOY / "model"), str(TOY / "questions"), Store(tmp_path), Subset(per_subject=3)
        )

    first = experiment().landscape(PromptFormat(1))
    without = replace(experiment(), most_shots=0).landscape(PromptFormat(0))
    for name in ("_extract", "_measure"):
        monkeypatch.setattr(Experiment, name, lambda *rest: pytest.fail("computed again"))
    assert experiment().landscape(PromptFormat(1)).to_json() == first.to_json()
    # With shots or not beside it: the prompts without are the same.
    assert experiment().landscape(PromptFormat(0)).to_json() == without.to_json()
    assert (
        replace(experiment(), most_shots=2).landscape(PromptFormat(1)).to_json() == first.to_json()
    )
    with pytest.raises(pytest.fail.Exception):
        experiment().landscape(PromptFormat(2))
    # Without shots there is no order of shots; but there is a header.
    for same in (PromptFormat(0, "kept"), PromptFormat(0, seed=7)):
        found = experiment().landscape(same)
        assert found.curves == without.curves
        assert found.origin["PromptFormat"] == asdict(same)  # as it was asked for
    with pytest.raises(pytest.fail.Exception):
        experiment().landscape(PromptFormat(0, header=False))
    # The same bytes are known by the name that they are asked for by.
    copy = shutil.copytree(TOY / "model", tmp_path / "other-name")
    renamed = replace(experiment(), model=str(copy)).landscape(PromptFormat(1))
    assert (first.model, renamed.model) == ("model", "other-name")
    assert renamed.curves == first.curves and renamed.origin["cost"] == first.origin["cost"]
    questions = str(shutil.copytree(TOY / "questions", tmp_path / "other-questions"))
    moved = replace(experiment(), dataset=questions).landscape(PromptFormat(1))
    assert moved.curves == first.curves and moved.origin["dataset"] == dataset_name(questions)
    # They are read again when they have changed.
    before = replace(experiment(), model=str(copy)).fingerprint
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert replace(experiment(), model=str(copy)).fingerprint != before


def test_extremes_are_of_the_draws_in_which_a_value_is_known() -> None:
    draws = tuple(
        Draw({"kindred": values}) for values in ((math.nan, 1.0), (2.0, 3.0), (5.0, math.nan))
    )
    made = Landscape("m", "c", (1, 2), {"kindred": (9.0, 9.0)}, 2, draws=draws)
    assert made.extremes("kindred") == [(2.0, 5.0), (1.0, 3.0)]
    unknown = Landscape("m", "c", (1,), {"kindred": (9.0,)}, 2).extremes("kindred")
    assert all(map(math.isnan, unknown[0]))
