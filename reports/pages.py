"""The report's templates, and how they write what they are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.controls import MEANING, kind_of
from reports.verdict import Outcome
from reports.words import interval, number

TEMPLATES = Path(__file__).with_name("templates")
MARKS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}


def pages() -> Environment:
    """Return the templates of HTML."""
    return _templates(autoescape=True)


def texts() -> Environment:
    """Return the templates of Markdown, whose cells hold nothing that is a command."""
    return _templates(autoescape=False, finalize=cell)


def cell(text: object) -> str:
    """Return text as a cell of a Markdown table can hold it, with nothing that is a command."""
    if isinstance(text, Markup):  # of ours
        return text
    plain = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", plain)


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of tables as one, the inner ones' names behind the outer's, without None."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= {f"{key} {name}": one for name, one in flat(value).items()}
        elif isinstance(value, list):
            found[key] = ", ".join(map(str, value))
        elif value is not None:
            found[key] = value
    return found


def by_name(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """Return what came out under controls, or in variations, by their names."""
    return {one.name: one for one in outcomes}


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Return what each of some controls is; those with random weights once, without their seed."""
    kinds = {kind_of(name) for name in names}
    return {known: meaning for known, meaning in MEANING.items() if known in kinds}


def _safe(text: Callable[[Any], str]) -> Callable[[Any], Markup]:
    """Return a function whose text is known to hold nothing but numbers."""
    return lambda value: Markup(text(value))


def _templates(**options: Any) -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters |= {
        "number": _safe(number),
        "interval": _safe(interval),
        "value": _safe(lambda one: one.effect_in_words),
        "mark": MARKS.__getitem__,
    }
    found.globals |= {
        "by_name": by_name,
        "flat": flat,
        "meanings": meanings,
    }
    return found
