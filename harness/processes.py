"""The processes of one launch: those of torchrun or `accelerate launch`, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from harness.errors import SettingsError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Process number `rank` of `count` that do the same work side by side."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of `items`; the parts of all processes are all items."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def agree(self, answer: int) -> int:
        """Return the main process's answer in every process."""
        if self.count == 1:
            return answer
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast

        told = torch.tensor(answer, device=PartialState().device)
        return int(broadcast(told, from_process=0).item())


ALONE = Processes()


def launched_processes() -> Processes:
    """Return the processes that this one was launched with, connected through accelerate."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    # Imported late: torch takes seconds, and most commands run alone.
    import torch
    from accelerate import PartialState

    # Where one process finds its part done already, it waits for the others: for hours, maybe.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    return Processes(state.process_index, state.num_processes)


def is_spread() -> bool:
    """Return whether accelerate was told to spread the model over the processes (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_spreading() -> None:
    """Raise SettingsError for an FSDP that a training here does not go with."""
    if not is_spread():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SettingsError("FSDP is of version 1; give accelerate --fsdp_version 2")
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP") == "NO_WRAP":
        raise SettingsError(
            "without a policy FSDP puts the whole model on every GPU for a pass; give accelerate "
            "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP"
        )
    if os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true":
        # It would draw other dropout masks when it computes activations again.
        raise SettingsError(
            "--fsdp_activation_checkpointing is set; use --activation-checkpointing of finetune"
        )
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    launched_processes()  # or accelerate would not know which device it is told to use
    if PartialState().distributed_type in {DistributedType.NO, DistributedType.MULTI_CPU}:
        # It would leave the model whole, without a word.
        raise SettingsError("--use_fsdp: accelerate spreads a model over several GPUs only")
