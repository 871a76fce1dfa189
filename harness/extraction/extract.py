"""Run a model over prompts and keep the representations of every layer."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from harness.allocator import keep_freed_memory
from harness.extraction.cache_budget import cache_tokens
from harness.extraction.capture import capturing, site_modules
from harness.extraction.forward import Forward, forward_of
from harness.extraction.indices import Indices
from harness.extraction.last_tokens import last_tokens_only
from harness.extraction.packed_weights import packed_weights
from harness.extraction.prefix_tree import LEAST_SAVING, Node, build_tree, walk
from harness.extraction.shards import (
    Representations,
    is_whole,
    plan_shards,
    saved_shards,
    shard_file,
)
from harness.processes import ALONE, Processes
from harness.protocol import Budgets, ExtractionSettings
from harness.tokenizer import Tokenizer, letter_tokens, tokenize

logger = logging.getLogger(__name__)

# Tokens a pass, by device: a CPU is fastest while a block's activations stay in its cache, and
# oneDNN's products of a small model's width are a twentieth faster with 448 tokens than with 512.
PASS_TOKENS = {"cpu": 448, "cuda": 16384}
# A shard is this many passes, by device: enough that what its prompts share with other shards
# costs little, and few enough that several GPUs have one each, and that little is lost with one.
PASSES_A_SHARD = {"cpu": 64, "cuda": 4}


@dataclass(frozen=True, repr=False)  # as of a node: it has all tokens
class _Work:
    """What all shards of one extraction have in common; `tokens` is a list of ids a prompt."""

    model: PreTrainedModel
    forward: Forward
    tokens: Sequence[Sequence[int]]
    letters: Sequence[int]
    settings: ExtractionSettings
    pass_tokens: int
    cached_tokens: int
    pass_prompts: int | None
    keep: Callable[[Tensor], None] | None  # told which tokens of a pass are kept; None keeps all


def extract(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: ExtractionSettings,
    budgets: Budgets = Budgets(),  # noqa: B008  (frozen)
    share: bool = True,
) -> Representations:
    """Return the representations of `prompts` at the site of `settings`, in memory.

    For few prompts, and to compare with; an experiment takes `extract_into`.

    share: compute what prompts share once.

    Raises ModelError for an unknown architecture, a tokenizer without tokens of the letters, or a
    prompt that the model has no positions for.
    Source: the paper, section 3; its repository's `extraction/`.
    """
    with _prepared(model, tokenizer, prompts, settings, budgets, share) as (work, plan):
        return Representations.join([_extract_shard(work, rows) for rows in plan])


def extract_into(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: ExtractionSettings,
    budgets: Budgets = Budgets(),  # noqa: B008  (frozen)
    processes: Processes = ALONE,
    description: str = "extracting",
    log_every: int | None = None,
) -> None:
    """Write the representations of `prompts` into `folder`, shard by shard.

    Shards that are there already, from a run that was stopped, are not computed again.

    processes: those that fill the folder together, each with its part of the shards.
    log_every: prompts between two lines in the log; None logs nothing.

    Raises ModelError as `extract` does, OSError or SafetensorError where the disk refuses a shard.
    Source: as `extract`.
    """
    with _prepared(model, tokenizer, prompts, settings, budgets, True) as (work, plan):
        files = {shard_file(folder, rows): rows for rows in plan}
        own = processes.part(list(files))
        if processes.count > 1:
            description += f" ({processes.rank + 1} of {processes.count})"
        with _progress(sum(len(files[file]) for file in own), description, log_every) as advance:
            for file in own:
                if is_whole(file, files[file]):
                    advance(len(files[file]))
                else:
                    if file.exists():
                        warnings.warn(
                            f"{file}: is not what was written; it is computed again", stacklevel=2
                        )
                    _extract_shard(work, files[file], advance).save(file)
    processes.wait()
    if processes.is_main:
        for file in set(saved_shards(folder)) - set(files):
            file.unlink()  # of a run with other budgets


@contextmanager
def _prepared(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: ExtractionSettings,
    budgets: Budgets,
    share: bool,
) -> Iterator[tuple[_Work, list[list[int]]]]:
    tokens = tokenize(tokenizer, prompts, model.config, settings.max_length, budgets.workers)
    kind = model.device.type if model.device.type in PASS_TOKENS else "cpu"
    pass_tokens = budgets.tokens or PASS_TOKENS[kind]
    plan = plan_shards(tokens, budgets.shard_tokens or PASSES_A_SHARD[kind] * pass_tokens)
    # Before weights are packed: packed ones are no parameters, whose bytes are counted.
    most = (pass_tokens, budgets.cached_tokens or cache_tokens(model), budgets.prompts)
    letters = letter_tokens(tokenizer)
    if model.device.type == "cpu":
        keep_freed_memory()
    kept = last_tokens_only(model) if settings.reduction == "last" else nullcontext()
    with forward_of(model, share) as forward, packed_weights(model, pass_tokens), kept as keep:
        yield _Work(model, forward, tokens, letters, settings, *most, keep), plan


@torch.inference_mode()
def _extract_shard(
    work: _Work, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None
) -> Representations:
    """Return the representations of the prompts `rows`; `advance` is told how many are done."""
    settings, forward = work.settings, work.forward
    modules = site_modules(work.model, settings.site, settings.layer_interval)
    last_layer = work.model.config.get_text_config().num_hidden_layers
    head = work.model.get_output_embeddings()
    layers: dict[int, Tensor] = {}
    letter_logits = torch.empty(len(rows), len(work.letters))
    roots = build_tree(
        [work.tokens[row] for row in rows], LEAST_SAVING if forward.shares else sys.maxsize
    )
    for nodes in walk(
        roots, work.pass_tokens, work.cached_tokens, work.pass_prompts, padded=not forward.shares
    ):
        all_places = forward.places(nodes)
        last = torch.tensor([len(node.tokens) for node in nodes]).cumsum(0) - 1
        places, ends = Indices(all_places), Indices(all_places[last])
        taken: dict[int, Tensor] = {}

        def reduce(
            layer: int,
            output: Tensor,
            *,
            nodes: list[Node] = nodes,
            places: Indices = places,
            ends: Indices = ends,
            taken: dict[int, Tensor] = taken,
        ) -> None:
            states = output.flatten(0, 1)  # on the device of its layer, which may not be the first
            if settings.reduction == "last":
                taken[layer] = states[ends.on(states.device)]
            else:
                taken[layer] = _means(nodes, states[places.on(states.device)], layer)

        if work.keep:
            work.keep(all_places[last])
        with capturing(modules, reduce):
            states = forward(nodes).flatten(0, 1)
        states = states[ends.on(states.device)]
        done = [row for node in nodes for row in node.rows]
        if not done:
            continue
        source = [index for index, node in enumerate(nodes) for _ in node.rows]
        if settings.site == "logits":
            taken[last_layer] = whole = head(states)
        else:
            whole = None
        logits = _some_logits(head, states, work.letters, whole)
        letter_logits[done] = logits[source].float().cpu()
        for layer, values in _to_cpu(taken, source).items():
            if layer not in layers:
                layers[layer] = torch.empty(len(rows), values.shape[1], dtype=values.dtype)
            layers[layer][done] = values
        advance(len(done))
    return Representations(torch.tensor(rows), layers, letter_logits)


def _to_cpu(taken: dict[int, Tensor], rows: list[int]) -> dict[int, Tensor]:
    """Return some rows of every layer's (nodes, width), with one copy for each device."""
    found: dict[int, Tensor] = {}
    for device in {values.device for values in taken.values()}:
        layers = [layer for layer, values in taken.items() if values.device == device]
        copied = torch.stack([taken[layer] for layer in layers])[:, rows].cpu()
        found |= dict(zip(layers, copied, strict=True))
    return found


def _means(nodes: Sequence[Node], states: Tensor, layer: int) -> Tensor:
    """Return (nodes, width), the mean from each prompt's first token to the node's last.

    states: (N, width), the nodes' tokens one node after the other.
    """
    means = []
    begin = 0
    for node in nodes:
        # float32 sums: in bf16 the hundredth token would no longer move the mean.
        total = states[begin : begin + len(node.tokens)].sum(dim=0, dtype=torch.float32)
        begin += len(node.tokens)
        if node.parent:
            total = total + node.parent.held["sum", layer]
        if node.children:
            node.held["sum", layer] = total
        means.append(total / node.end)
    return torch.stack(means).to(states.dtype)


def _some_logits(
    head: nn.Module, states: Tensor, tokens: Sequence[int], whole: Tensor | None = None
) -> Tensor:
    """Return the (N, tokens) logits of (N, width) states; `whole` are those of all tokens."""
    # lm_head is a third of a small model: for four of its rows the others need not be read. In
    # float32, as bfloat16 has so few values near 20 that letters tie, and the first would be taken.
    # A head that accelerate keeps elsewhere (meta) comes only when it is called, and one with an
    # adapter computes more than its weight: these keep the model's dtype.
    if type(head) is nn.Linear and not head.weight.is_meta:
        bias = None if head.bias is None else head.bias[tokens].float()
        return F.linear(states.to(head.weight.device).float(), head.weight[tokens].float(), bias)
    return (head(states) if whole is None else whole)[:, tokens]


@contextmanager
def _progress(
    total: int, description: str, log_every: int | None
) -> Iterator[Callable[[int], object]]:
    """Yield a function that is told how many more prompts are done: a bar, or lines in the log."""
    with tqdm(total=total, desc=description, unit="prompt", disable=bool(log_every)) as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            passed = log_every and (done + count) // log_every > done // log_every
            if log_every and (passed or done + count == total):
                logger.info("%s: %d of %d prompts", description, done + count, total)
            done += count
            bar.update(count)

        yield advance
