"""When: the learning rate of every step, and the steps that something is done at."""

from __future__ import annotations

import math

import numpy as np


def learning_rate_factor(step: int, steps: int, warmup_ratio: float, lowest: float) -> float:
    """Return the share of the peak learning rate at `step` of `steps`, counted from 0.

    It rises in a line over the first `warmup_ratio` (a share of the steps) from `lowest`, and falls
    to `lowest` as half a cosine.

    Source: `get_scheduler` of the paper's repository (utils/optimizer_utils.py; a later version, in
    src/, warms up over three steps at most).
    """
    rising = int(warmup_ratio * steps)
    if step < rising:
        return lowest + (1 - lowest) * step / rising
    falling = (step - rising) / max(1, steps - rising)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * falling))


def checkpoint_steps(steps: int, count: int) -> list[int]:
    """Return at most `count` steps, evenly spaced in their logarithm from 1 to before `steps`.

    Source: `get_cpt_steps` of the paper's repository (finetune.py).
    """
    spaced = np.geomspace(1, steps, count, endpoint=False) if count else np.empty(0)
    return sorted({int(step) for step in np.around(spaced)} - {steps})


def even_steps(steps: int, count: int) -> list[int]:
    """Return at most `count` evenly spaced steps, the last of which is `steps`; none for 0."""
    return sorted({max(1, round(steps * part / count)) for part in range(1, count + 1)})
