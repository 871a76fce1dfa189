"""Train a LoRA adapter to answer multiple-choice questions."""

from harness.finetuning.train import Progress, ValidationSet, fine_tune

__all__ = ["Progress", "ValidationSet", "fine_tune"]
