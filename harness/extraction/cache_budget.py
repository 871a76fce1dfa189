"""How many tokens' keys and values are held at once, if nobody says."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

MOST_TOKENS = 65536
# Shares of a device's memory, and of what the weights leave of it. What happens to be free would
# give the same run other budgets, and other roundings, from one time to the next.
SHARE, SHARE_OF_REST = 0.25, 0.5


def cache_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens' keys and values are held, 65536 at most.

    They take a quarter of the model's device at most, and half of what its weights leave there. A
    model that is spread over devices has a part of them on each: fewer than would fit.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token: int = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize  # bytes
    whole = memory(model.device)
    weights = sum(one.nbytes for one in model.parameters() if one.device == model.device)
    room = min(SHARE * whole, SHARE_OF_REST * (whole - weights))
    return max(1, min(MOST_TOKENS, int(room) // token))


def memory(device: torch.device) -> int:
    """Return the bytes of memory that `device` has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
