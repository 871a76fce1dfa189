"""Take the representations of one site out of a running model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.protocol import Reduction, Site

# Where transformers' decoder-only models keep a block's norms. Gemma's norm before the MLP comes
# first: its post_attention_layernorm is another norm, inside the attention's residual branch.
BLOCKS = ("layers", "h")
FINAL_NORM = ("norm", "final_layer_norm", "ln_f")
SITE_MODULES: dict[Site, tuple[str, ...]] = {
    "norm1": ("input_layernorm", "ln_1"),
    "norm2": ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2"),
}


def site_modules(model: PreTrainedModel, site: Site, interval: int = 1) -> dict[int, nn.Module]:
    """Return the module whose output is the representation, by layer number.

    Layer n is at block n, and the last layer, numbered like the number of blocks, is the final
    norm. `norm1` begins with layer 1: the paper leaves l_0 out, where the last token of every
    prompt is the same. `logits` is one layer, lm_head. Every `interval`-th layer is kept.

    Raises ModelError for a model whose blocks have other names.
    """
    decoder = model.get_decoder()
    blocks = _child(decoder, BLOCKS)
    assert isinstance(blocks, nn.ModuleList)
    last = len(blocks)
    if site == "logits":
        return {last: model.get_output_embeddings()}
    chosen: dict[int, nn.Module] = {}
    for number in range(0, last, interval):
        if site == "norm1" and number == 0:
            continue
        chosen[number] = (
            blocks[number] if site == "res2" else _child(blocks[number], SITE_MODULES[site])
        )
    return chosen | {last: _child(decoder, FINAL_NORM)}


@contextmanager
def capturing(
    modules: dict[int, nn.Module], mask: Tensor, reduction: Reduction
) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that the next forward pass fills: layer -> (batch, width), on the device.

    mask: (batch, tokens) of the right-padded batch, 1 on real tokens. A module that is given one
        position only (lm_head, see `extract`) is taken as it is.
    """
    rows = torch.arange(len(mask), device=mask.device)
    last = mask.sum(dim=1) - 1
    taken: dict[int, Tensor] = {}

    def hook(layer: int):  # type: ignore[no-untyped-def]
        def take(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            states = output if isinstance(output, Tensor) else output[0]
            if states.dim() == 2:
                taken[layer] = states
            elif reduction == "last":
                taken[layer] = states[rows, last]
            else:
                # float32 sums: in bf16 the hundredth token would no longer move the mean.
                real = mask.unsqueeze(-1).float()
                mean = (states.float() * real).sum(dim=1) / real.sum(dim=1)
                taken[layer] = mean.to(states.dtype)

        return take

    handles = [module.register_forward_hook(hook(layer)) for layer, module in modules.items()]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)  # type: ignore[no-any-return]
    raise ModelError(
        f"{type(module).__name__} has none of {', '.join(names)}; this architecture is not known"
    )
