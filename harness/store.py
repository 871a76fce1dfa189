"""Keep and find measured things by key, whole or not at all."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from harness.checksums import damaged, seal, unlisted
from harness.disk import explained, locked, share, sync
from harness.errors import SettingsError
from harness.processes import ALONE, Processes

# Where measured things are kept if nothing is said, and what says it for all commands.
STORE, STORE_VARIABLE = Path(".landscape-store"), "LANDSCAPE_STORE"


class Store:
    """A folder of entries; an entry is a folder of files under `kind/key`.

    An entry is made in a folder of its own and renamed when it is complete, so a run that is
    stopped at any moment leaves no half of an entry under its key. What it had made by then stays
    for the next run, which may go on from there. An entry whose files are not what was written
    (`checksums.json` tells) is not found, and made again; one that somebody put a file into is
    refused, for the file's sake.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._whole: set[Path] = set()

    def find(self, kind: str, key: str) -> Path | None:
        """Return the entry's folder, or None if there is none; warn of one that is damaged.

        Raises SettingsError for one that cannot be read, or that something was put into.
        """
        folder = self.root / kind / key
        if not os.path.isdir(folder):
            return None
        if folder not in self._whole:
            added = unlisted(folder)
            if added:  # made again, the entry would lose a file of somebody's
                raise SettingsError(
                    f"{folder / added}: is no part of this entry; move it elsewhere"
                )
            file = _damaged(folder)
            if file:
                warnings.warn(
                    f"{folder}: {file} is not what was written; it is computed again", stacklevel=2
                )
                return None
            self._whole.add(folder)
        return folder

    def find_or_make(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        processes: Processes = ALONE,
        prepare: Callable[[], object] = lambda: None,
    ) -> Path:
        """Return the entry's folder; if there is none, let `make` fill its unfinished one first.

        make: gets a folder that is empty, or holds what an earlier, interrupted call left there.
            Files and folders in it whose names begin with a dot are not part of the entry.
        processes: those that call this together, and fill the folder together.
        prepare: called before anything is written, if there is no entry and no other run is
            making it. What it refuses leaves nothing behind.

        Of two runs that ask for the same entry, one makes it and the other waits.

        Raises SettingsError if the store cannot be written: it is no folder, its disk is full.
        """
        if self._is_found(kind, key, processes):
            return self.root / kind / key
        if not processes.agree(processes.is_main and self._is_being_made(kind, key)):
            prepare()
        with explained(self.root, "as --store; what is finished is kept"):
            return self._make(kind, key, make, processes)

    def _is_found(self, kind: str, key: str, processes: Processes) -> bool:
        # One looks for all: another might see the shared disk as it was a moment ago.
        return bool(processes.agree(processes.is_main and self.find(kind, key) is not None))

    def _make(
        self, kind: str, key: str, make: Callable[[Path], None], processes: Processes
    ) -> Path:
        home = self.root / kind
        if processes.is_main:
            home.mkdir(parents=True, exist_ok=True)
        unfinished, entry = self._unfinished(kind, key), home / key
        with _held(self._lock(kind, key), processes, str(entry)):
            # Another run may have made it while we waited.
            if self._is_found(kind, key, processes):
                return entry
            if processes.is_main:
                unfinished.mkdir(exist_ok=True)
                _sweep(unfinished, entry)
            # If it is sealed, the run was stopped just before the renaming: all work is done.
            if not processes.agree(processes.is_main and _damaged(unfinished) is None):
                try:
                    make(unfinished)
                except BaseException:
                    if processes.is_main:
                        with suppress(OSError):
                            unfinished.rmdir()  # only if nothing is in it
                    raise
                processes.wait()
                if processes.is_main:
                    seal(unfinished)
            if processes.is_main:
                _tidy(unfinished)
                _put(unfinished, entry)
        self._whole.add(entry)
        return entry

    def forget_unfinished(self, kind: str, key: str) -> None:
        """Drop what an interrupted run left for the next one.

        Raises SettingsError while another run makes the entry.
        """
        unfinished = self._unfinished(kind, key)
        if not os.path.isdir(unfinished):
            return
        try:
            with explained(self.root, "as --store"), self._lock(kind, key).acquire(timeout=0):
                if unfinished.exists():
                    shutil.rmtree(unfinished)
        except Timeout as error:
            raise SettingsError(
                f"{unfinished}: another run is at work on it; wait for it, or stop it"
            ) from error

    def _is_being_made(self, kind: str, key: str) -> bool:
        lock = self._lock(kind, key)
        if not os.path.exists(lock.lock_file):
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except (OSError, Timeout):
            return True

    def _lock(self, kind: str, key: str) -> BaseFileLock:
        return FileLock(self.root / kind / f"{key}.lock")

    def _unfinished(self, kind: str, key: str) -> Path:
        return self.root / kind / f".{key}.unfinished"


def _damaged(folder: Path) -> str | None:
    """Return a file of an entry that is not what was written; None of a whole one."""
    try:
        return damaged(folder)
    except OSError as error:
        # Another user's entry, or a disk that is away for a moment, is not damaged.
        raise SettingsError(
            f"{folder}: cannot be read ({error.strerror}); mend that, or give another --store"
        ) from error


def _put(unfinished: Path, entry: Path) -> None:
    """Give an entry that is complete its name, in the place of one that was damaged."""
    if entry.exists():
        os.rename(entry, _old(entry))
    os.rename(unfinished, entry)
    sync(entry.parent)
    shutil.rmtree(_old(entry), ignore_errors=True)


def _sweep(unfinished: Path, entry: Path) -> None:
    """Drop what killed runs left half written: it may be large, and the disk full."""
    shutil.rmtree(_old(entry), ignore_errors=True)
    for path in unfinished.rglob(".*"):
        if path.is_file():
            path.unlink()


def _old(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.damaged")


@contextmanager
def _held(lock: BaseFileLock, processes: Processes, what: str) -> Iterator[None]:
    """Hold `lock` for all `processes`: the main one takes it, and keeps it until all are done."""
    if not processes.is_main:
        processes.wait()
        yield
        processes.wait()
        return
    with locked(lock, what):
        processes.wait()
        yield
        processes.wait()


def _tidy(folder: Path) -> None:
    """Drop what an entry is made with and what killed writes left; let others read the rest."""
    hidden = list(folder.rglob(".*"))
    for path in hidden:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have been in a hidden folder
    for path in folder.rglob("*"):
        if path.is_file():
            share(path)
