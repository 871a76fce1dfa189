"""Linear layers with weights laid out for the CPU's bf16 matrix units, once instead of every pass.

Without this, oneDNN lays a weight out anew in each product: about a tenth of a small model's time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.extraction.fused_mlp import fuse


@contextmanager
def packed_weights(model: PreTrainedModel, pass_tokens: int) -> Iterator[None]:
    """Pack the weights of the decoder's linear layers while the context is open, where it helps.

    They are packed in place of the plain ones, so memory does not grow, and come back bit for bit.

    pass_tokens: tokens of a usual pass, which the layout is chosen for.
    Source: what torch's inductor does when it freezes a model for CPU inference.
    """
    packed: dict[nn.Linear, Tensor] = {}
    fused: list[nn.Module] = []
    try:
        others = _read_by_adapters(model)
        for module in model.get_decoder().modules():
            if _helps(module) and module not in others:
                packed[module] = _pack(module, pass_tokens)
        fused += [module for module in model.get_decoder().modules() if fuse(module, packed)]
        yield
    finally:
        for module in fused:
            del module.forward
        with torch.inference_mode(False):  # or they could not be trained any more
            for linear, weight in packed.items():
                linear.weight.data = weight.to_dense()
                del linear.forward


def _read_by_adapters(model: nn.Module) -> set[nn.Module]:
    """Return the modules whose weights an adapter may read without calling them, as DoRA does."""
    layers = [module for module in model.modules() if hasattr(module, "base_layer")]
    if not layers:
        return set()
    from peft.tuners.lora import Linear as LoraLinear

    others = [layer for layer in layers if type(layer) is not LoraLinear or layer.lora_variant]
    return {module for layer in others for module in layer.modules()}


def _helps(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear  # not a subclass, which may do something else
        and module.weight.device.type == "cpu"
        and module.weight.dtype is torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and not hasattr(module, "_hf_hook")  # accelerate's, which brings the weights when called
    )


def _pack(linear: nn.Linear, tokens: int) -> Tensor:
    """Let `linear` multiply with its packed weight, which is returned, and let the plain one go."""
    with torch.inference_mode(False), torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), tokens)

    def forward(states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, packed, linear.bias, "none", [], ""
        )
        return product

    linear.forward = forward  # type: ignore[assignment, method-assign]
    linear.weight.data = torch.empty(0, dtype=linear.weight.dtype)
    return packed
