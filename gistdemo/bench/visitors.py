"""Several visitors at once, and one who comes again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

from gistdemo.bench.figure import Figure
from gistdemo.bench.ground import LEAVES, Answered, Cell, Ground, together
from gistdemo.generation import Sampling
from gistdemo.prompts import Example

ASKED = (
    "Explain in two sentences how rain forms over the sea, and name one place where it hardly ever falls.",
    "Write a short note to a neighbour who has watered your plants for two weeks while you were away.",
    "List the steps for changing the tyre of a bicycle in the order in which they are done.",
    "Describe the taste of a ripe mango to somebody who has never eaten any tropical fruit.",
    "Suggest three names for a small bakery in a harbour town and say why each of them fits.",
)


def measure(ground: Ground) -> Iterator[Figure]:
    sampling = Sampling(ground.tokens)
    clients = [ground.cells(("instruct",), Example(text)) for text in ASKED]
    everything = [cell for cells in clients for cell in cells]
    together(everything, Sampling(2))
    alone, at_once = [], []
    for number in range(ground.rounds):
        ground.forget_gists(everything)
        alone.append(together(everything, sampling).seconds)
        ground.forget_gists(everything)
        at_once.append(_at_once(clients, sampling))
        ground.tell(
            f"{len(clients)} clients, round {number + 1} of {ground.rounds}: {max(at_once[-1]):.2f} s; one client {alone[-1]:.2f} s"
        )
    ratio = median(alone) / median(max(each) for each in at_once)
    apart = median(max(each) / min(each) for each in at_once)
    rows = f"{len(everything)} rows: {median(max(each) for each in at_once):.2f} s; one client {median(alone):.2f} s"
    yield Figure(f"{len(clients)} clients at once, tokens/s", "one client with the same rows, times as many", ratio, 0.85, details=rows)
    yield Figure("the slowest of them", "the fastest, times as long", apart, 1.3, False)
    yield from _again(ground)


def _at_once(clients: list[list[Cell]], sampling: Sampling) -> list[float]:
    """Seconds that each client waits for its answers."""
    gate = threading.Barrier(len(clients))

    def client(cells: list[Cell]) -> float:
        gate.wait()
        return together(cells, sampling).seconds

    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(client, clients))


def _again(ground: Ground) -> Iterator[Figure]:
    """The same instruction with another input: no pass for its gist."""
    cells = [ground.cells(("instruct",), replace(LEAVES, input=text), ("gist",))[0] for text in ("An oak.", "A larch.")]
    gists, sampling = cells[0].base.engine.gists, Sampling(1)
    first, again = [], []
    for _ in range(max(3, ground.rounds)):
        ground.forget_gists(cells)
        first.append(_first_token(cells[0], sampling))
        hits = gists.hits
        again.append(_first_token(cells[1], sampling))
        if gists.hits != hits + 1:
            raise RuntimeError(f"the gist of a repeated instruction was found {gists.hits - hits} times; once was expected")
    took = f"{1000 * median(again):.0f} ms; the first time {1000 * median(first):.0f} ms; passes to compress: 0 and 1"
    yield Figure("repeated instruction, first token", "the first time, times as fast", median(first) / median(again), None, details=took)


def _first_token(cell: Cell, sampling: Sampling) -> float:
    time.sleep(0.05)  # so that helpers of the last pass have gone to sleep, as between two requests of people
    answered: Answered = together([cell], sampling)
    return answered.first[0]
