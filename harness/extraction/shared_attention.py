"""Attention of packed runs of tokens to themselves and to the prefixes that they share.

The runs of a batch lie one behind the other, without padding. What a run sees is its own tokens
(causal) and its prefix (all of it). The two parts are computed apart, the second as one product for
all runs under a prefix, and merged by their log-sum-exps, as in Cascade Inference (FlashInfer) and
Hydragen (arXiv 2402.05099).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from harness.extraction.prefix_tree import Node

IMPLEMENTATION = "shared_prefix"


class CannotShareError(Exception):
    """The model's attention needs something that is not computed here."""


@dataclass(frozen=True)
class PackedBatch:
    """The nodes of one pass, one behind the other.

    A node with children holds, by layer, its keys and values: (kv heads, tokens, head width) each.
    """

    nodes: Sequence[Node]

    # Cached: every layer asks for them again.
    @cached_property
    def spans(self) -> list[tuple[Node, slice]]:
        """Every node with the place of its tokens in the packed pass."""
        ends = accumulate(len(node.tokens) for node in self.nodes)
        return [
            (node, slice(end - len(node.tokens), end))
            for node, end in zip(self.nodes, ends, strict=True)
        ]

    @cached_property
    def groups(self) -> list[tuple[Node, slice]]:
        """Every prefix with the place of the neighbouring runs that follow it."""
        grouped = groupby(self.spans, key=lambda span: span[0].parent)
        places = [(prefix, [place for _, place in spans]) for prefix, spans in grouped]
        return [(prefix, slice(all_[0].start, all_[-1].stop)) for prefix, all_ in places if prefix]

    @cached_property
    def positions(self) -> Tensor:
        """The place of every token in its prompt, (N,)."""
        return torch.cat([torch.arange(node.start, node.end) for node in self.nodes])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    packed: PackedBatch | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do: (1, heads, N, width) -> (1, N, heads, width).

    Raises CannotShareError for attention with soft caps or sinks, or without a packed batch.
    """
    if packed is None or others.get("softcap") or others.get("s_aux") is not None:
        raise CannotShareError(f"{type(module).__name__} needs more than plain attention")
    if sliding_window is None and _hides_by_mask(module):
        raise CannotShareError(f"{type(module).__name__} hides distant tokens by a mask alone")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = query[0], key[0], value[0]
    out = torch.empty_like(q)
    own_weight = q.new_empty(q.shape[:2], dtype=torch.float32)
    for node, place in packed.spans:
        keys, values = k[:, place], v[:, place]
        out[:, place], own_weight[:, place] = _own_part(
            q[:, place], keys, values, scale, sliding_window
        )
        if node.children:
            # Copies: a view would hold the keys and values of the whole pass.
            node.held["keys", layer], node.held["values", layer] = keys.clone(), values.clone()
    for prefix, place in packed.groups:
        keys, values = (
            torch.cat([node.held[what, layer] for node in prefix.path], dim=1)
            for what in ("keys", "values")
        )
        bias = None
        if sliding_window:
            seen = torch.arange(prefix.end)
            bias = _window_bias(packed.positions[place], seen, sliding_window, q)
        before, before_weight = _prefix_part(q[:, place], keys, values, scale, bias)
        share = torch.sigmoid(before_weight - own_weight[:, place]).unsqueeze(-1)
        own = out[:, place].float()
        out[:, place] = own.lerp(before.float(), share).to(out.dtype)
    return out.transpose(0, 1).unsqueeze(0), None


def _hides_by_mask(module: nn.Module) -> bool:
    """Whether the layer sees a window or a chunk only, and does not say so to its attention."""
    config = module.config
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return bool(kinds[module.layer_idx] != "full_attention")
    return bool(getattr(config, "sliding_window", None))


def _own_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """(heads, n, width) and (kv heads, n, width) -> (heads, n, width), (heads, n)."""
    heads, count, width = q.shape
    bias = None
    if window:
        places = torch.arange(count)
        bias = _window_bias(places, places, window, q, causal=True)
    grouped = (len(k), heads // len(k), count)
    # A key head is seen by all query heads of its group: a view, not a copy for each.
    out, weight = attention_and_weight(
        q.reshape(*grouped, width),
        k.unsqueeze(1).expand(*grouped, -1),
        v.unsqueeze(1).expand(*grouped, -1),
        scale,
        causal=bias is None,
        bias=bias,
    )
    return out.reshape(heads, count, -1), weight.reshape(heads, count)


def _prefix_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As _own_part, for keys that all queries see: one product for the heads of a key head."""
    heads, count, width = q.shape
    folded = q.reshape(len(k), -1, width)
    if bias is not None:
        bias = bias.repeat(heads // len(k), 1)
    out, weight = attention_and_weight(
        folded[None], k[None], v[None], scale, causal=False, bias=bias
    )
    return out.reshape(heads, count, -1), weight.reshape(heads, count)


def attention_and_weight(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax(q k^T scale + bias) v, and the float32 log-sum-exp of each query's scores.

    q: (..., heads, n, width); k, v: (..., heads, m, width), four dimensions each; bias: (n, m).
    Returns (..., heads, n, width), (..., heads, n).
    """
    if q.device.type == "cpu" and k.shape == v.shape:
        # torch's own flash attention for CPUs: what sdpa calls, with the log-sum-exp it leaves out.
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out, weight
    if q.device.type == "cuda" and k.shape == v.shape and bias is None and q.dtype.itemsize == 2:
        # As above, for GPUs; torch's own context parallelism merges with its log-sum-exps too.
        out, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            q.contiguous(), k.contiguous(), v.contiguous(), 0.0, causal, scale=scale
        )
        return out, weight
    # float32: a score rounded to bf16 would be off by more than its exponential allows.
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if bias is not None:
        scores = scores + bias
    weight = scores.logsumexp(dim=-1)
    return torch.exp(scores - weight.unsqueeze(-1)).to(v.dtype) @ v, weight


def _window_bias(
    queries: Tensor, keys: Tensor, window: int | None, like: Tensor, causal: bool = False
) -> Tensor | None:
    """Return what to add to the scores (n, m) for a sliding window; None where it hides nothing."""
    if not window or int(queries.max()) - int(keys.min()) < window:
        return None
    distance = queries[:, None] - keys
    hidden = (distance >= window) | (causal & (distance < 0))
    # Not -inf: a query that sees nothing of its prefix must get weight 0 there, not NaN.
    bias = hidden * torch.finfo(like.dtype).min / 2
    return bias.to(like)


AttentionInterface.register(IMPLEMENTATION, attend)
