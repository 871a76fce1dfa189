"""From a question and its shots to the text that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.questions.question import LETTERS, Question

ShotOrder = Literal["shuffled", "kept"]


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt is made.

    shots: example questions before the asked one.
    shot_order: `shuffled` draws the order of the shots anew for every question, as the paper
        does; `kept` leaves them in the dataset's order.
    seed: of the shot order.
    """

    shots: int = 0
    shot_order: ShotOrder = "shuffled"
    seed: int = 42


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
    solved = "".join(f"{ask(shot)} {shot.letter}\n\n" for shot in used)
    return header + solved + ask(question)


def ask(question: Question) -> str:
    """Return the question, its four choices and `Answer:`, one a line."""
    choices = (
        f"{letter}. {choice.strip()}"
        for letter, choice in zip(LETTERS, question.choices, strict=True)
    )
    return "\n".join((question.text.strip(), *choices, "Answer:"))
