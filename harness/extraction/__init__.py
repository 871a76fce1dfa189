"""From prompts and a model to the representations of every layer."""

from harness.extraction.extract import Representations, extract, read_layer

__all__ = ["Representations", "extract", "read_layer"]
