"""The C library's allocator, glibc's: memory that is freed and soon wanted again."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# glibc's numbers of these parameters, and the largest threshold that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors up to 32 MB each, on Linux.

    glibc hands blocks of more than a few hundred KB back to the system when they are freed, which
    then zeroes each of their pages when they come again: with the activations of a small model on
    a CPU that takes longer than computing them. Elsewhere, or with another allocator, nothing is
    changed.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
