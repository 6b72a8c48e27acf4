"""The threads that torch keeps beside each thread that computes.

A pass is spread over helper threads, which spin for a while between two of its products, ready for the next. GNU's OpenMP, which torch
brings on Linux, counts them: as soon as there are more than processors, because a second thread has computed something once, they go to
sleep between products, and a step of decoding takes half as long again. So whoever has computed and now leaves it to others sends
its helpers home.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

SOFT = 1  # omp_pause_soft of omp.h: give up threads, keep settings


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """GNU's OpenMP in this process; None where torch brings another, or the system is not Linux."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    path = next((line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line), None)
    library = ctypes.CDLL(path) if path else None
    return library if hasattr(library, "omp_pause_resource_all") else None


def send_home() -> None:
    """Let go the helpers of the thread that calls this; its next pass gets new ones, in less than a millisecond."""
    if openmp := _openmp():
        openmp.omp_pause_resource_all(SOFT)
