"""How many tokens' keys and values are held at once, if nobody says."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

MOST_TOKENS = 65536
SHARE = 0.25  # of the device's memory; of all of it, so that the same run is the same again


def cache_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens' keys and values a quarter of the model's device holds, 65536 at most.

    A model that is spread over devices has a part of them on each: fewer than would fit.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token: int = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize  # bytes
    return max(1, min(MOST_TOKENS, int(SHARE * memory(model.device)) // token))


def memory(device: torch.device) -> int:
    """Return the bytes of memory that `device` has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
