"""The paper's models, and its fine-tuning settings by their size (appendix)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SettingsError
from harness.protocol import FineTuning


@dataclass(frozen=True)
class Preset:
    """Settings, and the largest number of questions a subject that train the model."""

    per_subject: int
    settings: FineTuning


LARGE = 30e9  # parameters: between the paper's 13b and 70b
TRAINING_SPLIT = "dev+validation"

# `llama-2` is its 7b and 13b; `8b` also stands for Mistral-7b.
PRESETS = {
    "8b": Preset(40, FineTuning()),
    "llama-2": Preset(20, FineTuning(epochs=4)),
    "70b": Preset(40, FineTuning(epochs=4, rank=128, alpha=32, learning_rate=1e-4)),
}
# The paper's names of its models: their names on the hub, and how it fine-tuned them.
PAPER_MODELS = {
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "llama-2"),
    "llama-2-13b": ("meta-llama/Llama-2-13b-hf", "llama-2"),
    "llama-2-70b": ("meta-llama/Llama-2-70b-hf", "70b"),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", "8b"),
    "llama-3-70b": ("meta-llama/Meta-Llama-3-70B", "70b"),
    "mistral-7b": ("mistralai/Mistral-7B-v0.1", "8b"),
}


def choose_preset(name: str, model: str) -> Preset:
    """Return the preset called `name`; `auto` goes by the size of `model`, a folder or hub name.

    Raises ModelError if the model's configuration cannot be read, SettingsError for another name.
    """
    from harness.models import parameter_count

    if name == "auto":
        name = "70b" if parameter_count(model) >= LARGE else "8b"
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
