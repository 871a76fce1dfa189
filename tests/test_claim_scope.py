"""What a claim is about, for whom it is skipped, and what it leaves open."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fixtures.conditions import Asked, ConditionSet
from fixtures.contrast import Contrast
from harness.landscape import Draw, Landscape
from harness.published import PUBLISHED
from tests.drawn_models import (
    CHECKPOINT,
    CLAIMS,
    FEW,
    FIRST,
    LARGE,
    PAPER,
    TUNED,
    changed,
    phases,
    verdict,
    with_accuracy,
)


def test_of_what_was_measured_without_draws_nothing_is_decided() -> None:
    bare = {name: replace(one, draws=()) for name, one in PAPER.items()}
    assert verdict("subjects-few-shot", PAPER) == "reproduced"
    assert verdict("subjects-few-shot", bare) == "inconclusive"
    one_bare = PAPER | {"5-shot": bare["5-shot"]}
    assert verdict("subjects-few-shot", one_bare) == "inconclusive"
    published = {name: replace(one, model=f"{PUBLISHED}m") for name, one in bare.items()}
    assert verdict("subjects-few-shot", published) == "reproduced"


@pytest.mark.parametrize("name", ["fine-tuned-5-shot", "fine-tuned-step-000010"])
def test_an_adapter_with_shots_or_on_its_way_is_no_condition_of_a_claim(name: str) -> None:
    other = replace(PAPER["0-shot"], condition=name)
    late = {curve: values[::-1] for curve, values in other.curves.items()}  # and early is late
    other = replace(other, curves=late, draws=tuple(Draw(late) for _ in other.draws))
    for claim in ("answers-late", "two-phases-peaks"):
        assert verdict(claim, PAPER) == "reproduced"
        assert verdict(claim, PAPER | {name: other}) == "reproduced"
        assert verdict(claim, PAPER | {"1-shot": replace(other, condition="1-shot")}) != (
            "reproduced"
        )


@pytest.mark.parametrize(("layer", "whole"), [(0, True), (3, True), (3, False)])
def test_a_layer_that_is_not_known_leaves_a_claim_open(layer: int, whole: bool) -> None:
    one = PAPER["0-shot"]
    values = list(one.curves["ari_answers"])
    values[layer] = math.nan
    unknown = dict(one.curves) | {"ari_answers": tuple(values)}
    draws = (Draw(unknown, one.accuracy), *one.draws[1:])
    if whole:
        one = replace(one, curves=unknown)
        draws = tuple(Draw(unknown, one.accuracy) for _ in one.draws)
    model = PAPER | {"0-shot": replace(one, draws=draws)}
    assert verdict("answers-late", model) == "inconclusive"
    # The authors' own curves of the ID lack the first layer, and are judged by the others.
    names = {name: replace(each, model=f"{PUBLISHED}m", draws=()) for name, each in model.items()}
    open_still = whole and layer > 0
    assert verdict("answers-late", names) == ("inconclusive" if open_still else "reproduced")


def test_the_accuracies_are_compared_of_models_that_may_have_learnt_to_answer() -> None:
    guessing = with_accuracy(PAPER, **{"5-shot": 0.26, TUNED: 0.26})
    assert "this one guesses (its best accuracy is 0.26 [0.26, 0.26])" in verdict(
        "same-accuracy", guessing
    )
    draws = tuple(replace(guessing[TUNED].draws[0], accuracy=value) for value in (0.22, 0.3))
    may = guessing | {TUNED: replace(guessing[TUNED], draws=draws)}
    assert verdict("same-accuracy", may) in ("reproduced", "inconclusive")


def test_an_accurate_model_converges_and_claims_about_others_are_skipped() -> None:
    assert verdict("converge-large", LARGE) == "reproduced"
    assert "accuracies of 0.3 to 0.7 with shots; this one" in verdict("answers-few-shot", LARGE)
    either = tuple(Draw(PAPER["5-shot"].curves, accuracy) for accuracy in (0.68, 0.72))
    unsure = PAPER | {"5-shot": replace(PAPER["5-shot"], draws=either)}
    assert verdict("answers-few-shot", unsure) == "reproduced"  # it may be about this one
    middle = with_accuracy(PAPER, **{TUNED: 0.72})
    assert "below 0.7 or above 0.75" in verdict("converge-large", middle)
    doubtful = tuple(Draw(LARGE[TUNED].curves, accuracy) for accuracy in (0.76, 0.8))
    unclear = LARGE | {TUNED: replace(LARGE[TUNED], draws=doubtful)}
    assert "below 0.7 or above 0.75" in verdict("converge-large", unclear)
    same = changed(LARGE, "0-shot", ari_answers=phases(0, 0.25))
    assert verdict("converge-large", same) == "inconclusive"  # no way to go


def test_what_only_the_authors_curves_show_excuses_no_model() -> None:
    for claim in ("two-phases-id-fine-tuned", "two-phases-late-id"):
        (mark,) = (one for one in CLAIMS[claim].pytestmark if one.name == "claim")  # type: ignore[attr-defined]
        excused = mark.kwargs["exceptions"]
        assert "published:llama-3-70b" in excused and "llama-3-70b" not in excused
        assert "published:llama-2-7b" in excused and "llama-2-7b" in excused  # by the paper's words


def test_what_was_not_fine_tuned_is_compared_without() -> None:
    few = {name: one for name, one in PAPER.items() if not name.startswith(TUNED)}
    for claim in ("two-phases-core", "two-phases-peaks-shots", "two-phases-id"):
        assert verdict(claim, few) == "reproduced"
    assert "--fine-tune" in verdict("answers-fine-tuned", few)


def test_what_a_claim_does_not_ask_for_may_lack_draws() -> None:
    some = PAPER | {"2-shot": replace(PAPER["2-shot"], draws=())}
    for asked, known in (("1-shot", True), ("2-shot", False)):

        def statistic(of: ConditionSet, asked: str = asked) -> float:
            (one,) = (one for one in of.all if one.condition == asked)
            return one.curve("ari_subjects").maximum

        found = Contrast.of(statistic, 0.1, None).outcome("model", some)
        assert (found.interval is not None) == known


def test_the_last_checkpoint_is_that_of_the_most_steps_in_whatever_order_they_are_read() -> None:
    names = [f"{TUNED}@{step}" for step in (1, 160, 21, 8)]  # as a folder's files are sorted
    found = ConditionSet({name: replace(PAPER[CHECKPOINT], condition=name) for name in names})
    assert found.last_checkpoint.condition == f"{TUNED}@160"
    with pytest.raises(pytest.skip.Exception, match="not only checkpoints"):
        _ = found.all


def test_few_right_answers_cannot_fill_clusters_of_their_letters() -> None:
    weak = with_accuracy(changed(PAPER, TUNED, answer_clusters=phases(0.3, 0.4)), **{TUNED: 0.5})
    assert "0.50 [0.50, 0.50]" in verdict("answers-clusters", weak)


@pytest.mark.parametrize(
    ("claim", "conditions"),
    [
        ("two-phases-id", {"0-shot", *FEW, TUNED}),
        ("two-phases-core", {"0-shot", "5-shot", TUNED}),
        ("subjects-more-shots", {"1-shot", "5-shot"}),
        ("answers-learnt", {FIRST, CHECKPOINT}),
        ("same-accuracy", {"5-shot", TUNED}),
        ("answers-fine-tuned", {"0-shot", TUNED}),
    ],
)
def test_a_claim_is_about_the_conditions_that_it_asks_for(claim: str, conditions: set[str]) -> None:
    asked: Asked = set()
    verdict(claim, PAPER, asked)
    assert {name for name, _ in asked} == conditions


def test_an_accuracy_that_no_draw_has_leaves_the_interval_open() -> None:
    def without(one: Landscape) -> Landscape:
        return replace(one, draws=tuple(replace(draw, accuracy=None) for draw in one.draws))

    contrast = Contrast.of(lambda of: of.most_shots.known_accuracy, 0.5, None)
    found = contrast.outcome("model", {"5-shot": without(PAPER["5-shot"])})
    assert (found.effect, found.interval) == (0.64, (-np.inf, np.inf))
    model = {name: without(one) for name, one in PAPER.items()}
    assert verdict("same-accuracy", model) == "inconclusive"


def test_models_between_two_accuracies_are_on_neither_side() -> None:
    for accuracy in (0.57, 0.61):
        between = with_accuracy(PAPER, **{"0-shot": accuracy})
        assert "below 0.56 or above 0.62" in verdict("subjects-accuracy", between)
    weak = changed(PAPER, "0-shot", ari_subjects=phases(0.1, 0.05))
    assert verdict("subjects-accuracy", with_accuracy(weak, **{"0-shot": 0.55})) == "reproduced"


def test_what_does_not_group_has_no_grouping_to_lose() -> None:
    never = changed(PAPER, "5-shot", ari_subjects=phases(0.09, 0.0))
    assert "early layers group by subject" in verdict("subjects-fade", never)


def test_learning_is_judged_of_models_that_learn() -> None:
    for learns_little in ({CHECKPOINT: 0.5}, {FIRST: 0.9}):
        assert "right are less than half, then more" in verdict(
            "answers-learnt", with_accuracy(PAPER, **learns_little)
        )
    alone = {name: one for name, one in PAPER.items() if name != FIRST}
    assert "2 or more; there are 1" in verdict("answers-learnt", alone)
