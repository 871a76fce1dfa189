"""Keep and find measured things by key, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import SettingsError
from harness.processes import ALONE, Processes


class Store:
    """A folder of entries; an entry is a folder of files under `kind/key`.

    An entry is made in a folder of its own and renamed when it is complete, so a run that is
    stopped at any moment leaves no half of an entry under its key. What it had made by then stays
    for the next run, which may go on from there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, key: str) -> Path | None:
        """Return the entry's folder, or None if there is none."""
        folder = self.root / kind / key
        return folder if folder.is_dir() else None

    def find_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], processes: Processes = ALONE
    ) -> Path:
        """Return the entry's folder; if there is none, let `make` fill its unfinished one first.

        make: gets a folder that is empty, or holds what an earlier, interrupted call left there.
        processes: those that call this together, and fill the folder together.

        Of two runs that ask for the same entry, one makes it and the other waits.

        Raises SettingsError if the store's folder cannot be made.
        """
        found = self.find(kind, key)
        if found and processes.count == 1:
            return found
        home = self.root / kind
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"{self.root}: cannot be a store ({error.strerror}); give another folder as --store"
            ) from error
        with _held(FileLock(home / f"{key}.lock"), processes):
            # Another run may have made it while we waited; the lock keeps all our processes agreed.
            found = self.find(kind, key)
            if found:
                return found
            processes.wait()
            unfinished = self._unfinished(kind, key)
            unfinished.mkdir(exist_ok=True)
            try:
                make(unfinished)
            except BaseException:
                with suppress(OSError):
                    unfinished.rmdir()  # only if nothing is in it
                raise
            processes.wait()
            if processes.is_main:
                os.rename(unfinished, home / key)
        return home / key

    def forget_unfinished(self, kind: str, key: str) -> None:
        """Drop what an interrupted run left for the next one.

        Raises SettingsError while another run makes the entry.
        """
        unfinished = self._unfinished(kind, key)
        if not unfinished.exists():
            return
        try:
            with FileLock(self.root / kind / f"{key}.lock", timeout=0):
                shutil.rmtree(unfinished)
        except Timeout as error:
            raise SettingsError(
                f"{unfinished}: another run is at work on it; wait for it, or stop it"
            ) from error

    def _unfinished(self, kind: str, key: str) -> Path:
        return self.root / kind / f".{key}.unfinished"


@contextmanager
def _held(lock: FileLock, processes: Processes) -> Iterator[None]:
    """Hold `lock` for all `processes`: the main one takes it, and keeps it until all are done."""
    if not processes.is_main:
        processes.wait()
        yield
        processes.wait()
        return
    with lock:
        processes.wait()
        yield
        processes.wait()


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
