"""Attention of many runs of tokens in one call, each to keys of its own, on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor

from harness.extraction.indices import Indices

WIDEST_HEAD = 256  # that flash attention computes


class Lengths:
    """The lengths of runs that lie one behind the other, and where each begins."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.longest = max(lengths)
        starts = accumulate(lengths, initial=0)
        self.starts = Indices(torch.tensor(list(starts), dtype=torch.int32))


def takes_runs_at_once(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether `attention_of_runs` can compute these: on a GPU, in 16 bits."""
    # Before torch 2.10, which has this module, the log-sum-exps came in another shape.
    known = find_spec("torch.nn.attention.varlen") is not None
    width = q.shape[-1]
    fits = k.shape == v.shape and width <= WIDEST_HEAD and width % 8 == 0
    return known and fits and q.device.type == "cuda" and q.dtype.itemsize == 2


def attention_of_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Lengths,
    keys: Lengths,
    scale: float,
    causal: bool,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return every run's attention to its own keys, and the float32 log-sum-exps of the scores.

    q: (heads, N, width); k, v: (key-value heads, M, width), of which several heads share one.
    queries, keys: of as many runs; together N and M tokens.
    window: of the keys before it and itself, so many are seen by a causal query; None is all.
    Returns (N, heads, width), (N, heads).

    Source: torch's own flash attention, which `torch.nn.attention.varlen` calls too.
    """
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(states.transpose(0, 1) for states in (q, k, v)),
        queries.starts.on(q.device),
        keys.starts.on(q.device),
        queries.longest,
        keys.longest,
        0.0,
        causal,
        False,
        scale=scale,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0 if causal else -1,
    )
    return out, lse.transpose(0, 1)
