"""The device that computes here, what it has instructions for, and how fast it is.

torch is imported late: it takes seconds, and a report that only reads does not need it.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import TYPE_CHECKING

from harness.processes import launched_processes
from harness.protocol import Precision

if TYPE_CHECKING:
    import torch

# A processor's instructions for bfloat16, as torch calls them: of x86-64, and of ARM.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


def default_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    # One process a GPU of its machine, by the number that the launcher gives it there.
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())  # a process may see its own only


def device_with_room(wanted: int) -> torch.device:
    """Return this process's GPU if so many bytes are free there, else the CPU."""
    import torch

    device = default_device()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what this process keeps but does not use is free
        if torch.cuda.mem_get_info(device)[0] < wanted:
            return torch.device("cpu")
    return device


def device_name() -> str:
    """Return what models run on here: the GPU's name, or cpu."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_precision(on_gpu: bool | None = None) -> Precision:
    """Return bfloat16, the paper's; float32 without a GPU, on a processor that lacks bfloat16.

    There it takes a fraction of bfloat16's time. Processes of one launch return the same.

    on_gpu: whether one will compute; None is as this process does.
    """
    if on_gpu is None:
        on_gpu = default_device().type != "cpu"
    return "bfloat16" if launched_processes().agree(on_gpu or has_bfloat16()) else "float32"


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16; yes where torch can't say."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    known = torch.cpu.get_capabilities()
    told = [known[name] for name in BFLOAT16 if name in known]
    return any(told) or not told


@cache
def product_rate(device: torch.device, dtype: torch.dtype, times: int = 12) -> float:
    """Return the operations a second of a 4096-cubed matrix product: the best of `times`."""
    import torch

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    one, other = torch.randn(2, 4096, 4096, dtype=dtype, device=device)
    best = math.inf
    for _ in range(times):
        finish()
        begin = time.perf_counter()
        one @ other
        finish()
        best = min(best, time.perf_counter() - begin)
    return 2 * 4096**3 / best
