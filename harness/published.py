"""Landscapes whose curves others published, in a file as `reports/published-curves.json` is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.landscape import CURVES, Landscape
from harness.schemas import check_table, numbers, read_file, read_schema

SCHEMA = read_schema(Path(__file__).with_name("published.schema.json"))
PUBLISHED = "published:"  # how the names of models begin whose curves were published


def read_published(path: Path) -> dict[str, dict[str, Landscape]]:
    """Return landscapes by model and condition from a file of published curves.

    Format: {"models": {model: {"layer": [...], curve: {condition: [value or null a layer]}}}},
    as in `reports/published-curves.json`; optional beside "layer": "subjects" (default 57) and
    "accuracy" ({condition: share of right answers}), and "note", a text for the reader.

    Raises RecordError for a file that is missing or of another format, or a name that is none of
    these, which may be a curve's, mistyped.
    """
    way_out = "give a file as reports/published-curves.json is"
    table = check_table(read_file(path, way_out), SCHEMA, str(path), way_out)
    try:
        return {model: _published(model, entry) for model, entry in table["models"].items()}
    except RecordError as error:
        raise RecordError(f"{path}: {error}; {way_out}") from error


def _published(model: str, entry: Mapping[str, Any]) -> dict[str, Landscape]:
    conditions = {name for curve in CURVES for name in entry.get(curve, {})}
    if not conditions:
        raise RecordError(f"model {model!r} has none of the curves {', '.join(CURVES)}")
    return {
        condition: Landscape(
            f"{PUBLISHED}{model}",
            condition,
            tuple(entry["layer"]),
            {
                name: numbers(entry[name][condition])
                for name in CURVES
                if condition in entry.get(name, {})
            },
            entry.get("subjects", 57),
            entry.get("accuracy", {}).get(condition),
        )
        for condition in sorted(conditions)
    }
