"""What a result comes from: settings, bytes and versions, and its adapter's training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.names import dataset_name
from harness.processes import launched_processes
from harness.protocol import Control, ExtractionSettings, GeometrySettings, PromptFormat, Subset
from harness.questions.question import QuestionSet
from harness.schemas import Table
from harness.training_record import RECORD

Settings = Subset | PromptFormat | ExtractionSettings | GeometrySettings | Control


def origin(
    fingerprint: str,
    questions: QuestionSet,
    with_shots: bool,
    settings: Sequence[Settings],
    training: Table | None,
) -> dict[str, Any]:
    """Return what the results of one condition come from.

    fingerprint: of the model.
    settings: kept under the names of their types; a control that is none is left out.
    training: the record of the adapter's, empty where it has none; None without an adapter.
    """
    return {
        "model": fingerprint,
        "dataset": dataset_name(questions.name),
        "questions": len(questions.questions),
        "questions_fingerprint": questions.fingerprint,
        "shots_fingerprint": questions.shots_fingerprint if with_shots else None,
        "trained_on": None if training is None else _trained_on(training),
        "FineTuning": training.get("FineTuning") if training else None,
        **{type(part).__name__: _placeless(asdict(part)) for part in settings if part != Control()},
        "versions": {name: version(name) for name in ("torch", "transformers", "dadapy")},
    }


def _trained_on(training: Table) -> dict[str, Any] | str:
    found = training.get("trained_on")
    return (
        _placeless(found) | {"dataset": dataset_name(found["dataset"])} if found else "not recorded"
    )


def _placeless(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a file of rows is told by its name, wherever it lies."""
    rows = settings.get("rows")
    return settings | {"rows": os.path.basename(rows)} if rows else settings


def warn_of_another_model(adapter: Path, training: Table, model: str, fingerprint: str) -> None:
    """Warn of an adapter that was trained on other bytes, or another commit, than the model's.

    Of a folder and a hub name nothing can be told: the one may be a copy of the other.

    training: the record of the adapter's, empty where it has none. model, fingerprint: of the model
        that it is put on.
    """
    trained = training.get("model", fingerprint).split("; ")[0]
    same_kind = ("@" in trained) == ("@" in fingerprint)
    if trained != fingerprint and same_kind and launched_processes().is_main:
        warnings.warn(
            f"{adapter}: was trained on other files than those of {model}, as "
            f"{RECORD} beside it tells; that may be another model",
            stacklevel=2,
        )
