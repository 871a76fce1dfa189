"""Keep and find measured things by key, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class Store:
    """A folder of entries; an entry is a folder of files under `kind/key`.

    An entry is made in a temporary folder and renamed when it is complete, so a run that is
    stopped at any moment leaves either the whole entry or none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, key: str) -> Path | None:
        """Return the entry's folder, or None if there is none."""
        folder = self.root / kind / key
        return folder if folder.is_dir() else None

    def find_or_make(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the entry's folder; if there is none, let `make` fill an empty one first.

        Of two processes that ask for the same entry, one makes it and the other waits.
        """
        found = self.find(kind, key)
        if found:
            return found
        home = self.root / kind
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{key}.lock"):
            found = self.find(kind, key)  # another process may have made it while we waited
            if found:
                return found
            unfinished = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=home))
            try:
                make(unfinished)
                os.rename(unfinished, home / key)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        return home / key


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
