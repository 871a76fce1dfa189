"""What models and datasets are called in results: never by where they lie on one machine."""

from __future__ import annotations

import os
import re

LONGEST = 200  # bytes of a file's name that come from what others call things; most disks take 255


def model_name(given: str) -> str:
    """Return the name of a model's folder, also of `.`, or of it on the hub without its owner."""
    return os.path.basename(os.path.abspath(os.path.expanduser(given)))


def dataset_name(given: str) -> str:
    """Return the name of a dataset's folder, or its hub name as it is."""
    folder = os.path.expanduser(given)
    return os.path.basename(os.path.abspath(folder)) if os.path.isdir(folder) else given


def plain_name(text: str) -> str:
    """Return `text`, which may be anything, as a part of a file's name; it may become nothing."""
    plain = re.sub(r"[^\w.@]+", "-", text).strip("-")
    return plain.encode()[:LONGEST].decode(errors="ignore")
