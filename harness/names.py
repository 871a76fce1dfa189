"""What models and datasets are called in results: never by where they lie on one machine."""

from __future__ import annotations

from pathlib import Path


def model_name(given: str) -> str:
    """Return the name of a model's folder, also of `.`, or of it on the hub without its owner."""
    return Path(given).expanduser().absolute().name


def dataset_name(given: str) -> str:
    """Return the name of a dataset's folder, or its hub name as it is."""
    folder = Path(given).expanduser()
    return folder.absolute().name if folder.is_dir() else given
