"""Which questions train a model, so that none of them is analysed with it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from harness.protocol import Subset


def split_test(per_subject: int, analysed: Subset) -> tuple[Subset, Subset]:
    """Return the training questions, `per_subject` of the test split, and the rest to analyse."""
    training = Subset("test", per_subject)
    return training, replace(analysed, without=training)


def without_training(training: Subset, analysed: Subset) -> Subset:
    """Return `analysed` without what trains a model: a dataset may hold a question twice.

    Of other splits than the analysed one all questions are left out, so that what is analysed does
    not depend on how many of them are drawn.
    """
    if analysed.split in training.split.split("+"):
        return replace(analysed, without=training)
    return replace(analysed, leave_out=training.split)


class Division(NamedTuple):
    """The questions that train a model, and those that it is analysed on; none is both.

    validation: the split that is asked during the training.
    """

    training: Subset
    validation: str
    analysed: Subset


def divide_questions(training: Subset, analysed: Subset, train_from_test: int | None) -> Division:
    """Return what trains, what is asked meanwhile, and what is left to analyse.

    training, analysed: as they are asked for. train_from_test: train on so many questions a
        subject of the test split instead.
    """
    if train_from_test:
        training, analysed = split_test(train_from_test, analysed)
        return Division(training, "dev", analysed)
    return Division(training, "validation", without_training(training, analysed))
