"""Attention of packed runs of tokens to themselves and to the prefixes that they share.

The runs of a batch lie one behind the other, without padding. What a run sees is its own tokens
(causal) and its prefix (all of it). The two parts are computed apart, the second as one product for
all runs under a prefix, and merged by their log-sum-exps, as in Cascade Inference (FlashInfer) and
Hydragen (arXiv 2402.05099). Where a GPU takes many runs in one call, that is one call for all runs
and one for many prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from harness.extraction.indices import Indices
from harness.extraction.prefix_tree import Node
from harness.extraction.runs_at_once import Lengths, attention_of_runs, takes_runs_at_once

IMPLEMENTATION = "shared_prefix"
# Runs are padded to be computed together, as long as that makes no more than this of their tokens.
MOST_PADDING = 1.25
# The flash attention of CPUs is faster for lengths that fill its blocks.
CPU_LENGTHS = 16
# Longer runs gain more from leaving out what causality hides than from their heads in one product.
LONGEST_FOLDED = 256
# Tokens of prefixes whose keys and values are copied for one call: they count in no budget.
COPIED_TOKENS = 2**15


class CannotShareError(Exception):
    """The model's attention needs something that is not computed here."""


@dataclass(frozen=True)
class Bundle:
    """Neighbouring runs of a packed pass whose attention to themselves is computed together.

    begin: the first run's place in the pass, in tokens; lengths: of every run, in tokens.
    """

    begin: int
    lengths: Sequence[int]

    @property
    def place(self) -> slice:
        """The place of the runs' tokens in the packed pass."""
        return slice(self.begin, self.begin + sum(self.lengths))

    @property
    def padded_length(self) -> int:
        """The length of every run in the stack."""
        longest = max(self.lengths)
        return longest if len(self.lengths) == 1 else longest + -longest % CPU_LENGTHS

    @property
    def pays(self) -> bool:
        """Whether the runs are of like enough length."""
        return len(self.lengths) * self.padded_length <= MOST_PADDING * sum(self.lengths)

    @cached_property
    def _kept(self) -> Indices:
        """Where the tokens are in the flattened stack, (n,)."""
        length = self.padded_length
        runs = [torch.arange(size) + run * length for run, size in enumerate(self.lengths)]
        return Indices(torch.cat(runs))

    @cached_property
    def _padded(self) -> Indices:
        """Which token is at each place of the flattened stack; padding is the first one."""
        places = torch.zeros(len(self.lengths) * self.padded_length, dtype=torch.long)
        places[self._kept.on(places.device)] = torch.arange(sum(self.lengths))
        return Indices(places)

    def stack(self, states: Tensor) -> Tensor:
        """(heads, n, width) -> (runs, heads, length, width); the padding follows the tokens."""
        if len(self.lengths) == 1:
            return states.unsqueeze(0)
        rows = states.transpose(0, 1)[self._padded.on(states.device)]
        return rows.view(len(self.lengths), -1, *rows.shape[1:]).transpose(1, 2)

    def unstack(self, states: Tensor) -> Tensor:
        """(runs, heads, length, ...) -> (heads, n, ...)."""
        if len(self.lengths) == 1:
            return states.squeeze(0)
        rows = states.transpose(1, 2).flatten(0, 1)[self._kept.on(states.device)]
        return rows.transpose(0, 1)


class PrefixedRuns:
    """Some groups of runs, each with the prefix that it follows.

    places: of the runs' tokens in the packed pass, (n,).
    queries, keys: the lengths of the groups, and of their prefixes.
    """

    def __init__(self, groups: Sequence[tuple[Node, slice]]) -> None:
        self.prefixes = [prefix for prefix, _ in groups]
        self.places = Indices(torch.cat([torch.arange(at.start, at.stop) for _, at in groups]))
        self.queries = Lengths([at.stop - at.start for _, at in groups])
        self.keys = Lengths([prefix.end for prefix in self.prefixes])


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
    def bundles(self) -> list[Bundle]:
        """The runs bundled so that little of a bundle is padding."""
        bundles: list[Bundle] = []
        for node, place in self.spans:
            if bundles:
                last = bundles[-1]
                longer = Bundle(last.begin, [*last.lengths, len(node.tokens)])
                if longer.pays:
                    bundles[-1] = longer
                    continue
            bundles.append(Bundle(place.start, [len(node.tokens)]))
        return bundles

    @cached_property
    def groups(self) -> list[tuple[Node, slice]]:
        """Every prefix with the place of the neighbouring runs that follow it."""
        grouped = groupby(self.spans, key=lambda span: span[0].parent)
        places = [(prefix, [place for _, place in spans]) for prefix, spans in grouped]
        return [(prefix, slice(all_[0].start, all_[-1].stop)) for prefix, all_ in places if prefix]

    @cached_property
    def runs(self) -> Lengths:
        """The runs, of which each sees itself."""
        return Lengths([len(node.tokens) for node in self.nodes])

    @cached_property
    def prefixed(self) -> list[PrefixedRuns]:
        """All of `groups`, as many together as have COPIED_TOKENS, or one that has more."""
        together: list[list[tuple[Node, slice]]] = []
        copied = COPIED_TOKENS
        for prefix, place in self.groups:
            copied += prefix.end
            if copied > COPIED_TOKENS:
                together.append([])
                copied = prefix.end
            together[-1].append((prefix, place))
        return [PrefixedRuns(groups) for groups in together]

    @cached_property
    def positions(self) -> Tensor:
        """The place of every token in its prompt, (N,)."""
        return torch.cat([torch.arange(node.start, node.end) for node in self.nodes])

    @cached_property
    def _biases(self) -> dict[tuple[object, ...], Tensor | None]:
        return {}

    def hides(self, window: int | None) -> bool:
        """Return whether a sliding window hides some of a prefix from a run that follows it."""
        return window is not None and any(
            node.end > window for node in self.nodes if node.parent is not None
        )

    def window_bias(self, prefix: Node, place: slice, window: int, like: Tensor) -> Tensor | None:
        """Return what a sliding window adds to the scores (n, m) of one of `groups`, if it does.

        like: has the dtype and the device.
        """
        key = place.start, window, like.dtype, like.device
        if key not in self._biases:
            queries, keys = self.positions[place], torch.arange(prefix.end)
            self._biases[key] = _window_bias(queries, keys, window, like)
        return self._biases[key]


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

    key, value: (1, key-value heads, N, width), of which several heads of `query` may share one.

    Raises CannotShareError for attention with soft caps or sinks, or without a packed batch.
    """
    if packed is None or others.get("softcap") or others.get("s_aux") is not None:
        raise CannotShareError(f"{type(module).__name__} needs more than plain attention")
    if sliding_window is None and _hides_by_mask(module):
        raise CannotShareError(f"{type(module).__name__} hides distant tokens by a mask alone")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = query[0], key[0], value[0]
    for node, place in packed.spans:
        if node.children:
            # Copies: a view would hold the keys and values of the whole pass.
            node.held["keys", layer] = k[:, place].clone()
            node.held["values", layer] = v[:, place].clone()
    if takes_runs_at_once(q, k, v) and not packed.hides(sliding_window):
        return _attend_at_once(q, k, v, packed, layer, scale, sliding_window).unsqueeze(0), None
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    own_lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    for bundle in packed.bundles:
        place = bundle.place
        stacked = [bundle.stack(states[:, place]) for states in (q, k, v)]
        own, lse = _own_part(stacked[0], stacked[1], stacked[2], scale, sliding_window)
        out[:, place], own_lse[:, place] = bundle.unstack(own), bundle.unstack(lse)
    for prefix, place in packed.groups:
        keys, values = _held([prefix], layer)
        bias = packed.window_bias(prefix, place, sliding_window, q) if sliding_window else None
        before, before_lse = _prefix_part(q[:, place], keys, values, scale, bias)
        share = torch.sigmoid(before_lse - own_lse[:, place]).unsqueeze(-1)
        # In place: one pass less over the states, and no rounding but that of the sum.
        out[:, place].lerp_(before, share.to(out.dtype))
    return out.transpose(0, 1).unsqueeze(0), None


def _attend_at_once(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: PackedBatch,
    layer: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """As `attend`, with one call for all runs and one for many prefixes -> (N, heads, width)."""
    runs = packed.runs
    out, own_lse = attention_of_runs(q, k, v, runs, runs, scale, causal=True, window=window)
    for some in packed.prefixed:
        keys, values = _held(some.prefixes, layer)
        places = some.places.on(q.device)
        before, before_lse = attention_of_runs(
            q[:, places], keys, values, some.queries, some.keys, scale, causal=False
        )
        share = torch.sigmoid(before_lse - own_lse[places]).unsqueeze(-1).to(out.dtype)
        out[places] = out[places].lerp_(before, share)
    return out


def _held(prefixes: Sequence[Node], layer: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values of prefixes, one behind the other, (kv heads, M, width) each."""
    paths = [node for prefix in prefixes for node in prefix.path]
    keys, values = (
        torch.cat([node.held[what, layer] for node in paths], dim=1) for what in ("keys", "values")
    )
    return keys, values


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
    """(runs, heads, n, width) and (runs, kv heads, n, width) -> as q, (runs, heads, n)."""
    runs, heads, count, width = q.shape
    group = heads // k.shape[1]
    if q.device.type == "cpu" and count <= LONGEST_FOLDED:
        # All query heads of a key head as one, so that its keys are laid out once for the product.
        bias = _own_bias(count, window, q.dtype, q.device).repeat(group, 1)
        out, lse = attention_and_lse(
            q.reshape(runs, -1, group * count, width), k, v, scale, causal=False, bias=bias
        )
    else:
        hides = window is not None and window < count
        # A key head is seen by all query heads of its group: a view, not a copy for each.
        out, lse = attention_and_lse(
            q.reshape(-1, group, count, width),
            k.flatten(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
            v.flatten(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
            scale,
            causal=not hides,
            bias=_own_bias(count, window, q.dtype, q.device) if hides else None,
        )
    return out.reshape(runs, heads, count, -1), lse.reshape(runs, heads, count)


@lru_cache(maxsize=16)  # every layer asks for it again
def _own_bias(count: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what to add to a run's scores, (n, n): a token sees those before it in the window."""
    places = torch.arange(count, device=device)
    distance = places[:, None] - places
    return _bias((distance < 0) | (distance >= (window or count)), dtype)


def _prefix_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As _own_part, for keys that all queries see: one product for the heads of a key head."""
    heads, count, width = q.shape
    folded = q.reshape(len(k), -1, width)
    if bias is not None:
        bias = bias.repeat(heads // len(k), 1)
    out, lse = attention_and_lse(folded[None], k[None], v[None], scale, causal=False, bias=bias)
    return out.reshape(heads, count, -1), lse.reshape(heads, count)


def attention_and_lse(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax(q k^T scale + bias) v, and the float32 log-sum-exp of each query's scores.

    q: (..., heads, n, width); k, v: (..., heads, m, width), four dimensions each; bias: (n, m).
    Returns (..., heads, n, width), (..., heads, n).
    """
    if q.device.type == "cpu" and k.shape == v.shape:
        # torch's own flash attention for CPUs: what sdpa calls, with the log-sum-exp it leaves out.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out, lse
    if q.device.type == "cuda" and k.shape == v.shape and bias is None and q.dtype.itemsize == 2:
        # As above, for GPUs; torch's own context parallelism merges with its log-sum-exps too.
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            q.contiguous(), k.contiguous(), v.contiguous(), 0.0, causal, scale=scale
        )
        return out, lse
    # float32: a score rounded to bf16 would be off by more than its exponential allows.
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if bias is not None:
        scores = scores + bias
    lse = scores.logsumexp(dim=-1)
    return torch.exp(scores - lse.unsqueeze(-1)).to(v.dtype) @ v, lse


def _window_bias(queries: Tensor, keys: Tensor, window: int, like: Tensor) -> Tensor | None:
    """Return what to add to the scores (n, m) for a sliding window; None where it hides nothing."""
    if int(queries.max()) - int(keys.min()) < window:
        return None
    queries, keys = queries.to(like.device), keys.to(like.device)
    return _bias(queries[:, None] - keys >= window, like.dtype)


def _bias(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    # Not -inf: a query that sees nothing of its prefix must get weight 0 there, not NaN.
    return (hidden * torch.finfo(dtype).min / 2).to(dtype)


AttentionInterface.register(IMPLEMENTATION, attend)
