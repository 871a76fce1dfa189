"""The command, as `accelerate launch --use_fsdp --fsdp_version 2` runs it, with processes on CPUs.

accelerate spreads a model over GPUs only: of its processes it is told here that they have some
other device. What it then does to the model, the optimizer and the gradients is all its own.
"""

import os

from accelerate import PartialState
from accelerate.utils import DistributedType

from harness.cli import main

os.environ |= {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}

if __name__ == "__main__":
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    main()
