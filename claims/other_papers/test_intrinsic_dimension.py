"""Janapati and Ji 2024 (arXiv 2412.06245): the intrinsic dimension tells two ways to learn apart.

They measure it with other estimators, prompts and datasets; here it is Gride's, on MMLU.
"""

import pytest

from claims.scope import authors_curves
from fixtures.conditions import ConditionSet
from fixtures.judging import Judge

SOURCE = "arXiv 2412.06245"


@pytest.mark.claim(
    "few-shot-id-higher",
    source=SOURCE,
    exceptions=authors_curves(
        dict.fromkeys(
            ("llama-2-7b", "llama-2-70b", "llama-3-70b", "llama-3-8b", "mistral-7b"),
            "in the curves of arXiv 2409.03662 the fine-tuned ID is the higher",
        )
    ),
)
def test_the_dimension_is_higher_with_shots_than_after_fine_tuning(judge: Judge) -> None:
    """The intrinsic dimension with shots is higher than after fine-tuning, over all layers."""

    def excess(of: ConditionSet) -> float:
        few, tuned = (one.curve("intrinsic_dimension") for one in (of.most_shots, of.fine_tuned))
        return few.mean / tuned.mean - 1

    # 0: the paper says higher, and gives sizes for its own estimators only.
    judge(
        excess,
        at_least=0.0,
        meaning="by what share the mean ID over all layers is higher with shots than fine-tuned",
    )
