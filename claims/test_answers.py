"""The paper's section 4.3: the answers are modes of the late layers only."""

import pytest

from fixtures.plugin import ConditionSet, Judge


@pytest.mark.claim("answers-late")
def test_answers_are_no_modes_before_the_transition(landscapes: ConditionSet, judge: Judge) -> None:
    """Before the transition the density peaks are not the answers, in any condition."""
    # 0.02: the paper says about 0; the largest of the authors' own early values is 0.003.
    judge(
        max(one.curve("ari_answers").between(0, 0.35).maximum for one in landscapes.all),
        at_most=0.02,
        conditions=landscapes.all,
        layers="the maximum within depth 0 to 0.35",
    )
