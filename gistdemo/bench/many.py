"""An evaluation's way of answering: many rows, places filled as they become free, answers that end when they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from gistdemo.bench.figure import Figure
from gistdemo.bench.ground import Cell, Ground, K, timed
from gistdemo.checkpoint.registry import find_row
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import read_rows
from gistdemo.evaluate.answers import generate
from gistdemo.generation import Sampling
from gistdemo.model.answering import EngineRow
from gistdemo.model.engine import Engine

SHOWN = ("full", "gist", "truncated", "none")
ROWS, CALLS = 64, 24
FEW, MANY = 50, 400


def measure(ground: Ground) -> Iterator[Figure]:
    """The calls are a sample of the rows, evenly spread over them as they stand: all of them would take half an hour."""
    base, loaded = ground.pool.row(find_row("instruct", ground.settings))
    engine, sampling = base.engine, Sampling(ground.tokens)
    rows = prompts(loaded, ground, ROWS)
    generate(engine, rows[:2], sampling)
    per_row, per_call = [], []
    for number in range(ground.rounds):
        per_row.append(_seconds_per_row(engine, rows, sampling))
        calls = [Cell(base, row) for row in rows[number :: -(-len(rows) // CALLS)]]
        per_call.append(timed(ground.calls, calls, ground.tokens)[0] / len(calls))
        ground.tell(f"evaluation, round {number + 1} of {ground.rounds}: {per_row[-1]:.3f} s an answer; a call {per_call[-1]:.3f} s")
    took = f"{len(rows)} answers, {1000 * median(per_row):.0f} ms each; a call {1000 * median(per_call):.0f} ms ({CALLS} of them a round)"
    what = f"evaluation, {ROWS} rows x {len(SHOWN)} conditions"
    yield Figure(what, "one generate call an answer, times as fast", median(per_call) / median(per_row), 14.0, details=took)
    distinct = list({row.key(): row for row in prompts(loaded, ground, None)}.values())
    few, many = ([distinct[n * len(distinct) // size] for n in range(min(size, len(distinct)))] for size in (FEW, MANY))
    costs = [_seconds_per_row(engine, part, sampling) for part in (few, many)]
    took = f"{1000 * costs[1]:.0f} ms of {len(many)}; {1000 * costs[0]:.0f} ms of {len(few)}"
    yield Figure(f"time per answer of {len(many)}", f"per answer of {len(few)}, times as long", costs[1] / costs[0], 1.1, False, took)


def prompts(loaded: LoadedCheckpoint, ground: Ground, rows: int | None) -> list[EngineRow]:
    """Prompts of the first embedded examples (None: all) under SHOWN, in the order of their length. Some are equal, as in any evaluation."""
    examples = read_rows(str(ground.settings.examples_file)).examples[:rows]
    found = [loaded.row(loaded.plan(example, CONDITIONS[name], K)) for example in examples for name in SHOWN]
    return sorted(found, key=lambda row: row.plan.prompt_tokens)


def _seconds_per_row(engine: Engine, rows: Sequence[EngineRow], sampling: Sampling) -> float:
    engine.gists.clear()
    return timed(generate, engine, rows, sampling)[0] / len(rows)
