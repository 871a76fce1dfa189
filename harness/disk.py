"""Write files whole, and say what a disk refuses in a sentence."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, Timeout
from safetensors import SafetensorError
from tqdm import tqdm

from harness.errors import SettingsError

# What the disk, not the program, can refuse; anything else is not the user's to put right.
REFUSED = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EBUSY, errno.ENAMETOOLONG,
    errno.ELOOP, errno.ESTALE, errno.ENOLCK, errno.EOPNOTSUPP,
}  # fmt: skip


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part.

    Raises SettingsError if the disk refuses it.
    """
    with explained(path, "for it"):
        write_with(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and put it there when it is whole and on the disk.

    A link is followed. Raises OSError as `write` and the disk do.
    """
    path = Path(os.path.realpath(path))
    # Short, as `path` may have the longest of names; and no other process's, on any machine.
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        write(unfinished)
        sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def check_file(path: Path, use: str, makes_folder: bool = False) -> None:
    """Raise SettingsError now if a file could not be written to `path`.

    use: what another file would be for, such as `as --record`.
    makes_folder: who writes it makes its folder first.
    """
    folder = path.absolute().parent
    if not os.path.isdir(folder) and not makes_folder:
        raise SettingsError(f"{path}: there is no folder {folder}; make it first")
    if os.path.isdir(path):
        raise SettingsError(f"{path}: is a folder; give the name of a file in it {use}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise SettingsError(f"{path}: is no plain file; give another {use}")
    check_folder(folder, use)


def check_folder(folder: Path, use: str) -> None:
    """Raise SettingsError now if `folder` could not be made, or written into.

    use: what another folder would be for, such as `as --out`.
    """
    nearest = next(part for part in (folder, *folder.absolute().parents) if os.path.exists(part))
    if not nearest.is_dir():
        raise SettingsError(f"{folder}: a file is in the way; give another folder {use}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingsError(f"{folder}: may not be written; give another folder {use}")


def sync(path: Path) -> None:
    """Return when what was written into a file, or the names in a folder, will outlive a crash.

    Raises OSError as the disk does.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot, for folders
            raise
    finally:
        os.close(opened)


def share(file: Path) -> None:
    """Let others read `file` as the umask says: safetensors writes files for its user alone."""
    umask = os.umask(0)
    os.umask(umask)
    with suppress(OSError):  # some file systems have no modes
        file.chmod(0o666 & ~umask)


@contextmanager
def locked(lock: BaseFileLock, what: str) -> Iterator[None]:
    """Hold a lock; while another run holds it, wait, and say on stderr what for."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"{what}: another run is at work on it; waiting for that", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(path: Path, use: str) -> Iterator[None]:
    """Turn what the disk refuses into a sentence for the user.

    path: what is written; use: what another folder would be for, such as `as --out`.

    Raises SettingsError in place of an OSError of the disk's or a SafetensorError.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors writes its files itself, and shutil copies many: the number is in their text.
        found = re.search(r"(?:os error |Errno )(\d+)", str(error))
        code = int(found[1]) if found else getattr(error, "errno", None)
        if code not in REFUSED:
            raise
        raise SettingsError(
            f"{path}: cannot be written ({os.strerror(code)}); make room there, or give another "
            f"folder {use}"
        ) from error
