"""What it cost to make a thing that the store keeps: time, on which device, with which versions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.disk import write_whole
from harness.errors import UserError

FILE = "cost.json"
MADE_WITH = ("torch", "transformers")


@contextmanager
def counted(folder: Path, device: str) -> Iterator[None]:
    """Add the seconds that the body takes to those that `folder` has cost.

    A body that raises counts too: what it had made is gone on from. One that is killed does not.

    Raises SettingsError where the disk refuses it.
    """
    started = time.monotonic()
    try:
        yield
    except BaseException:
        with suppress(UserError):  # what went wrong first is what matters
            _add(folder, started, device)
        raise
    _add(folder, started, device)


def _add(folder: Path, started: float, device: str) -> None:
    # Nothing is left where nothing was made.
    if folder.is_dir() and any(path.name != FILE for path in folder.iterdir()):
        before = read_cost(folder).get("seconds")
        seconds = time.monotonic() - started + (before if isinstance(before, float) else 0.0)
        versions = {name: version(name) for name in MADE_WITH}
        told = {"seconds": seconds, "device": device, "versions": versions}
        write_whole(folder / FILE, json.dumps(told) + "\n")


def read_cost(folder: Path) -> dict[str, Any]:
    """Return the seconds, the device and the versions of `folder`; nothing if that was not kept.

    Raises OSError if it cannot be read.
    """
    file = folder / FILE
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError:  # of a run that was stopped, and damaged: no reason to compute again
        found = {}
    return found if isinstance(found, dict) else {}


def made_with(folder: Path) -> dict[str, str]:
    """Return the versions that made what is in `folder`, by the names of MADE_WITH.

    Raises OSError as `read_cost` does.
    """
    kept = read_cost(folder).get("versions")
    known = kept if isinstance(kept, dict) else {}
    return {name: str(known.get(name, "not recorded")) for name in MADE_WITH}
