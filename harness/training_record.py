"""What a training leaves: adapters in `step-000001` ... and `final`, and `training.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.schemas import Table, check_table, read_file, read_schema

RECORD = "training.json"
SCHEMA = read_schema(Path(__file__).with_name("training.schema.json"))
WAY_OUT = "fine-tune again, or remove it if it is of another program"
FINAL = "final"


def checkpoint_name(step: int) -> str:
    """Return the name of the adapter's folder after so many steps."""
    return f"step-{step:06d}"


def checkpoint_step(folder: Path) -> int:
    """Return the number of steps after which `folder`'s adapter was kept."""
    return int(folder.name.removeprefix("step-"))


def read_record(adapters: Path) -> Table:
    """Return the record in a folder of checkpoints. Raises RecordError for a bad file."""
    file = adapters / RECORD
    return check_table(read_file(file, WAY_OUT), SCHEMA, str(file), WAY_OUT)


def learnt(adapter: Path) -> set[str]:
    """Return the digests of the questions that trained `adapter`; none if it is not recorded."""
    if not (adapter.parent / RECORD).is_file():
        return set()
    return set(read_record(adapter.parent)["learnt"])


def training(adapter: Path) -> tuple[dict[str, Any] | None, float | None]:
    """Return the settings that trained `adapter` and the seconds; None if it is not recorded."""
    if not (adapter.parent / RECORD).is_file():
        return None, None
    record = read_record(adapter.parent)
    return record["FineTuning"], record["seconds"]


def trained_on(adapter: Path) -> dict[str, Any] | str:
    """Return which data trained `adapter`, or `not recorded` for one of another origin."""
    if not (adapter.parent / RECORD).is_file():
        return "not recorded"
    return dict(read_record(adapter.parent)["trained_on"])
