"""From a question and its shots to the text that the model reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.protocol import PromptFormat
from harness.questions.question import LETTERS, Question


def build_prompt(question: Question, shots: Sequence[Question], prompt: PromptFormat) -> str:
    """Return the prompt of `question`, which ends with `Answer:`.

    shots: the example questions of its subject; the first `prompt.shots` are used.

    Source: `construct_prompt` of the paper's repository (utils/dataset_utils.py).
    """
    used = list(shots[: prompt.shots])
    if prompt.shot_order == "shuffled":
        # Seeded by the row, not by a running generator: the prompt of a question does not
        # depend on which other questions are asked.
        order = np.random.default_rng([prompt.seed, question.row]).permutation(len(used))
        used = [used[index] for index in order]
    subject = question.subject.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    if not prompt.header:
        header = ""
    solved = "".join(f"{format_question(shot)} {shot.letter}\n\n" for shot in used)
    return header + solved + format_question(question)


def format_question(question: Question) -> str:
    """Return the question, its four choices and `Answer:`, one a line."""
    choices = (
        f"{letter}. {choice.strip()}"
        for letter, choice in zip(LETTERS, question.choices, strict=True)
    )
    return "\n".join((question.text.strip(), *choices, "Answer:"))
