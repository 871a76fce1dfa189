"""Attention of many runs of tokens in one call, each to keys of its own, on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor

from harness.extraction.indices import Indices

WIDEST_HEAD = 256  # that flash attention computes


class Lengths:
    """The lengths, in tokens, of R runs that lie one behind the other.

    longest: of all; starts: (R + 1,) int32, where each begins, and the last ends.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.longest = max(lengths)
        starts = accumulate(lengths, initial=0)
        self.starts = Indices(torch.tensor(list(starts), dtype=torch.int32))


def takes_runs_at_once(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether `attention_of_runs` can compute these.

    q: (heads, N, width); k, v: (key-value heads, M, width).

    It wants a GPU of Nvidia's, 16 bits, torch 2.10, keys and values of one shape, and heads of a
    width that is a multiple of 8 and not too wide.
    """
    if q.device.type != "cuda" or q.dtype.itemsize != 2 or not _is_known():
        return False
    width = q.shape[-1]
    return k.shape == v.shape and width <= WIDEST_HEAD and width % 8 == 0


@cache
def _is_known() -> bool:
    # Before torch 2.10, which has this module, and on AMD's GPUs the log-sum-exps come in another
    # shape.
    return find_spec("torch.nn.attention.varlen") is not None and torch.version.hip is None


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
