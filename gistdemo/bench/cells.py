"""The grid of a comparison against one `model.generate` call per cell. The calls run on backbones as they are, without adapter layers, so
that they pay nothing for them; a compressor is on while its gist is made."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import get_args

from gistdemo.bench.figure import Figure
from gistdemo.bench.ground import BRIDGE, LEAVES, Answered, Cell, Ground, timed, together
from gistdemo.generation import Precision, Sampling

DEFAULT_ROWS = ("base", "base-joint", "instruct")
AIMS = {("six", "exact"): 5.0, ("six", "fast"): 9.0, ("nine", "exact"): 6.0}


def grids(ground: Ground) -> dict[str, list[Cell]]:
    """Six distinct prompts on one backbone, and the nine cells that the page opens with."""
    return {
        "six": [*ground.cells(("instruct",), LEAVES), *ground.cells(("instruct",), BRIDGE)],
        "nine": ground.cells(DEFAULT_ROWS),
    }


def measure(ground: Ground) -> Iterator[Figure]:
    for name, cells in grids(ground).items():
        ways: dict[Precision, Sampling] = {p: Sampling(ground.tokens, precision=p) for p in get_args(Precision)}
        for sampling in ways.values():
            together(cells, Sampling(2, precision=sampling.precision))
        ground.calls(cells, 2)
        answered: dict[Precision, list[Answered]] = {precision: [] for precision in ways}
        apart, one, said = [], [], list[list[int]]()
        for number in range(ground.rounds):
            for precision, sampling in ways.items():
                ground.forget_gists(cells)
                answered[precision].append(together(cells, sampling))
            seconds, said = timed(ground.calls, cells, ground.tokens)
            apart.append(seconds)
            one.append(timed(ground.calls, cells[:1], 1)[0])
            took = ", ".join(f"{p} {runs[-1].seconds:.2f} s" for p, runs in answered.items())
            ground.tell(f"{name} cells, round {number + 1} of {ground.rounds}: {took}; {len(cells)} calls {apart[-1]:.2f} s")
        for precision, runs in answered.items():
            yield from _figures(name, precision, cells, runs, apart, one, said)


def _figures(
    name: str, precision: Precision, cells: list[Cell], runs: list[Answered], apart: list[float], one: list[float], said: list[list[int]]
) -> Iterator[Figure]:
    what, calls, alone = f"{name} cells, {precision}", median(apart), median(one)
    seconds = median(run.seconds for run in runs)
    compared = [n for n, cell in enumerate(cells) if cell.row.decode_adapter is None]  # the calls answer without it
    same = f"{sum(runs[-1].tokens[n] == said[n] for n in compared)} of {len(compared)} answers the same"
    speed = f"{seconds:.2f} s, {median(run.tokens_per_second for run in runs):.0f} tokens/s; calls {calls:.2f} s; {same}"
    yield Figure(what, f"{len(cells)} generate calls, times as fast", calls / seconds, AIMS.get((name, precision)), details=speed)
    for which, pick, aim in (("first token", min, 2.0), ("all first tokens", max, 5.0)):
        found = median(pick(run.first) for run in runs)
        target = aim if name == "nine" else None
        yield Figure(
            f"{what}: {which}",
            "one call's first token, times as long",
            found / alone,
            target,
            False,
            f"{found:.2f} s; one call {alone:.2f} s",
        )
