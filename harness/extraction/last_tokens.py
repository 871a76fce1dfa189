"""The last block's MLP, for the tokens whose states are kept: it changes no other token's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.extraction.capture import blocks_of


@contextmanager
def last_tokens_only(model: PreTrainedModel) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that is told before each pass which tokens' states are kept.

    After the last block's attention no token sees another, so its MLP, which is most of the block,
    need not run on the others, whose states after the last block are then meaningless. For a
    block without an `mlp`, or with one that needs more than the states, nothing changes.

    The function takes the places in the flattened (sequences * tokens), (n,) int64.
    """
    mlp = getattr(blocks_of(model)[-1], "mlp", None)
    kept: Tensor | None = None

    def keep(places: Tensor) -> None:
        nonlocal kept
        kept = places

    if mlp is None or hasattr(mlp, "_hf_hook"):  # accelerate's, which brings the weights
        yield keep
        return
    usual = mlp.forward
    is_own = "forward" in vars(mlp)  # such as a fused one

    def forward(states: Tensor, *others: object, **named: object) -> object:
        if kept is None or others or named:  # such as Bloom's residual, also a row a token
            return usual(states, *others, **named)
        rows = states.flatten(0, 1)
        places = kept.to(states.device)
        some = usual(rows[places].unsqueeze(0))
        if not isinstance(some, Tensor):  # with a router's scores of every token
            return usual(states)
        return torch.zeros_like(rows).index_copy_(0, places, some.squeeze(0)).view_as(states)

    mlp.forward = forward
    try:
        yield keep
    finally:
        del mlp.forward
        if is_own:
            mlp.forward = usual
