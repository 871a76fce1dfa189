"""LoRA layers with few passes over memory: much of PEFT's time on a CPU is not arithmetic.

In bfloat16 on matrix units it is two thirds, and drawing dropout's masks alone a quarter. Same
mathematics as PEFT's `lora.Linear`, and the same distribution of masks, to 1 / 65536 of the
probability.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F

# What the bits of a number are held in: masks are that wide.
WORDS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def fuse_lora(adapted: PeftModel) -> None:
    """Let the LoRA layers of a model on a CPU compute with `_FusedLora`, for good.

    Their weights, and so what is saved of them, stay PEFT's.

    Source: PEFT's `lora.Linear`; Hu et al. 2021 (arXiv 2106.09685).
    """
    for layer in adapted.modules():
        if _fits(layer):
            layer.forward = partial(_forward, layer)


def _fits(layer: nn.Module) -> TypeGuard[LoraLinear]:
    return (
        type(layer) is LoraLinear
        and type(layer.base_layer) is nn.Linear
        and not layer.lora_variant  # as DoRA is
        and not any(name.endswith("lora_B.default.bias") for name, _ in layer.named_parameters())
        and layer.base_layer.weight.dtype in WORDS
        and layer.base_layer.weight.device.type == "cpu"
    )


def _forward(layer: LoraLinear, states: Tensor) -> Tensor:
    dropout = layer.lora_dropout["default"]
    probability = dropout.p if layer.training and isinstance(dropout, nn.Dropout) else 0.0
    output: Tensor = _FusedLora.apply(  # type: ignore[no-untyped-call]
        states,
        layer.base_layer.weight,
        layer.base_layer.bias,
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.scaling["default"],
        probability,
    )
    return output


def draw_mask(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """Return an integer mask of `shape`: all bits of a `dtype` set, or none with `probability`.

    The integers are as wide as a `dtype` (WORDS). Seeded by torch's generator, so the same state
    of it gives the same mask.
    """
    seed = int(torch.randint(2**62, ()))
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.uint16)[:count]
    kept = torch.from_numpy(words >= round(probability * 65536))
    return kept.to(WORDS[dtype]).neg_().view(shape)


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    # Five times as fast as a product with 0 and 1.
    return values if mask is None else (values.view(mask.dtype) & mask).view(values.dtype)


class _FusedLora(torch.autograd.Function):
    """x W^T + bias + scale / (1 - p) * (x masked) A^T B^T, for a frozen W."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        probability: float,
    ) -> Tensor:
        """Return (..., out); states (..., in), down (rank, in) and up (out, rank) in float32."""
        flat = states.to(weight.dtype).flatten(0, -2)
        mask = draw_mask(flat.shape, probability, weight.dtype) if probability else None
        # What dropout leaves is scaled up; here with the adapter's own factor, in one weight.
        lower = down.to(weight.dtype)
        upper = (up * (scale / (1 - probability))).to(weight.dtype)
        inner = _masked(flat, mask) @ lower.T
        output = F.linear(flat, weight, bias)
        output.addmm_(inner, upper.T)
        ctx.save_for_backward(flat, weight, mask, inner, lower, upper)
        ctx.factor = scale / (1 - probability)
        ctx.shape, ctx.dtype = states.shape, states.dtype
        return output.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, down and up; the others have none."""
        flat, weight, mask, inner, lower, upper = ctx.saved_tensors
        gradient = gradient.to(weight.dtype).flatten(0, -2)
        inner_gradient = gradient @ upper
        of_states = gradient @ weight
        of_kept = inner_gradient @ lower
        if mask is not None:
            of_kept.view(mask.dtype).bitwise_and_(mask)
        of_states += of_kept
        of_down = (inner_gradient.T @ _masked(flat, mask)).float()
        of_up = (gradient.T @ inner).float() * ctx.factor
        return of_states.view(ctx.shape).to(ctx.dtype), None, None, of_down, of_up, None, None
