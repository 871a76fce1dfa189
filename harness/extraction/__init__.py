"""From prompts and a model to the representations of every layer."""

from harness.extraction.extract import extract, extract_into
from harness.extraction.shards import Representations, read_layer

__all__ = ["Representations", "extract", "extract_into", "read_layer"]
