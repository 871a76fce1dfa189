"""How much an extraction computes, known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from harness.extraction.prefix_tree import build_tree


def distinct_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens the prompts have when every beginning that some share counts once."""
    nodes, count = build_tree(prompts, least_saving=1), 0
    while nodes:
        node = nodes.pop()
        count += len(node.tokens)
        nodes += node.children
    return count


def operations_a_token(model: PreTrainedModel) -> int:
    """Return the floating-point operations of a token's matrix products with the model's weights.

    Two a parameter but those of the embeddings, on whatever device, `meta` too. Attention between
    tokens is left out: at MMLU's lengths it is a few hundredths. Of a mixture of experts all count.
    """
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {layer.weight for layer in embeddings if layer is not None}
    counted = (weight.numel() for weight in model.parameters() if weight not in apart)
    return 2 * int(sum(counted))
