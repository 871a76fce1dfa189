"""What a stopped training goes on from: the adapter, the optimizer, and what was told so far.

A hidden folder `.state-000050` holds `tensors.safetensors` and `progress.json` after so many steps,
and the checksums of both and of the checkpoints until then. The learning rate, the order of the
questions and the random numbers are functions of the step, so no state of theirs is kept.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from harness.checksums import damaged, seal

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
Parameters = Iterable[tuple[str, nn.Parameter]]


def save_state(
    folder: Path,
    steps: int,
    tensors: Mapping[str, Tensor],
    told: Any,
    checkpoints: Iterable[Path] = (),
) -> None:
    """Write the state after `steps` steps, whole or not at all, and drop the older ones.

    told: what JSON can hold.
    checkpoints: folders that have to be as they are now when the state is gone on from.

    Raises OSError or SafetensorError where the disk refuses it.
    """
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was stopped here
    unfinished.mkdir()
    save_file(dict(tensors), unfinished / TENSORS)
    (unfinished / PROGRESS).write_text(json.dumps(told), encoding="utf-8")
    kept = [file for checkpoint in checkpoints for file in checkpoint.iterdir()]
    seal(unfinished, [unfinished / TENSORS, unfinished / PROGRESS, *kept])
    state = _state(folder, steps)
    shutil.rmtree(state, ignore_errors=True)  # one that was damaged
    unfinished.rename(state)
    for older in set(folder.glob(".state-*")) - {state}:
        shutil.rmtree(older, ignore_errors=True)


def newest_state(folder: Path) -> int:
    """Return the steps of the newest state in `folder` that is whole, with its checkpoints; or 0.

    Warns of one that is not.
    """
    for state in sorted(folder.glob(".state-*"), reverse=True):
        file = damaged(state, only_listed=True)
        if file is None:
            return int(state.name.split("-")[1])
        warnings.warn(f"{state}: {file} is not what was written; it is not used", stacklevel=2)
    return 0


def load_state(folder: Path, steps: int) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of the state after `steps` steps, and what was told.

    Raises OSError if they are not there; that they are whole, `newest_state` has seen.
    """
    state = _state(folder, steps)
    told = json.loads((state / PROGRESS).read_text(encoding="utf-8"))
    return load_file(state / TENSORS), told


def _state(folder: Path, steps: int) -> Path:
    return folder / f".state-{steps:06d}"


def gather(tensor: Tensor) -> Tensor:
    """Return a copy of `tensor` on the CPU, whole also where FSDP has spread it over processes."""
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()
    return whole.to("cpu", copy=True)


def tensors_of(
    parameters: Parameters, optimizer_state: Mapping[Tensor, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return named `parameters` as `weight.NAME`, and the optimizer's of each as `KEY.NAME`.

    KEY: as torch's optimizer calls it, such as `exp_avg`. All are copies on the CPU.
    """
    found = {}
    for name, parameter in parameters:
        found[f"weight.{name}"] = gather(parameter)
        for key, one in optimizer_state.get(parameter, {}).items():
            found[f"{key}.{name}"] = gather(one)
    return found


def put_back(
    tensors: Mapping[str, Tensor],
    parameters: Parameters,
    optimizer_state: MutableMapping[Tensor, dict[str, Any]],
) -> None:
    """Give `parameters` and the optimizer what `tensors_of` returned, spread out as they are.

    Raises KeyError for a parameter that it lacks.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for label, tensor in tensors.items():
        key, _, name = label.partition(".")
        by_name.setdefault(name, {})[key] = tensor
    for name, parameter in parameters:
        whole = by_name[name]
        parameter.data.copy_(_like(whole.pop("weight"), parameter))
        optimizer_state[parameter] = {
            key: one.clone() if one.dim() == 0 else _like(one, parameter)
            for key, one in whole.items()
        }


def _like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return `whole` on the device, and spread over the processes, that `parameter` is on."""
    whole = whole.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements)
    return whole
