"""What a stopped training goes on from: the adapter, the optimizer, and what was told so far.

A folder `state-000050` holds `tensors.safetensors` and `progress.json` after so many steps. The
learning rate, the order of the questions and the random numbers are functions of the step, so no
state of theirs is kept.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def save_state(folder: Path, steps: int | None, tensors: Any = None, told: Any = None) -> None:
    """Write the state after `steps` steps, whole or not at all, and drop the older ones.

    tensors: by name; told: what JSON can hold. With None as `steps` only drop what is there.
    """
    older = list(folder.glob("state-*")) + list(folder.glob(".state-*"))
    if steps is not None:
        unfinished = folder / f".state-{steps:06d}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        save_file(tensors, unfinished / "tensors.safetensors")
        (unfinished / "progress.json").write_text(json.dumps(told), encoding="utf-8")
        unfinished.rename(folder / f"state-{steps:06d}")
    for state in older:
        if steps is None or state.name.lstrip(".") != f"state-{steps:06d}":
            shutil.rmtree(state, ignore_errors=True)


def load_state(folder: Path) -> tuple[int, dict[str, Tensor], Any] | None:
    """Return the steps, tensors and told of the newest state in `folder`, or None."""
    states = sorted(folder.glob("state-*"))
    if not states:
        return None
    told = json.loads((states[-1] / "progress.json").read_text(encoding="utf-8"))
    return int(states[-1].name.split("-")[1]), load_file(states[-1] / "tensors.safetensors"), told
