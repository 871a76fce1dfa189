"""What a training leaves: adapters in `step-000001` ... and `final`, and `training.json`."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.errors import RecordError, SettingsError
from harness.protocol import PromptFormat, Subset
from harness.schemas import Table, check_table, read_file, read_schema

RECORD = "training.json"
SCHEMA = read_schema(Path(__file__).with_name("training.schema.json"))
WAY_OUT = "fine-tune again, or remove it if it is of another program"
FINAL = "final"
FINE_TUNED = "fine-tuned"  # the condition of the final adapter
STEP = re.compile(r"step-\d+", re.ASCII)


def checkpoint_name(step: int) -> str:
    """Return the name of the adapter's folder after so many steps."""
    return f"step-{step:06d}"


def checkpoint_step(folder: Path) -> int:
    """Return the number of steps after which `folder`'s adapter was kept.

    Raises ValueError for a folder of another name.
    """
    return int(folder.name.removeprefix("step-"))


def checkpoint_condition(step: int) -> str:
    """Return the name of the condition of the adapter after so many steps."""
    return f"{FINE_TUNED}@{step}"


def read_record(adapters: Path) -> Table:
    """Return the record in a folder of checkpoints. Raises RecordError for a bad file."""
    file = adapters / RECORD
    return check_table(read_file(file, WAY_OUT), SCHEMA, str(file), WAY_OUT)


def record_file(adapter: Path) -> Path | None:
    """Return the file with the record of the training that made `adapter`; None if it has none.

    It is beside the adapter's folder, or beside the link to it that was given.
    """
    beside = (adapter.resolve().parent / RECORD, adapter.parent / RECORD)
    return next((file for file in beside if file.is_file()), None)


def record_of(adapter: Path) -> Table | None:
    """Return the record of the training that made `adapter`; None if it has none.

    Raises RecordError for a bad file.
    """
    file = record_file(adapter)
    return read_record(file.parent) if file else None


def training_questions(adapter: Path) -> Subset:
    """Return the questions that trained `adapter`.

    Raises RecordError where no record tells, SettingsError for questions that cannot be meant.
    """
    told = (record_of(adapter) or {}).get("trained_on", {})
    if "split" not in told:
        raise RecordError(
            f"{record_file(adapter) or adapter}: does not tell which questions trained the "
            f"adapter; give one with its {RECORD} beside it"
        )
    known: dict[str, Any] = {}
    for one in fields(Subset):
        if one.name in told:
            value = told[one.name]
            known[one.name] = int(value) if isinstance(value, float) else value  # 2.0 is whole too
    return Subset(**known)


def adapter_condition(adapter: Path, prompt: PromptFormat) -> str:
    """Return the condition in which `adapter` is asked questions that did not train it.

    `fine-tuned` of a whole training and without shots; of a checkpoint on its way, or with shots,
    a name that no claim asks for. Never that of the model without it.
    """
    parts = [FINE_TUNED]
    if STEP.fullmatch(adapter.name):
        parts.append(adapter.name)
    if prompt.shots:
        parts.append(prompt.condition)
    return "-".join(parts)


def training_condition(adapter: Path) -> str:
    """Return the condition in which `adapter` is asked the questions that trained it.

    Raises SettingsError for a folder whose name does not tell its step, RecordError for a bad file.
    """
    if STEP.fullmatch(adapter.name):
        return checkpoint_condition(checkpoint_step(adapter))
    record = record_of(adapter)
    if adapter.name == FINAL and record:
        return checkpoint_condition(len(record["loss"]))
    raise SettingsError(
        f"{adapter}: its name does not tell after how many steps it was kept; say it as "
        f"--condition {checkpoint_condition(10)}"
    )
