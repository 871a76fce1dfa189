"""Where the paper compares fine-tuning with the model before it, and with shots."""

import pytest

from fixtures.plugin import ConditionSet, Judge
from harness.landscape import OVERLAP, Landscape

CHANCE = 0.25


@pytest.mark.claim("fine-tuning-is-late")
def test_fine_tuning_changes_the_late_layers_most(landscapes: ConditionSet, judge: Judge) -> None:
    """Fine-tuning changes the neighbourhoods of the late layers more than of the early ones."""

    def fall(of: ConditionSet) -> float:
        kept = of.last_checkpoint.curve(OVERLAP)
        return kept.between(0, 0.4).median - kept.between(0.6, 1).median

    # 0.1: half of the paper's falls, 0.5 to 0.3 (Llama-3-8b, Mistral) and 0.6 to 0.4 (Llama-3-70b).
    # What a random change of the same size would give is not known: it too adds up with depth.
    judge(
        fall,
        at_least=0.1,
        conditions=[landscapes.last_checkpoint],
        layers="medians of depth 0 to 0.4 and 0.6 to 1",
    )


@pytest.mark.claim("same-accuracy")
def test_shots_and_fine_tuning_answer_equally_well(landscapes: ConditionSet, judge: Judge) -> None:
    """The accuracies with shots and after fine-tuning are close all the same."""

    def difference(of: ConditionSet) -> float:
        return abs(known_accuracy(of.most_shots) - known_accuracy(of.fine_tuned))

    best = max(known_accuracy(one) for one in (landscapes.most_shots, landscapes.fine_tuned))
    if best < CHANCE + 0.05:
        pytest.skip(f"is about models that learn to answer; this one guesses ({best:.2f})")
    # 0.05: the paper says close and gives no size; five answers in a hundred.
    judge(
        difference,
        at_most=0.05,
        conditions=[landscapes.most_shots, landscapes.fine_tuned],
        layers="none: the answers",
    )


def known_accuracy(landscape: Landscape) -> float:
    """Return the accuracy; a claim about one that is not known is skipped."""
    if landscape.accuracy is None:
        pytest.skip(f"the accuracy of {landscape.model} is not known")
    return landscape.accuracy
