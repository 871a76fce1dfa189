"""Run a model over prompts and keep the representations of every layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from harness.extraction.capture import capturing, site_modules
from harness.extraction.forward import forward_of
from harness.extraction.prefix_tree import LEAST_SAVING, Node, build_tree, walk
from harness.models import Tokenizer, letter_tokens
from harness.protocol import ExtractionSettings

# Tokens a pass, by device: a CPU is fastest while a block's activations stay in its cache.
TOKEN_BUDGETS = {"cpu": 512, "cuda": 16384}
CACHE_BUDGET = 65536


@dataclass(frozen=True)
class Representations:
    """What a model makes of N prompts.

    layers: (N, width) by layer number, in the model's dtype, on the CPU.
    letter_logits: (N, 4) float32, the logits of ` A` ... ` D` as the next token.
    """

    layers: dict[int, Tensor]
    letter_logits: Tensor

    def save(self, folder: Path) -> None:
        """Write one safetensors file a layer, and one with the letter logits."""
        for layer, states in self.layers.items():
            save_file({"representations": states}, _layer_file(folder, layer))
        save_file({"letter_logits": self.letter_logits}, folder / "letters.safetensors")


def read_layer(folder: Path, layer: int) -> Tensor:
    """Return the (N, width) representations of `layer` from a folder of `Representations.save`."""
    with safe_open(_layer_file(folder, layer), framework="pt") as file:
        return file.get_tensor("representations")  # type: ignore[no-any-return]


def saved_layers(folder: Path) -> list[int]:
    """Return the layer numbers in a folder of `Representations.save`, ascending."""
    return sorted(int(file.stem.removeprefix("layer-")) for file in folder.glob("layer-*"))


def read_letter_logits(folder: Path) -> Tensor:
    """Return the (N, 4) letter logits from a folder of `Representations.save`."""
    with safe_open(folder / "letters.safetensors", framework="pt") as file:
        return file.get_tensor("letter_logits")  # type: ignore[no-any-return]


@torch.inference_mode()
def extract(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: ExtractionSettings,
    token_budget: int | None = None,
    cache_budget: int = CACHE_BUDGET,
    share: bool = True,
    description: str = "extracting",
) -> Representations:
    """Return the representations of `prompts` at the site of `settings`.

    token_budget: tokens a pass. cache_budget: tokens whose keys and values are held for the prompts
        that share them. share: compute what prompts share once. All three change speed and memory,
        not results.

    Raises ModelError for an unknown architecture.
    Source: the paper, section 3; its repository's `extraction/`.
    """
    limit = settings.max_length or getattr(model.config, "max_position_embeddings", None)
    tokens = [ids[-limit:] if limit else ids for ids in tokenizer(list(prompts))["input_ids"]]
    budget = token_budget or TOKEN_BUDGETS.get(model.device.type, TOKEN_BUDGETS["cpu"])
    modules = site_modules(model, settings.site, settings.layer_interval)
    last_layer = model.config.get_text_config().num_hidden_layers
    head = model.get_output_embeddings()
    letters = letter_tokens(tokenizer)
    layers: dict[int, Tensor] = {}
    letter_logits = torch.empty(len(prompts), len(letters))
    with (
        forward_of(model, share) as forward,
        tqdm(total=len(prompts), desc=description, unit="prompt") as progress,
    ):
        roots = build_tree(tokens, LEAST_SAVING if forward.shares else sys.maxsize)
        for nodes in walk(roots, budget, cache_budget):
            places = forward.places(nodes).to(model.device)
            lengths = [len(node.tokens) for node in nodes]
            ends = places[torch.tensor(lengths).cumsum(0) - 1]
            taken: dict[int, Tensor] = {}

            def reduce(
                layer: int,
                output: Tensor,
                *,
                nodes: list[Node] = nodes,
                places: Tensor = places,
                ends: Tensor = ends,
                taken: dict[int, Tensor] = taken,
            ) -> None:
                states = output.flatten(0, 1)
                last = settings.reduction == "last"
                taken[layer] = states[ends] if last else _means(nodes, states[places], layer)

            with capturing(modules, reduce):
                states = forward(nodes).flatten(0, 1)[ends]
            rows = [row for node in nodes for row in node.rows]
            if not rows:
                continue
            source = [index for index, node in enumerate(nodes) for _ in node.rows]
            if settings.site == "logits":
                taken[last_layer] = head(states)
                logits = taken[last_layer][:, letters]
            else:
                logits = _some_logits(head, states, letters)
            letter_logits[rows] = logits[source].float().cpu()
            for layer, values in taken.items():
                if layer not in layers:
                    layers[layer] = torch.empty(len(prompts), values.shape[1], dtype=values.dtype)
                layers[layer][rows] = values[source].cpu()
            progress.update(len(rows))
    return Representations(layers, letter_logits)


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


def _some_logits(head: nn.Module, states: Tensor, tokens: Sequence[int]) -> Tensor:
    # lm_head is a third of a small model: for four of its rows the others need not be read.
    if type(head) is nn.Linear:
        bias = None if head.bias is None else head.bias[tokens]
        return F.linear(states, head.weight[tokens], bias)
    return head(states)[:, tokens]  # type: ignore[no-any-return]


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"
