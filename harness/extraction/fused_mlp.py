"""Gated MLPs whose activation and gate are computed in the products, as the outputs are written.

Apart, they read and write the widest states of a block twice more: a twentieth of a small model's
time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.inference_mode()
def fuse(module: nn.Module, packed: Mapping[nn.Linear, Tensor]) -> bool:
    """Fuse `module` if it computes down(silu(gate(states)) * up(states)); return whether it does.

    Tried, so that no MLP that does more or something else is taken for one. `del module.forward`
    takes it back.

    packed: the weights of packed layers, see `packed_weights`.
    """
    gate, up, down = (getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down"))
    if not all(isinstance(one, nn.Linear) and one in packed for one in (gate, up, down)):
        return False
    assert isinstance(gate, nn.Linear) and isinstance(up, nn.Linear) and down
    activation = getattr(module, "act_fn", None)
    places = torch.linspace(-8, 8, 65)
    if activation is None or not activation(places).equal(F.silu(places)):
        return False
    if up.bias is not None or "forward" in vars(module):
        return False

    def forward(states: Tensor) -> Tensor:
        gates = torch.ops.mkldnn._linear_pointwise(
            states, packed[gate], gate.bias, "swish", [1.0], ""
        )
        gated = torch.ops.mkldnn._linear_pointwise.binary(states, gates, packed[up], None, "mul")
        return down(gated)

    noise = torch.Generator().manual_seed(0)
    states = torch.randn(1, 8, gate.in_features, generator=noise).to(torch.bfloat16)
    usual = module(states)
    if not isinstance(usual, Tensor) or not (forward(states) - usual).norm() <= 0.02 * usual.norm():
        return False
    module.forward = forward
    return True
