"""What is asked of the system: huge pages for what is read at every step, and no more threads at rest than are needed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from lab import EXAMPLES

from gistdemo.generation import Sampling
from gistdemo.memory import keep_freed_memory, peak_memory, resident_memory
from gistdemo.model.batch import COMPUTE
from gistdemo.model.threads import _openmp, send_home
from gistdemo.settings import PROJECT_DIR

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
gnu = pytest.mark.skipif(_openmp() is None or torch.get_num_threads() < 2, reason="no OpenMP of GNU's here, or one core")


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="the kernel gives no huge pages")
def test_what_is_kept_in_memory_is_in_huge_pages_whichever_thread_made_it():
    code = """
import threading, torch
from gistdemo.memory import keep_freed_memory, return_freed_memory
keep_freed_memory()
kept = []
thread = threading.Thread(target=lambda: kept.extend(torch.ones(1_000_000) for _ in range(32)))
thread.start()
thread.join()
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert int(run.stdout) > 60_000, f"{run.stdout} KiB of 128,000 are in huge pages"


def test_preferring_them_takes_no_memory():
    before = resident_memory()
    keep_freed_memory()
    assert resident_memory() < before + 0.05 and peak_memory() > 0


def threads() -> int:
    return psutil.Process().num_threads()


@gnu
def test_a_thread_that_sends_its_helpers_home_has_none_and_computes_on_with_new_ones():
    counts = []

    def work() -> None:
        for _ in range(2):
            product = torch.ones(700, 700) @ torch.ones(700, 700)
            (product * 2).sum()
            counts.append(threads())
            send_home()
            counts.append(threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    busy, home, again, last = counts
    assert busy - home == torch.get_num_threads() - 1 and again == busy and last == home


@gnu
def test_an_engine_that_has_answered_keeps_no_helpers(lab):
    lab.ids([lab.row("full", example) for example in EXAMPLES], Sampling(4))
    COMPUTE.submit(int).result()
    before = threads()
    COMPUTE.submit(send_home).result()
    assert threads() == before, "they had gone already"
