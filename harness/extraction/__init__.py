"""From prompts and a model to the representations of every layer."""

from harness.extraction.extract import extract, extract_into

__all__ = ["extract", "extract_into"]
