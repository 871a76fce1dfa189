"""What a model answers, read from the folder that its representations are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.accuracy import Accuracy, accuracy
from harness.extraction.shards import read_letter_logits
from harness.questions.question import LETTERS, Question


def given_letters(folder: Path) -> list[str]:
    """Return the letter that the model gives to each of N questions, right or wrong.

    Raises RecordError as `read_letter_logits` does.
    """
    return [LETTERS[index] for index in read_letter_logits(folder).argmax(dim=1).tolist()]


def right_answers(given: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    """Return of each of N questions whether the letter that is given to it is the right one."""
    return [letter == question.letter for letter, question in zip(given, questions, strict=True)]


def answered(folder: Path, questions: Sequence[Question]) -> Accuracy:
    """Return how many of N questions the model answers right.

    Raises RecordError as `read_letter_logits` does.
    """
    right = right_answers(given_letters(folder), questions)
    return accuracy(right, [question.subject for question in questions])
