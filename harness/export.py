"""Hand representations out as plain files, for other programs."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import save_file

from harness.accuracy import ACCURACY, Accuracy
from harness.answers import given_letters
from harness.disk import check_folder, explained, locked, share
from harness.errors import SettingsError
from harness.extraction.shards import read_layer, saved_layers
from harness.questions.question import Question


def check_export(folder: Path) -> None:
    """Raise SettingsError if `folder` already holds something, or cannot be written.

    Nothing is ever written over.
    """
    for part in (folder, folder.absolute().parent):  # it is made beside, and renamed
        check_folder(part, "as --out-dir")
    if os.path.ismount(folder):
        raise SettingsError(f"{folder}: is a disk of its own; give a folder in it as --out-dir")
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder}: holds something already; give a new folder as --out-dir")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` when it is whole.

    Raises SettingsError if the disk refuses it, or if it holds something, as of a faster run.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with explained(folder, "as --out-dir"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, str(folder)):  # of two runs the other one waits, and is then refused
            try:
                check_export(folder)
                shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was stopped
                unfinished.mkdir()
                yield unfinished
                if folder.exists():
                    folder.rmdir()
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)


def export(
    representations: Path,
    questions: Sequence[Question],
    kept: Sequence[int],
    accuracy: Accuracy,
    settings: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write the rows `kept` of the store's `representations` to `folder`, whole or not at all.

    A safetensors file a layer, `layer-001.safetensors` with one tensor `representations` (rows,
    width); `labels.csv` with a line a row (question, subject, answer, given: the question's row in
    its split, the subject's name, the right letter, the model's); `accuracy.json`, of all rows, the
    kept and the others; `settings.json`, what made them.

    Raises SettingsError if the folder holds something, or the disk refuses it.
    """
    given = given_letters(representations)
    with new_folder(folder) as unfinished:
        for layer in saved_layers(representations):
            states = read_layer(representations, layer)[list(kept)]
            file = unfinished / f"layer-{layer:03d}.safetensors"
            save_file({"representations": states}, file)
            share(file)
        with (unfinished / "labels.csv").open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(("question", "subject", "answer", "given"))
            writer.writerows(
                (questions[row].row, questions[row].subject, questions[row].letter, given[row])
                for row in kept
            )
        for name, table in ((ACCURACY, accuracy.to_table()), ("settings.json", settings)):
            text = json.dumps(table, indent=1, sort_keys=True) + "\n"
            (unfinished / name).write_text(text, encoding="utf-8")


def first_of_each(prompts: Sequence[str]) -> list[int]:
    """Return the rows, ascending, of the prompts that are not the same as an earlier one."""
    return sorted({prompt: row for row, prompt in reversed(list(enumerate(prompts)))}.values())
