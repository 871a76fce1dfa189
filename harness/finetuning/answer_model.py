"""A causal language model that says one next token a prompt, and trains an adapter for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from harness.errors import ModelError, first_line
from harness.protocol import FineTuning


def check_targets(model: PreTrainedModel, settings: FineTuning) -> None:
    """Raise ModelError for a target module that the model has not: PEFT passes over it."""
    names = [name for name, _ in model.named_modules()]
    known = {name.rpartition(".")[2] for name in names} - {""}
    for name in settings.target_modules or ():
        if not any(one == name or one.endswith(f".{name}") for one in names):
            raise ModelError(
                f"--target-modules: {name!r} is not in this model; its modules are called "
                f"{', '.join(sorted(one for one in known if not one.isdecimal()))}"
            )


def with_lora(model: PreTrainedModel, settings: FineTuning) -> PeftModel:
    """Return `model` with a new LoRA adapter; only the adapter learns, in float32.

    The projections are found in the model: all linear layers of its decoder. One that also sees
    pictures has others, which no question goes through.

    Raises ModelError if `settings` names modules that can have no adapter.
    Source: the paper, appendix; PEFT's `all-linear`.
    """
    torch.manual_seed(settings.seed)
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=list(settings.target_modules or ()) or "all-linear",
                exclude_modules=_outside_of_decoder(model) or None,
            ),
        )
    except ValueError as error:
        raise ModelError(
            f"--target-modules {','.join(settings.target_modules or ())}: can have no adapter "
            f"({first_line(error)}); name linear layers"
        ) from error


def _outside_of_decoder(model: PreTrainedModel) -> list[str]:
    inside = {*model.get_decoder().modules(), model.get_output_embeddings()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside
    ]


class AnswerModel(nn.Module):
    """The logits of the token after each prompt; no other position goes through lm_head.

    lm_head is a third of a small model. A hook takes the answers' positions out just before it, so
    that whatever the model does to its logits afterwards (scaling, capping) still happens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        # What FSDP wraps. Of a model's family some may not be in it, which accelerate refuses.
        present = {type(module).__name__ for module in model.modules()}
        self._no_split_modules = sorted(present.intersection(model._no_split_modules or ()))

        def answers_only(head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
            (states,) = arguments
            return (states[torch.arange(len(states)), self._last][:, None],)

        model.get_output_embeddings().register_forward_pre_hook(answers_only)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Return (B, vocabulary) logits.

        tokens: (B, T) ids, padded on the right: under a causal mask no prompt sees its padding.
        last: (B,) positions of the prompts' last tokens.
        """
        self._last = last
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits[:, 0]


def pad(prompts: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """Return the arguments of AnswerModel for B prompts: (B, T) tokens and (B,) last positions."""
    tokens = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    return {"tokens": tokens.to(device), "last": last.to(device)}


def save_adapter(adapted: PeftModel, trained: dict[str, Any], folder: Path) -> None:
    """Write a PEFT adapter folder, with the weights in the model's dtype.

    trained: the tensors that learn, by their name in AnswerModel.

    Raises OSError or SafetensorError where the disk refuses it.
    """
    dtype = adapted.get_base_model().dtype
    tensors = {
        "base_model." + name: tensor.detach().to("cpu", dtype) for name, tensor in trained.items()
    }
    config = adapted.active_peft_config
    config.target_modules = sorted(config.target_modules)  # a set's order changes with every run
    adapted.save_pretrained(str(folder), state_dict=tensors)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
