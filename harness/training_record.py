"""What a training leaves: adapters in `step-000001` ... and `final`, and `training.json`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from harness.errors import RecordError
from harness.protocol import Subset
from harness.schemas import Table, check_table, read_file, read_schema

RECORD = "training.json"
SCHEMA = read_schema(Path(__file__).with_name("training.schema.json"))
WAY_OUT = "fine-tune again, or remove it if it is of another program"
FINAL = "final"
FINE_TUNED = "fine-tuned"  # the condition of the final adapter


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


def training_questions(adapter: Path) -> tuple[Subset, str]:
    """Return the questions that trained `adapter`, and the condition that it is asked them in.

    That is `fine-tuned@STEP`, as of the checkpoints that the claims measure.

    Raises RecordError where no record tells, SettingsError for questions that cannot be meant.
    """
    file, record = record_file(adapter), record_of(adapter)
    told = record["trained_on"] if record else {}
    if record is None or "split" not in told:
        raise RecordError(
            f"{file or adapter / '..' / RECORD}: does not tell which questions trained the "
            "adapter; say them with --split and --per-subject"
        )
    named = adapter.name.startswith("step-")
    step = checkpoint_step(adapter) if named else len(record["loss"])
    known = {one.name for one in fields(Subset)} & told.keys()
    return Subset(**{name: told[name] for name in known}), checkpoint_condition(step)
