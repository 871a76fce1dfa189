"""Every claim holds of the paper's model, and fails of one that lacks the finding."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from claims.scope import largest, smallest
from claims.test_two_phases import hump
from fixtures.conditions import ACCURACY, Asked, ConditionSet
from fixtures.contrast import Contrast
from harness.curve import Curve
from harness.landscape import OVERLAP
from tests.drawn_models import (
    CHECKPOINT,
    CLAIMS,
    DEPTH,
    FEW,
    FIRST,
    LARGE,
    LATE_PEAK,
    PAPER,
    TUNED,
    Model,
    bump,
    call,
    changed,
    dimension,
    phases,
    through,
    verdict,
    with_accuracy,
)

# Of every claim, models that lack what it says, by what they do instead.
CONTRARY: dict[str, dict[str, Model]] = {
    "two-phases-id": {
        "one condition rises to the end": changed(
            PAPER, TUNED, intrinsic_dimension=through((0, 2.5), (1, 21))
        ),
        "the peak is early": changed(
            PAPER, "0-shot", intrinsic_dimension=through((0, 9), (0.2, 14), (1, 5))
        ),
        "it falls slowly": changed(
            PAPER, "5-shot", intrinsic_dimension=through((0, 2), (0.5, 15), (0.6, 14.8), (1, 13))
        ),
    },
    "two-phases-id-growth": {
        "the same peak": changed(PAPER, "5-shot", intrinsic_dimension=dimension(14, 11, 10)),
    },
    "two-phases-id-fine-tuned": {
        "the peak with shots": changed(PAPER, TUNED, intrinsic_dimension=dimension(17, 14, 15)),
    },
    "two-phases-late-id": {
        "rises with shots, if less": changed(
            PAPER, "5-shot", intrinsic_dimension=dimension(17, 12, 12.5)
        ),
        "decays without": changed(PAPER, "0-shot", intrinsic_dimension=dimension(14, 11, 10)),
    },
    "two-phases-peaks": {
        "as many late in one condition": changed(PAPER, TUNED, density_peaks=phases(39, 39)),
    },
    "two-phases-peaks-subjects": {
        "few": changed(PAPER, "5-shot", density_peaks=phases(20, 13)),
        "many": changed(PAPER, "5-shot", density_peaks=phases(120, 13)),
    },
    "two-phases-peaks-shots": {
        "fine-tuned as many": changed(PAPER, TUNED, density_peaks=phases(60, 15)),
        "as many without": changed(PAPER, "0-shot", density_peaks=phases(60, 15)),
    },
    "two-phases-core": {
        "as large late": changed(PAPER, "5-shot", core_fraction=phases(0.6, 0.6)),
        "a late peak": changed(PAPER, "5-shot", core_fraction=bump(0.2, 0.1, 0.6) + LATE_PEAK),
        "as large without shots": changed(PAPER, "0-shot", core_fraction=phases(0.6, 0.1)),
    },
    "subjects-few-shot": {
        "as much without shots": changed(PAPER, "0-shot", ari_subjects=phases(0.8, 0.1)),
        "late": changed(PAPER, "5-shot", ari_subjects=bump(0.8, 0.1, 0.8)),
    },
    "subjects-more-shots": {
        "later": changed(PAPER, "5-shot", ari_subjects=bump(0.4, 0.08, 0.9)),
        "wider": changed(PAPER, "5-shot", ari_subjects=bump(0.0, 0.6, 0.9)),
        "weaker": changed(PAPER, "5-shot", ari_subjects=bump(0.14, 0.1, 0.5)),
    },
    "subjects-pure": {
        "mixed": changed(PAPER, "5-shot", pure_peaks=phases(0.4, 0.1)),
        "small pure clusters beside a large mixed one": changed(
            PAPER, "5-shot", ari_subjects=phases(0.02, 0.01)
        ),
    },
    "hierarchy": {
        "as by chance": changed(PAPER, "5-shot", kindred_by_chance=phases(0.3, 0)),
    },
    "subjects-accuracy": {
        "groups and guesses": with_accuracy(PAPER, **{"0-shot": 0.3}),
        "answers and does not group": changed(PAPER, "0-shot", ari_subjects=phases(0.1, 0.1)),
    },
    "subjects-fade": {
        "as strong late": changed(PAPER, "5-shot", ari_subjects=phases(0.8, 0.7)),
        "noise": changed(PAPER, "5-shot", ari_subjects=0.7 + 0.2 * np.sin(9.0 * DEPTH * 32)),
    },
    "subjects-fine-tuned": {
        "as with shots": changed(PAPER, TUNED, ari_subjects=bump(0.14, 0.1, 0.8)),
    },
    "answers-late": {
        "early in one condition": changed(PAPER, "2-shot", ari_answers=phases(0.1, 0.1)),
    },
    "answers-fine-tuned": {
        "mixed": changed(PAPER, TUNED, ari_answers=phases(0, 0.03)),
        "early too": changed(PAPER, TUNED, ari_answers=phases(0.25, 0.25)),
        "before fine-tuning too": changed(PAPER, "0-shot", ari_answers=phases(0, 0.25)),
    },
    "answers-clusters": {
        "one large mixed cluster": changed(PAPER, TUNED, answer_clusters=phases(0.3, 0.28)),
        "many small clusters": changed(PAPER, TUNED, answer_clusters=phases(0.3, 0.5)),
    },
    "answers-learnt": {
        "by heart, and mixed": changed(PAPER, CHECKPOINT, overlap_answers=phases(0.25, 0.3)),
        "early too": changed(PAPER, CHECKPOINT, overlap_answers=phases(0.7, 0.75)),
        "before it too": changed(PAPER, FIRST, overlap_answers=phases(0.25, 0.75)),
    },
    "answers-given": {
        "mixed": changed(PAPER, TUNED, overlap_given=phases(0.27, 0.5)),
        "early too": changed(PAPER, TUNED, overlap_given=phases(0.8, 0.8)),
        "before fine-tuning too": changed(PAPER, "0-shot", overlap_given=phases(0.27, 0.75)),
    },
    "answers-few-shot": {
        "late, with shots": changed(PAPER, "5-shot", ari_answers=phases(0, 0.2)),
    },
    "converge-large": {
        "accurate, and apart": changed(LARGE, "5-shot", ari_answers=phases(0, 0.05)),
        "accurate, and beyond": changed(LARGE, "5-shot", ari_answers=phases(0, 0.9)),
        "not accurate, and near": changed(PAPER, "5-shot", ari_answers=phases(0, 0.24)),
    },
    "fine-tuning-is-late": {
        "evenly": changed(PAPER, CHECKPOINT, **{OVERLAP: phases(0.4, 0.4)}),
        "early": changed(PAPER, CHECKPOINT, **{OVERLAP: phases(0.3, 0.6)}),
    },
    "same-accuracy": {
        "fine-tuned better": with_accuracy(PAPER, **{TUNED: 0.75}),
        "with shots better": with_accuracy(PAPER, **{"5-shot": 0.75}),
    },
    "few-shot-id-higher": {
        "lower, as in the paper's own curves": PAPER,
    },
}
# Claims that are not about a model as accurate as Llama-3-8b, or that it contradicts.
OTHERWISE = {
    "few-shot-id-higher": changed(
        PAPER, TUNED, intrinsic_dimension=np.array(PAPER["0-shot"].curves["intrinsic_dimension"])
    ),
}


def test_every_claim_has_a_model_that_lacks_its_finding() -> None:
    assert CONTRARY.keys() == CLAIMS.keys()


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_holds_of_a_model_as_the_paper_describes_it(claim: str) -> None:
    assert verdict(claim, OTHERWISE.get(claim, PAPER)) == "reproduced"


@pytest.mark.parametrize(
    ("claim", "model"),
    [
        pytest.param(claim, model, id=f"{claim}: {what}")
        for claim, models in CONTRARY.items()
        for what, model in models.items()
    ],
)
def test_a_claim_fails_of_a_model_that_lacks_its_finding(claim: str, model: Model) -> None:
    assert verdict(claim, model) == "not reproduced"


def test_a_fall_is_seen_in_a_model_of_few_layers_too() -> None:
    depth = np.arange(1, 9) / 8
    assert hump(Curve(depth, np.array([2.0, 4, 6, 10, 7, 7, 6, 5]))) == pytest.approx(0.3)
    assert hump(Curve(depth, np.array([2.0, 4, 6, 10, 10, 6, 6, 5]))) == 0


def test_the_fall_from_a_peak_is_looked_for_in_the_next_layer_where_layers_are_sparse() -> None:
    depth = np.array([1, 6, 11, 16, 21, 26, 31, 32]) / 32
    curve = Curve(depth, np.array([2.0, 6.0, 10.0, 14.0, 7.0, 6.0, 6.0, 2.0]))
    assert hump(curve) == pytest.approx(0.5)  # from 14 to 7; it rises from a median of 4


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_was_not_measured_is_never_judged(claim: str) -> None:
    model = OTHERWISE.get(claim, PAPER)
    asked: Asked = set()
    assert verdict(claim, model, asked) == "reproduced"
    assert asked
    for condition, name in asked:
        one = model[condition]
        if name == ACCURACY:
            without = replace(one, accuracy=None)
        else:
            curves = {other: values for other, values in one.curves.items() if other != name}
            without = replace(one, curves=curves, draws=())
        found = verdict(claim, model | {condition: without})
        assert found not in ("reproduced", "not reproduced"), (condition, name)


def test_a_fall_that_was_not_measured_is_not_known() -> None:
    values = dimension(14, 11, 12.5)
    values[16:20] = np.nan  # the layers after the peak
    assert np.isnan(hump(Curve(DEPTH, values)))


@pytest.mark.parametrize(
    ("claim", "parts"),
    [
        ("two-phases-id", ["0-shot", *FEW, TUNED]),
        ("two-phases-late-id", ["rise without shots, above 5 %", "decay with shots"]),
        ("two-phases-core", ["over 0-shot", "over fine-tuned", "over late, with shots"]),
        ("subjects-more-shots", ["growth", "shift", "narrowing"]),
        ("answers-late", ["0-shot", *FEW, TUNED]),
        ("hierarchy", []),
    ],
)
def test_an_effect_that_is_one_of_several_tells_them_all(claim: str, parts: list[str]) -> None:
    found: list[Contrast] = []

    def judge(statistic: Callable[[ConditionSet], float], *, meaning: str, **given: Any) -> None:
        found.append(Contrast.of(statistic, **given))

    call(claim, PAPER, judge)
    (contrast,) = found
    told, effect = contrast.parts(PAPER), contrast.outcome("model", PAPER).effect
    assert sorted(told) == sorted(parts) and type(effect) is float
    if parts:
        chosen = min if contrast.direction == "at least" else max
        assert effect == chosen(told.values())


def test_of_several_that_are_not_all_known_none_is_the_smallest() -> None:
    for choose in (smallest, largest):
        for parts in ({"one": 1.0, "other": math.nan}, {"one": math.nan, "other": 1.0}):
            assert math.isnan(choose(parts))
    assert (smallest({"a": 2.0, "b": 1.0}), largest({"a": 2.0, "b": 1.0})) == (1.0, 2.0)


def test_one_layer_alone_has_no_hump() -> None:
    assert np.isnan(hump(Curve(np.array([1.0]), np.array([5.0]))))
