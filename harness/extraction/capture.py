"""Take the representations of one site out of a running model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.protocol import Site

# Where transformers' decoder-only models keep a block's norms. Gemma's norm before the MLP comes
# first: its post_attention_layernorm is another norm, inside the attention's residual branch.
BLOCKS = ("layers", "h")
FINAL_NORM = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
SITE_MODULES: dict[Site, tuple[str, ...]] = {
    "norm1": ("input_layernorm", "self_attn_layer_norm", "ln_1"),
    "norm2": ("pre_feedforward_layernorm", "post_attention_layernorm", "final_layer_norm", "ln_2"),
}


def site_modules(model: PreTrainedModel, site: Site, interval: int = 1) -> dict[int, nn.Module]:
    """Return the module whose output is the representation, by layer number.

    Layer n is at block n, and the last layer, numbered like the number of blocks, is the final
    norm. `norm1` begins with layer 1: the paper leaves l_0 out, where the last token of every
    prompt is the same. `logits` has none: lm_head is no part of the decoder. Every `interval`-th
    layer is kept, and always the last one.

    Raises ModelError for a model whose blocks have other names, or no norm at the site.
    Source: the paper, section 3; its repository's `extraction/`.
    """
    blocks = blocks_of(model)
    if site == "norm2" and _norms_outputs_only(blocks[0]):
        raise ModelError(
            f"{type(blocks[0]).__name__} has no norm before its MLP; take another --site"
        )
    last = len(blocks)
    if site == "logits":
        return {}  # not a module of the decoder: see `extract`
    chosen: dict[int, nn.Module] = {}
    for number in range(0, last, interval):
        if site == "norm1" and number == 0:
            continue
        chosen[number] = (
            blocks[number] if site == "res2" else _child(blocks[number], SITE_MODULES[site])
        )
    return chosen | {last: _child(model.get_decoder(), FINAL_NORM)}


def _norms_outputs_only(block: nn.Module) -> bool:
    # As in OLMo-2: both norms are inside the residual branches, behind attention and MLP.
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    before, after = (hasattr(block, name) for name in names)
    return after and not before


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder's blocks. Raises ModelError for a model that names them otherwise."""
    blocks = _child(model.get_decoder(), BLOCKS)
    if not isinstance(blocks, nn.ModuleList):
        raise ModelError(
            f"{type(model).__name__}: its blocks are no list; this architecture is not known"
        )
    return blocks


@contextmanager
def capturing(modules: dict[int, nn.Module], take: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Hand (layer, output) of every module to `take` while the context is open.

    output: (sequences, tokens, width), on the module's device.
    """

    def hook(layer: int):  # type: ignore[no-untyped-def]
        def hand_over(
            module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]
        ) -> None:
            take(layer, output if isinstance(output, Tensor) else output[0])

        return hand_over

    handles = [module.register_forward_hook(hook(layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name in names:
        found = getattr(module, name, None)  # some have the name, and nothing there
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise ModelError(
        f"{type(module).__name__} has none of {', '.join(names)}; this architecture is not known"
    )
