"""What a stopped training goes on from: the adapter, the optimizer, and what was told so far.

A folder `state-000050` holds `tensors.safetensors` and `progress.json` after so many steps. The
learning rate, the order of the questions and the random numbers are functions of the step, so no
state of theirs is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Parameters = Iterable[tuple[str, nn.Parameter]]


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


def gather(tensor: Tensor) -> Tensor:
    """Return a copy of `tensor` on the CPU, whole also where FSDP has spread it over processes."""
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()
    return whole.to("cpu", copy=True)


def tensors_of(
    parameters: Parameters, optimizer_state: Mapping[Tensor, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return named `parameters` as `weight.NAME`, and the optimizer's of each as `KEY.NAME`."""
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
    """Give `parameters` and the optimizer what `tensors_of` returned, spread out as they are."""
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
