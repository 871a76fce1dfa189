"""JSON files: read, and checked against a schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator

from harness.errors import RecordError

Table = Mapping[str, Any]
LONGEST = 160  # characters of a message, which quotes what it found


def read_schema(file: Path) -> Table:
    """Return the schema in `file`, a file of ours."""
    schema: Table = json.loads(file.read_text(encoding="utf-8"))
    return schema


def read_json(text: str, name: str, way_out: str) -> object:
    """Return the JSON value of `text`, whose numbers are all finite and whose texts are Unicode.

    name: of the file, for messages; way_out: what the user can do.

    Raises RecordError for text that is none, or has something else.
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
        found = json.loads(text, parse_float=number, parse_int=whole, parse_constant=number)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name}: is not JSON ({error}); {way_out}") from error
    return found


def writable(value: Any) -> Any:
    """Return a value as JSON can hold it, and `read_json` takes it.

    None stands for NaN and the infinities, and escapes for what a text has that is no Unicode: the
    bytes of a file's name may be anything.
    """
    if isinstance(value, Mapping):
        return {writable(key): writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [writable(one) for one in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    """Return a list of numbers that was read, with NaN where `writable` left None."""
    return tuple(math.nan if value is None else float(value) for value in values)


def read_file(file: Path, way_out: str) -> object:
    """Return the JSON value in `file`, as `read_json` does. Raises RecordError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordError(f"{file}: cannot be read ({reason}); {way_out}") from error
    return read_json(text, str(file), way_out)


def _step(part: str | int) -> str:
    """Return how a field's name goes on with a name or a number in it."""
    return f".{part}" if str(part).isidentifier() else f"[{part!r}]"


def check_table(
    table: object, schema: Table, name: str, way_out: str, version: str | None = None
) -> Table:
    """Return `table`, a JSON value, if it is as `schema` says.

    name: of the file, for messages; way_out: what the user can do.
    version: the field that has the version of the schema, a constant in it.

    Raises RecordError, with the field that is wrong or that the version is another one.
    """
    if version and isinstance(table, dict):
        known, found = schema["properties"][version]["const"], table.get(version)
        if found is None:
            raise RecordError(f"{name}: has no field {version!r}; {way_out}")
        if isinstance(found, int) and found != known:
            newer = "; update this project" if found > known else f"; {way_out}"
            raise RecordError(f"{name}: field {version!r} is {found}, not {known}{newer}")
    try:
        errors = Draft202012Validator(dict(schema)).iter_errors(table)
        error = min(errors, key=lambda one: len(one.instance_path), default=None)
    except ValueError as limit:  # of how deep a value may lie
        raise RecordError(f"{name}: cannot be checked ({limit}); {way_out}") from limit
    if error:
        message = error.message
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        field = "".join(map(_step, error.instance_path)).removeprefix(".")
        raise RecordError(f"{name}: {f'field {field}: ' if field else ''}{message}; {way_out}")
    assert isinstance(table, dict)
    return table
