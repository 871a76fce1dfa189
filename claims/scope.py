"""Where in a model, and about which models, the claims speak."""

from collections.abc import Mapping

import numpy as np
import pytest

from fixtures.contrast import Extreme
from harness.landscape import Landscape
from harness.published import PUBLISHED

# Relative depth. The transition lies between early and late: in Llama-3-8b it is layer 16 of 32.
EARLY, MIDDLE, LATE = (0.0, 0.4), (0.35, 0.65), (0.6, 1.0)

# Accuracy: what guessing gives, with a margin.
GUESSING = 0.25 + 0.05
# Below the first the paper sees few-shot and fine-tuned landscapes differ ("65 to 70 %"), and above
# the second come close; of models between them it says nothing.
MODERATE_ACCURACY, HIGH_ACCURACY = 0.70, 0.75


def authors_curves(exceptions: Mapping[str, str]) -> dict[str, str]:
    """Return exceptions of the published curves alone, by model.

    Those of the ID have a larger scale than Gride's here, so they say nothing of the models.
    """
    return {f"{PUBLISHED}{model}": why for model, why in exceptions.items()}


def papers_own(exceptions: Mapping[str, str]) -> dict[str, str]:
    """Return exceptions of the paper's models, by its names, also of their published curves."""
    return {**exceptions, **authors_curves(exceptions)}


def need(landscape: Landscape, name: str) -> None:
    """Skip a claim about a curve that published curves do not have.

    Where a model was measured and nothing is known, as of kindred subjects with one peak in every
    layer, the claim is not left out: it is inconclusive.
    """
    if landscape.model.startswith(PUBLISHED) and not landscape.has(name):
        pytest.skip(f"needs the curve {name}, which is not known of {landscape.model}")


def smallest(parts: Mapping[str, float]) -> Extreme:
    """Return the smallest of named values; NaN if one is, which Python's `min` may overlook."""
    return Extreme(np.min(list(parts.values())), parts)


def largest(parts: Mapping[str, float]) -> Extreme:
    """Return the largest of named values; NaN if one is, which Python's `max` may overlook."""
    return Extreme(np.max(list(parts.values())), parts)
