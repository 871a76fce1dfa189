"""The device that computes here, and the precision that it has instructions for.

torch is imported late: it takes seconds, and a report that only reads does not need it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.protocol import Precision

if TYPE_CHECKING:
    import torch

BFLOAT16_CAPABILITY = (8, 0)  # of a GPU: Ampere, the first that multiplies in it


def default_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    # One process a GPU of its machine, by the number that the launcher gives it there.
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())  # a process may see its own only


def device_name() -> str:
    """Return what models run on here: the GPU's name, or cpu."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_precision() -> Precision:
    """Return bfloat16, the paper's, where the device has instructions for it, and else float32.

    Without them bfloat16 takes several times as long as float32, and is no nearer to the paper's
    than float32 is.
    """
    return "bfloat16" if has_bfloat16(default_device()) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bfloat16; yes where torch can't say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    known = torch.cpu.get_capabilities()
    return known["architecture"] != "x86_64" or any(map(known.get, ("amx_bf16", "avx512_bf16")))
