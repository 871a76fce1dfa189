"""How well a clustering agrees with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score


def adjusted_rand_index(assignment: NDArray[np.int64], labels: Sequence[str]) -> float:
    """Return the ARI of (N,) cluster numbers with N labels: 1 for the same groups, 0 by chance."""
    return float(adjusted_rand_score(labels, assignment))
