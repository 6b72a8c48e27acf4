"""All measurements in one run, and where they are written."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers

from gistdemo.bench import cells, long_instruction, many, memory, visitors
from gistdemo.bench.figure import Figure, table
from gistdemo.bench.ground import Ground
from gistdemo.errors import UsageError
from gistdemo.files import write_text
from gistdemo.settings import Settings

MEASUREMENTS: dict[str, Callable[[Ground], Iterator[Figure]]] = {
    "memory": memory.measure,  # first, in processes of their own: pages of a file that this one reads as well would count
    "cells": cells.measure,
    "visitors": visitors.measure,
    "long": long_instruction.measure,
    "evaluation": many.measure,
}


def measure(
    settings: Settings, tokens: int = 64, rounds: int = 3, tell: Callable[[str], None] = print, only: Sequence[str] = ()
) -> list[Figure]:
    """only: names of measurements; none: all.

    Raises: UsageError: tokens or rounds below 2 or 1, or a measurement that is not known. What loading a checkpoint raises.
    """
    if tokens < 2 or rounds < 1:
        raise UsageError(f"Bench: tokens is {tokens} and rounds {rounds}; at least 2 and 1 are needed.")
    if unknown := set(only) - set(MEASUREMENTS):
        raise UsageError(f"Bench: '{unknown.pop()}' is not measured; allowed are {', '.join(MEASUREMENTS)}.")
    transformers.logging.set_verbosity_error()  # about the end token that no vocabulary has
    ground = Ground(settings, tokens, rounds, tell)
    return [figure for name, one in MEASUREMENTS.items() if not only or name in only for figure in one(ground)]


def machine() -> str:
    """What ran here, in words."""
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} with {kernels}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def put_into(path: Path, heading: str, figures: Sequence[Figure]) -> None:
    """Put heading and table between <!-- bench --> and <!-- /bench --> of a Markdown file.

    Raises: UsageError: it has not exactly one such place.
    """
    before = path.read_text(encoding="utf-8")
    block = f"\\1{heading}\n\n{table(figures)}\n\\2"
    after, count = re.subn(r"(<!-- bench -->\n).*?(<!-- /bench -->)", block, before, flags=re.DOTALL)
    if count != 1:
        raise UsageError(f"{path.name} has {count} places <!-- bench --> ... <!-- /bench -->; exactly one is needed.")
    write_text(path, after)
