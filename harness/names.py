"""What models and datasets are called in results: never by where they lie on one machine."""

from __future__ import annotations

import os


def model_name(given: str) -> str:
    """Return the name of a model's folder, also of `.`, or of it on the hub without its owner."""
    return os.path.basename(os.path.abspath(os.path.expanduser(given)))


def dataset_name(given: str) -> str:
    """Return the name of a dataset's folder, or its hub name as it is."""
    folder = os.path.expanduser(given)
    return os.path.basename(os.path.abspath(folder)) if os.path.isdir(folder) else given
