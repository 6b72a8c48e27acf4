"""Memory of this process: how the C library keeps freed blocks, and how much was in use. Linux with glibc; elsewhere left alone.

Without this every large tensor is taken from the kernel and given back to it, which costs as much time as the arithmetic.
"""

from __future__ import annotations

import ctypes
import os
import platform
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of malloc.h
HUGEPAGE = 14  # MADV_HUGEPAGE of mman.h
PAGEOUT = 21  # MADV_PAGEOUT of mman.h, since Linux 5.4: a hint that loses nothing, whatever kind of memory it is given for
GROWTH = 8 * 2**30  # bytes by which the heap may grow in huge pages


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
        libc.mallopt(TRIM_THRESHOLD, -1)  # never by itself
        libc.mallopt(ARENA_MAX, 1)  # one heap for all threads, so that what follows is true of weights whoever loads them
        _prefer_huge_pages(libc)


def _prefer_huge_pages(libc: Any) -> None:
    """Let the heap grow in huge pages, where the kernel leaves that to programs: reading weights is then up to 1.7 times as fast.

    Growing room is taken, marked and given back to the heap, untouched: it costs nothing until it is used.
    """
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    room = min(GROWTH, os.sysconf("SC_PHYS_PAGES") * PAGESIZE // 2)
    if place := libc.malloc(room):
        first = -(-place // PAGESIZE) * PAGESIZE
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(place + room - PAGESIZE - first), HUGEPAGE)
        libc.free(place)


def return_freed_memory(above: float = 0.0) -> None:
    """Give what is free back to the kernel once more than `above` GiB are held: batches of many lengths leave holes that would add up to
    gigabytes."""
    libc = _glibc()
    if libc and resident_memory() > above:
        libc.malloc_trim(0)
        _prefer_huge_pages(libc)


def page_out(tensor: Any) -> None:
    """Take a contiguous tensor that will hardly be read again out of memory, if its pages came from a file; a later read fetches them again."""
    if libc := _glibc():
        first = -(-tensor.data_ptr() // PAGESIZE) * PAGESIZE
        size = (tensor.data_ptr() + tensor.nbytes - first) // PAGESIZE * PAGESIZE
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(max(0, size)), PAGEOUT)


def resident_memory() -> float:
    """Resident memory of this process in GiB. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGESIZE / 2**30


def peak_memory() -> float:
    """Peak resident memory of this process in GiB."""
    import resource  # not on Windows, where the command line still has to say that

    unit = 2**30 if platform.system() == "Darwin" else 2**20  # macOS counts in bytes, Linux in KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
