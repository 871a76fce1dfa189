"""Keep and find measured things by key, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from harness.errors import SettingsError
from harness.processes import ALONE, Processes

CHECKSUMS = "checksums.json"
# What the disk, not the program, can refuse; anything else is not the user's to put right.
REFUSED = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EEXIST, errno.ENOTDIR,
}  # fmt: skip


class Store:
    """A folder of entries; an entry is a folder of files under `kind/key`.

    An entry is made in a folder of its own and renamed when it is complete, so a run that is
    stopped at any moment leaves no half of an entry under its key. What it had made by then stays
    for the next run, which may go on from there. An entry whose files are not what was written
    (`checksums.json` tells) is not found, and made again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._whole: set[Path] = set()

    def find(self, kind: str, key: str) -> Path | None:
        """Return the entry's folder, or None if there is none; warn of one that is damaged."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return None
        if folder not in self._whole:
            damaged = _damaged(folder)
            if damaged:
                warnings.warn(
                    f"{folder}: {damaged} is not what was written; it is computed again",
                    stacklevel=2,
                )
                return None
            self._whole.add(folder)
        return folder

    def find_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], processes: Processes = ALONE
    ) -> Path:
        """Return the entry's folder; if there is none, let `make` fill its unfinished one first.

        make: gets a folder that is empty, or holds what an earlier, interrupted call left there.
        processes: those that call this together, and fill the folder together.

        Of two runs that ask for the same entry, one makes it and the other waits.

        Raises SettingsError if the store cannot be written: it is no folder, its disk is full.
        """
        found = self.find(kind, key)
        if found and processes.count == 1:
            return found
        with _explained(self.root, "as --store; what is finished is kept"):
            return self._make(kind, key, make, processes)

    def _make(
        self, kind: str, key: str, make: Callable[[Path], None], processes: Processes
    ) -> Path:
        home = self.root / kind
        home.mkdir(parents=True, exist_ok=True)
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
                _tidy(unfinished)
                write_whole(unfinished / CHECKSUMS, json.dumps(_checksums(unfinished)) + "\n")
                shutil.rmtree(home / key, ignore_errors=True)  # one that was damaged
                os.rename(unfinished, home / key)
        self._whole.add(home / key)
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


def _tidy(folder: Path) -> None:
    """Drop what killed writes left, and let others read what the umask lets them.

    safetensors writes through a file `.tmp...` that only its user may read, and renames it.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and path.name.startswith("."):
            path.unlink()
        elif path.is_file():
            path.chmod(0o666 & ~umask)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)


def _checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in `folder`, by its path there."""
    found = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _damaged(folder: Path) -> str | None:
    """Return a file of an entry that is not what was written; None of a whole one."""
    file = folder / CHECKSUMS
    if not file.exists():
        return CHECKSUMS
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        there = _checksums(folder)
    except ValueError as error:
        return f"{CHECKSUMS} ({error})"
    except OSError as error:
        # Another user's entry, or a disk that is away for a moment, is not damaged.
        raise SettingsError(
            f"{folder}: cannot be read ({error.strerror}); mend that, or give another --store"
        ) from error
    differ = [name for name in {**written, **there} if written.get(name) != there.get(name)]
    return min(differ, default=None)


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part.

    Raises SettingsError if the disk refuses it.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with _explained(path, "for it"):
        try:
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _explained(path: Path, use: str) -> Iterator[None]:
    """Turn what the disk refuses into a sentence for the user."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors writes its files itself, and has the system's number in its text.
        found = re.search(r"os error (\d+)", str(error))
        code = int(found[1]) if found else getattr(error, "errno", None)
        if code not in REFUSED:
            raise
        raise SettingsError(
            f"{path}: cannot be written ({os.strerror(code)}); make room there, or give another "
            f"folder {use}"
        ) from error
