"""Four blobs of points that are told apart, and labels that tell them or do not."""

import numpy as np
import torch

from harness.measurement import Labels

SIZE = 240


def blobs(layer: int, size: int = SIZE, spread: float = 20) -> torch.Tensor:
    rng = np.random.default_rng([11, layer])
    middles = rng.normal(size=(4, 5)) * spread
    points = middles[np.arange(size) % 4] + rng.normal(size=(size, 5))
    return torch.from_numpy(points).bfloat16()


def labels(size: int = SIZE) -> Labels:
    return Labels(
        [f"subject {row % 4}" for row in range(size)],
        ["ABCD"[row // 4 % 4] for row in range(size)],
        {f"subject {number}": "even odd".split()[number % 2] for number in range(4)},
        ["AB"[row % 2] for row in range(size)],  # told by the subject: 0 and 2, 1 and 3
    )
