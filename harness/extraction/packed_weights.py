"""Linear layers with weights laid out for the CPU's bf16 matrix units, once instead of every pass.

Without this, oneDNN lays a weight out anew in each product: a fifth of the time of a small model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def packed_weights(model: PreTrainedModel, pass_tokens: int) -> Iterator[None]:
    """Pack the weights of the decoder's linear layers while the context is open, where it helps.

    They are packed in place of the plain ones, so memory does not grow, and come back bit for bit.

    pass_tokens: tokens of a usual pass, which the layout is chosen for.
    Source: what torch's inductor does when it freezes a model for CPU inference.
    """
    chosen = [module for module in model.get_decoder().modules() if _helps(module)]
    try:
        for linear in chosen:
            _pack(linear, pass_tokens)
        yield
    finally:
        for linear in chosen:
            _unpack(linear)


def _helps(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear  # not a subclass, which may do something else
        and module.weight.device.type == "cpu"
        and module.weight.dtype is torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and not hasattr(module, "_hf_hook")  # accelerate's, which brings the weights when called
    )


@torch.inference_mode()
def _pack(linear: nn.Linear, tokens: int) -> None:
    packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), tokens)
    linear.packed_weight = packed

    def forward(states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, packed, linear.bias, "none", [], ""
        )
        return product

    linear.forward = forward
    linear.weight.data = torch.empty(0, dtype=linear.weight.dtype)


@torch.inference_mode()
def _unpack(linear: nn.Linear) -> None:
    if "packed_weight" in linear.__dict__:
        linear.weight.data = linear.packed_weight.to_dense()
        del linear.packed_weight, linear.forward
