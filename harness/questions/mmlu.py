"""MMLU, or any dataset with its layout, from the hub or from a local folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DatasetError, SettingsError, first_line
from harness.protocol import Subset
from harness.questions.question import LETTERS, Question, QuestionSet

HUB_NAME = "cais/mmlu"
CONFIGURATION = "all"
COLUMNS = ("question", "subject", "choices", "answer")
PAPER_PER_SUBJECT = 200
MMLU_TEST_ROWS, MMLU_SUBJECTS = 14042, 57


def load_questions(source: str, subset: Subset, shots: int) -> QuestionSet:
    """Return the questions of `subset` and, per subject, its dev questions as shots.

    source: a hub name, or a folder with MMLU's layout (configuration `all`; splits; the columns
        question, subject, choices and answer).
    shots: the largest number of shots that will be asked for; 0 does not read `dev`.

    Raises DatasetError for a missing dataset, split or column, a row that is not a four-choice
    question, fewer dev questions in a subject than `shots`, no question left to ask, or a bad file
    of rows; SettingsError for shots of the split that is asked.
    Source: the paper's questions are those of its repository's `test_mask_200.npy`.
    """
    if shots and "dev" in {part.partition("[")[0] for part in subset.split.split("+")}:
        raise SettingsError(
            f"split {subset.split!r} holds 'dev', which the shots come from; ask it without shots"
        )
    everything = _read(source, subset.split)
    dev = _read(source, "dev") if shots else []
    pool = _rows(source, subset, everything)
    taken: set[str] = set()
    if subset.without:
        taken |= {one.digest for one in load_questions(source, subset.without, 0).questions}
    if subset.leave_out:
        taken |= {one.digest for one in _read(source, subset.leave_out)}
    if taken:
        pool = np.array([row for row in pool if everything[row].digest not in taken], dtype=int)
    questions = [everything[index] for index in _drawn(everything, pool, subset)]
    if not questions:
        way_out = "use fewer for training" if taken else "give another split, or other rows of it"
        raise DatasetError(
            f"{source}: split {subset.split!r} has no question left to ask; {way_out}"
        )
    by_subject = {
        subject: [shot for shot in dev if shot.subject == subject]
        for subject in sorted({question.subject for question in questions})
    }
    for subject, examples in by_subject.items():
        if len(examples) < shots:
            raise DatasetError(
                f"{source}: {shots} shots asked for, but split 'dev' has {len(examples)} "
                f"questions of subject {subject!r}; ask for fewer with --shots"
            )
    return QuestionSet(source, questions, by_subject)


def _read(source: str, split: str) -> list[Question]:
    # Imported late: a second, and not needed by who only asks for help or reads a record.
    import datasets

    if _looks_local(source) and not os.path.isdir(os.path.expanduser(source)):
        raise DatasetError(f"{source}: no such dataset folder; give a folder or a hub name")
    datasets.disable_progress_bars()
    try:
        table = _load(source, split)
    except Exception as error:  # the library raises a dozen kinds, and what matters is its text
        cause = error.__cause__ or error  # it often says only that something went wrong
        raise DatasetError(
            f"{source}: cannot read split {split!r} of configuration {CONFIGURATION!r} "
            f"({first_line(cause)}); it needs MMLU's layout"
        ) from error
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise DatasetError(
            f"{source}: split {split!r} has no column {missing[0]!r}; "
            f"MMLU's columns are {', '.join(COLUMNS)}"
        )
    rows = table.select_columns(list(COLUMNS)).to_list()  # at once, or each is a query of its own
    return [_question(source, split, index, row) for index, row in enumerate(rows)]


def _load(source: str, split: str) -> Any:
    import datasets

    folder = os.path.expanduser(source)
    if not os.path.isdir(folder):
        return datasets.load_dataset(source, CONFIGURATION, split=split)
    # The library's cache can take one local folder for another of the same name and serve its
    # rows, so a folder is read anew.
    with tempfile.TemporaryDirectory() as cache:
        return datasets.load_dataset(
            folder,
            CONFIGURATION,
            split=split,
            cache_dir=cache,
            keep_in_memory=True,
        )


def _question(source: str, split: str, index: int, row: dict[str, object]) -> Question:
    where = f"{source}: split {split!r}, row {index}"
    text, subject, choices, answer = (row[column] for column in COLUMNS)
    if not isinstance(text, str) or not isinstance(subject, str):
        raise DatasetError(f"{where}: 'question' and 'subject' must be text; mend or drop the row")
    for column, value in (("question", text), ("subject", subject)):
        if not value.strip():
            raise DatasetError(f"{where}: {column!r} is empty; mend or drop the row")
    if not isinstance(choices, list | tuple) or len(choices) != len(LETTERS):
        raise DatasetError(f"{where}: 'choices' must be {len(LETTERS)} texts; mend or drop the row")
    if not all(isinstance(choice, str) for choice in choices):
        raise DatasetError(f"{where}: 'choices' must be texts; mend or drop the row")
    if type(answer) is not int or not 0 <= answer < len(LETTERS):
        raise DatasetError(f"{where}: 'answer' is {answer!r}, not 0 to 3; mend or drop the row")
    return Question(text, tuple(choices), answer, subject, index)


def _rows(source: str, subset: Subset, questions: Sequence[Question]) -> NDArray[np.int64]:
    """Row numbers, ascending, of the questions that the subset is drawn from."""
    rows = np.arange(len(questions))
    if subset.rows:
        return _read_rows(subset.rows, source, subset.split, len(questions))
    subjects = {question.subject for question in questions}
    if subset.split == "test" and (len(rows), len(subjects)) == (MMLU_TEST_ROWS, MMLU_SUBJECTS):
        # The paper drew its 200 a subject once and published the rows (test_mask_200.npy, MIT).
        with resources.files("harness.questions").joinpath("mmlu_subset.npy").open("rb") as file:
            rows = rows[np.unpackbits(np.load(file), count=MMLU_TEST_ROWS).astype(bool)]
    return rows


def _read_rows(file: str, source: str, split: str, count: int) -> NDArray[np.int64]:
    try:
        rows = np.load(file, allow_pickle=False)
    except Exception as error:  # what numpy raises for damaged files has no end
        raise DatasetError(f"{file}: cannot be read as .npy; give a file of row numbers") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DatasetError(f"{file}: not a list of row numbers; save one as .npy")
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise DatasetError(
            f"{file}: has row {rows.max() if rows.max() >= count else rows.min()}, but split "
            f"{split!r} of {source} has rows 0 to {count - 1}; give the file made for this split"
        )
    return np.unique(rows).astype(np.int64)


def _drawn(
    questions: Sequence[Question], rows: NDArray[np.int64], subset: Subset
) -> NDArray[np.int64]:
    """Row numbers of the questions drawn from `rows`, ascending."""
    subjects = np.array([question.subject for question in questions])
    names = np.unique(subjects)
    limit = subset.per_subject or (None if subset.rows else PAPER_PER_SUBJECT)
    drawn = []
    for number, name in enumerate(names):
        own = rows[subjects[rows] == name]
        order = np.random.default_rng([subset.seed, number]).permutation(len(own))
        drawn.append(own[order[:limit]])
    return np.sort(np.concatenate(drawn)) if drawn else rows


def _looks_local(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1
