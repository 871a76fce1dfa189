"""How much an extraction computes, known before anything is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from harness.extraction.prefix_tree import Node, build_tree


def distinct_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens the prompts have when every beginning that some share counts once."""

    def count(nodes: Sequence[Node]) -> int:
        return sum(len(node.tokens) + count(node.children) for node in nodes)

    return count(build_tree(prompts, least_saving=1))


def product_rate(device: torch.device, dtype: torch.dtype, times: int = 12) -> float:
    """Return the operations a second of a 4096-cubed matrix product: the best of `times`."""
    one, other = torch.randn(2, 4096, 4096, dtype=dtype, device=device)
    best = math.inf
    for _ in range(times):
        begin = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * 4096**3 / best


def operations_a_token(model: PreTrainedModel) -> int:
    """Return the floating-point operations of a token's matrix products with the model's weights.

    Two a parameter but those of the embeddings, on whatever device, `meta` too. Attention between
    tokens is left out: at MMLU's lengths it is a few hundredths. Of a mixture of experts all count.
    """
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {layer.weight for layer in embeddings if layer is not None}
    counted = (weight.numel() for weight in model.parameters() if weight not in apart)
    return 2 * int(sum(counted))
