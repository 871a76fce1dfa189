"""Tables that were read from a file, checked against a JSON schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from harness.errors import RecordError

Table = Mapping[str, Any]
LONGEST = 160  # characters of a message, which quotes what it found


def read_schema(file: Path) -> Table:
    """Return the schema in `file`, a file of ours."""
    schema: Table = json.loads(file.read_text(encoding="utf-8"))
    return schema


def read_json(text: str, name: str, way_out: str) -> object:
    """Return the JSON value of `text`, whose numbers are all finite.

    name: of the file, for messages; way_out: what the user can do.

    Raises RecordError for text that is none, or for a number that is not finite.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"the number {digits[:20]} is not finite")
        return value

    def whole(digits: str) -> int:
        number(digits)
        return int(digits)

    try:
        return json.loads(text, parse_float=number, parse_int=whole, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name}: is not JSON ({error}); {way_out}") from error


def check_table(table: object, schema: Table, version: str, name: str, way_out: str) -> Table:
    """Return `table`, a JSON value, if it is as `schema` says.

    version: the field that has the version of the schema, a constant in it.
    name: of the file, for messages; way_out: what the user can do.

    Raises RecordError, with the field that is wrong or that the version is another one.
    """
    if isinstance(table, dict):
        known, found = schema["properties"][version]["const"], table.get(version)
        if found is None:
            raise RecordError(f"{name}: has no field {version!r}; {way_out}")
        if isinstance(found, int) and found != known:
            newer = "; update this project" if found > known else f"; {way_out}"
            raise RecordError(f"{name}: field {version!r} is {found}, not {known}{newer}")
    error = best_match(Draft202012Validator(schema).iter_errors(table))
    if error:
        message = error.message
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        field = error.json_path.removeprefix("$").removeprefix(".")
        raise RecordError(f"{name}: {f'field {field}: ' if field else ''}{message}; {way_out}")
    assert isinstance(table, dict)
    return table
