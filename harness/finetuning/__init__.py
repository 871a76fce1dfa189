"""Train a LoRA adapter to answer multiple-choice questions."""

from harness.finetuning.train import Exam, Progress, fine_tune

__all__ = ["Exam", "Progress", "fine_tune"]
