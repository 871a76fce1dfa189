"""How many questions a model answers, over all of them and by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

ACCURACY = "accuracy.json"  # beside what a command hands out


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0 to 1.

    micro: over all questions; by_subject: over those of each.
    """

    micro: float
    by_subject: dict[str, float]

    @property
    def macro(self) -> float:
        """The mean over subjects, which all weigh the same."""
        return float(np.mean(list(self.by_subject.values())))

    def __str__(self) -> str:
        """Return both in words."""
        return f"micro {self.micro:.4f}, macro {self.macro:.4f}"

    def to_table(self) -> dict[str, Any]:
        """Return what a JSON file has of it."""
        return asdict(self) | {"macro": self.macro}


def accuracy(right: Sequence[bool], subjects: Sequence[str]) -> Accuracy:
    """Return the accuracy of N answers, 1 or more.

    right, subjects: of every question.
    """
    hits = np.asarray(right, dtype=np.float64)
    names, numbers = np.unique(np.asarray(subjects), return_inverse=True)
    means = np.bincount(numbers, hits) / np.bincount(numbers)
    return Accuracy(float(hits.mean()), dict(zip(names.tolist(), means.tolist(), strict=True)))
