"""Which shots a question gets: its subject's, or others for a null control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import DatasetError
from harness.protocol import Control
from harness.questions.question import Question, QuestionSet


def deal_shots(asked: QuestionSet, control: Control) -> dict[int, Sequence[Question]]:
    """Return the shots of every question, by its row.

    `other`: those of one other subject, drawn for every question (for every subject, the shots'
        subjects would tell the same questions apart as the questions' do).
    `mixed`: as many, each of any subject, its own included.

    Raises DatasetError where there is no other subject.
    Source: this project's; the paper has no null controls.
    """
    if control.shots == "own":
        return {question.row: asked.shots[question.subject] for question in asked.questions}
    subjects = sorted(asked.shots)
    pool = [shot for subject in subjects for shot in asked.shots[subject]]
    if len(subjects) < 2:
        raise DatasetError(f"{asked.name}: has one subject only; the control of shots needs two")
    dealt: dict[int, Sequence[Question]] = {}
    for question in asked.questions:
        draw = np.random.default_rng([control.seed, question.row])
        if control.shots == "mixed":
            count = len(asked.shots[question.subject])
            dealt[question.row] = [pool[one] for one in draw.permutation(len(pool))[:count]]
        else:
            others = [subject for subject in subjects if subject != question.subject]
            dealt[question.row] = asked.shots[others[draw.integers(len(others))]]
    return dealt
