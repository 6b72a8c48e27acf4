"""What a server holds in memory: `python -m gistdemo.bench.memory exact` prints it as JSON, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

from gistdemo.bench.figure import Figure
from gistdemo.bench.ground import Ground, together
from gistdemo.generation import Precision, Sampling
from gistdemo.memory import keep_freed_memory, resident_memory
from gistdemo.settings import Settings

ROWS = ("base", "base-joint", "instruct", "instruct-embeddings")
AIMS: dict[Precision, float] = {"exact": 1.6, "fast": 0.6}


def measure(ground: Ground) -> Iterator[Figure]:
    for precision in get_args(Precision):
        found = subprocess.run([sys.executable, "-m", __name__, precision], capture_output=True, text=True, check=True)
        held = json.loads(found.stdout.splitlines()[-1])
        more, size = held["with_models"] - held["idle"], held["backbones"]
        words = f"{more:.2f} GiB above {held['idle']:.2f} GiB idle; two backbones in fp32 {size:.2f} GiB"
        what = f"memory of four checkpoints after comparisons, {precision} alone"
        yield Figure(what, "the backbones' weights in fp32, times as much", more / size, AIMS[precision], False, words)


def main(precision: Precision) -> None:
    """Print idle, with_models and backbones in GiB."""
    keep_freed_memory()
    idle = resident_memory()
    ground = Ground(Settings.from_env(), 16, 1, print)
    cells = ground.cells(ROWS)
    together(cells, Sampling(16, precision=precision))
    models = {id(cell.base): cell.base.model.model for cell in cells}.values()
    names = ("lora_A", "lora_B")
    weights = sum(p.numel() * 4 for m in models for n, p in m.named_parameters() if not any(name in n for name in names))
    print(json.dumps({"idle": idle, "with_models": resident_memory(), "backbones": weights / 2**30}))


if __name__ == "__main__":
    main(sys.argv[1])  # type: ignore[arg-type]
