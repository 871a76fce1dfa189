"""Measure representations that were extracted, in the folder that the store keeps them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from harness.answers import right_answers
from harness.extraction.shards import read_layer, saved_layers
from harness.landscape import Landscape
from harness.layer_curves import measure_curves
from harness.measurement import Labels
from harness.protocol import Control, GeometrySettings
from harness.questions.categories import CATEGORIES
from harness.questions.question import Question, QuestionSet


def measure_extracted(
    folder: Path,
    questions: QuestionSet,
    labels: Labels,
    given: Sequence[str] | None,
    settings: GeometrySettings,
    model: str,
    condition: str,
    description: str,
    before: Path | None = None,
) -> Landscape:
    """Return the landscape of the N questions' representations, without its origin.

    labels: that clusters are compared with, N of each.
    given: the N letters that the model gives; None without a network, whose accuracy is not known.
    model, condition: their names in the landscape; description: of both, for the bars.
    before: the folder of those before fine-tuning, to measure the overlap with.

    Raises GeometryError as `measure_curves` does, RecordError as `read_layer` does.
    """
    layers = saved_layers(folder)
    found = measure_curves(
        layers,
        partial(read_layer, folder),
        labels,
        settings,
        description,
        partial(read_layer, before) if before else None,
    )
    right = None if given is None else right_answers(given, questions.questions)
    return found.landscape(model, condition, len(questions.subjects), right)


def labels_under(
    control: Control,
    questions: Sequence[Question],
    shots: Mapping[int, Sequence[Question]],
    given: Sequence[str] | None,
) -> Labels:
    """Return the labels that clusters of N questions are compared with under a control.

    shots: of every question, by its row, at least one where the control's labels are theirs.
    given: the N letters that the model gives; None without a network.
    """
    subjects = [question.subject for question in questions]
    answers = [question.letter for question in questions]
    if control.labels == "shots":
        subjects = [shots[question.row][0].subject for question in questions]
    labels = Labels(subjects, answers, CATEGORIES, given)
    if control.labels == "shuffled":
        labels = labels.of(np.random.default_rng(control.seed).permutation(len(questions)))
    return labels
