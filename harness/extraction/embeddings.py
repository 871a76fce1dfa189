"""The mean of a prompt's input embeddings: what a prompt says before any network has read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from harness.extraction.shards import Representations, shard_file
from harness.protocol import Budgets, ExtractionSettings
from harness.tokenizer import Tokenizer, tokenize


@torch.inference_mode()
def mean_embeddings_into(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: ExtractionSettings,
    budgets: Budgets,
) -> None:
    """Write the (N, width) mean input embeddings of N prompts into `folder`, as its only layer, 0.

    In float32: most of a prompt is the same in all prompts of a subject, and bfloat16 would round
    the rest away. There is no next token, so the letter logits are NaN.

    Raises ModelError for a prompt that the model has no positions for, OSError or SafetensorError
    where the disk refuses the shard.
    Source: this project's; the paper has no null controls.
    """
    table = model.get_input_embeddings()
    tokens = tokenize(tokenizer, prompts, model.config, settings.max_length, budgets.workers)
    means = [
        table(torch.tensor(ids, device=model.device)).float().mean(dim=0).cpu() for ids in tokens
    ]
    rows = torch.arange(len(prompts))
    unknown = torch.full((len(prompts), 4), torch.nan)
    Representations(rows, {0: torch.stack(means)}, unknown).save(shard_file(folder, rows.tolist()))
