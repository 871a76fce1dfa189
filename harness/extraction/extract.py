"""Run a model over prompts and keep the representations of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel

from harness.extraction.capture import capturing, site_modules
from harness.models import Tokenizer, letter_tokens
from harness.protocol import ExtractionSettings

TOKEN_BUDGET = 16384


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
    token_budget: int = TOKEN_BUDGET,
    description: str = "extracting",
) -> Representations:
    """Return the representations of `prompts` at the site of `settings`.

    token_budget: padded tokens a batch. It changes speed and memory, not results.

    Raises ModelError for an unknown architecture.
    Source: the paper, section 3; its repository's `extraction/`.
    """
    limit = settings.max_length or getattr(model.config, "max_position_embeddings", None)
    tokens = [
        torch.tensor(ids[-limit:] if limit else ids)
        for ids in tokenizer(list(prompts))["input_ids"]
    ]
    modules = site_modules(model, settings.site, settings.layer_interval)
    letters = letter_tokens(tokenizer)
    head = model.get_output_embeddings()
    layers: dict[int, Tensor] = {}
    letter_logits = torch.empty(len(prompts), len(letters))
    with tqdm(total=len(prompts), desc=description, unit="prompt") as progress:
        for batch in _batches([len(ids) for ids in tokens], token_budget):
            ids = pad_sequence([tokens[index] for index in batch], batch_first=True)
            lengths = torch.tensor([len(tokens[index]) for index in batch])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(model.device)
            with capturing(modules, mask, settings.reduction) as taken:
                states = model.get_decoder()(
                    input_ids=ids.to(model.device), attention_mask=mask, use_cache=False
                ).last_hidden_state
                # lm_head on the last position only: at every position its output would be the
                # largest tensor of all by far.
                logits = head(states[torch.arange(len(batch)), lengths - 1])
            letter_logits[batch] = logits[:, letters].float().cpu()
            for layer, values in taken.items():
                if layer not in layers:
                    layers[layer] = torch.empty(len(prompts), values.shape[1], dtype=values.dtype)
                layers[layer][batch] = values.cpu()
            progress.update(len(batch))
    return Representations(layers, letter_logits)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices in batches of like length, longest first: memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        size = max(1, budget // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"
