"""A multiple-choice question, and the questions of one experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    choices: four texts; answer: the number of the right one, 0 to 3; subject: MMLU's name of it.
    `row` is its row number in the split that it comes from: the seed of its shot order depends
    on it, so that a smaller subset asks the same prompts.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    row: int

    @property
    def letter(self) -> str:
        """The letter of the right answer."""
        return LETTERS[self.answer]

    @cached_property
    def digest(self) -> str:
        """What tells questions apart by what they ask, wherever they stand: 16 hex digits.

        A dataset may hold the same question twice, so rows do not tell.
        """
        asked = [self.text.strip(), *(choice.strip() for choice in self.choices)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class QuestionSet:
    """The analysed questions, the example questions (shots) of every subject, and their origin.

    The fingerprints are the sha256 of all that prompts are made from, without shots and with them,
    so results that are kept under them never outlive a change of the dataset.
    """

    name: str
    questions: Sequence[Question]
    shots: Mapping[str, Sequence[Question]]

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the questions."""
        return _fingerprint(self.questions)

    @cached_property
    def shots_fingerprint(self) -> str:
        """What identifies the questions and their shots."""
        shots = [shot for subject in sorted(self.shots) for shot in self.shots[subject]]
        return _fingerprint([*self.questions, *shots])

    @property
    def subjects(self) -> list[str]:
        """The subjects of the analysed questions, sorted."""
        return sorted({question.subject for question in self.questions})


def _fingerprint(questions: Iterable[Question]) -> str:
    digest = hashlib.sha256()
    for question in questions:
        fields = [question.text, question.choices, question.answer, question.subject, question.row]
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()
