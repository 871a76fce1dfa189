"""Checksums of a folder's files, kept in it: they tell what was written from what is there now."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from harness.disk import sync, write_whole

CHECKSUMS = "checksums.json"


def seal(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Write `checksums.json` into `folder`, when all that it is about is on the disk.

    files: None is all that are in the folder, but for those whose path there has a hidden part.

    Raises OSError or SettingsError where the disk refuses it.
    """
    digests = {}
    for file in _files(folder) if files is None else files:
        digests[Path(os.path.relpath(file, folder)).as_posix()] = file_digest(file)
        sync(file)
    write_whole(folder / CHECKSUMS, json.dumps(digests, indent=1, sort_keys=True) + "\n")


def damaged(folder: Path, only_listed: bool = False) -> str | None:
    """Return the first file that is not what was sealed; None if all are.

    only_listed: files that the list has not do not count.

    Raises OSError if a file cannot be read.
    """
    file = folder / CHECKSUMS
    if not file.exists():
        return CHECKSUMS
    try:
        sealed = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{CHECKSUMS} ({error})"
    if not isinstance(sealed, dict):
        return CHECKSUMS
    for name in sorted(sealed):
        if not (folder / name).is_file() or file_digest(folder / name) != sealed[name]:
            return str(name)
    return None if only_listed else unlisted(folder)


def unlisted(folder: Path) -> str | None:
    """Return the first file of a folder that was not sealed with it; None if all were.

    None also where it cannot be told, since the list itself is damaged.
    """
    try:
        sealed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(sealed, dict) or not all(map(_is_digest, sealed.values())):
        return None
    there = (one.relative_to(folder).as_posix() for one in _files(folder))
    return min((one for one in there if one not in sealed), default=None)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError if it cannot be read."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != CHECKSUMS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
