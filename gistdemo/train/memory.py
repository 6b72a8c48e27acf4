"""Memory of a training process: how the C library keeps freed blocks, and how much was in use. Linux with glibc; elsewhere left alone."""

from __future__ import annotations

import ctypes
import platform
import resource
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h


def _glibc() -> Any:
    if platform.system() != "Linux":
        return None
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # another libc
        return None


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning each large tensor to the kernel (docs/LOG.md has what it saves)."""
    if libc := _glibc():
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give what is free back to the kernel. Batches of many lengths leave holes between blocks that would add up to gigabytes."""
    if libc := _glibc():
        libc.malloc_trim(0)


def peak_memory() -> float:
    """Peak resident memory of this process in GiB."""
    unit = 2**30 if platform.system() == "Darwin" else 2**20  # macOS counts in bytes, Linux in KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
