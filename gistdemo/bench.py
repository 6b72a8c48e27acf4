"""How fast this machine answers: the grid's batches against one `model.generate` call per cell, in one process, round by round.

Ratios, not seconds, are what is compared: both sides run alternately on the same machine. Greedy; nothing ends early. The calls run on
backbones as they are, without adapter layers, so that they pay nothing for them; a compressor is on while its gist is made.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, get_args

import torch
import transformers
from transformers import GenerationConfig

from gistdemo.checkpoint.pool import LoadedBackbone, ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.errors import UsageError
from gistdemo.generation import Precision, RowReady, Sampling
from gistdemo.model.answering import EngineRow
from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import Example
from gistdemo.settings import Settings

EXAMPLE = Example("Explain in two sentences why leaves change colour in autumn, and name one tree that does not do so.")
K = 4
SIX, NINE = ("instruct", "instruct-embeddings"), ("base", "base-joint", "instruct")
TARGETS = {  # times as fast as the calls, by rows and precision
    (SIX, "exact"): 5.0,
    (SIX, "fast"): 9.0,
    (NINE, "exact"): 6.0,
}


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: what the engine of its backbone is asked."""

    base: LoadedBackbone
    row: EngineRow


@dataclass(frozen=True)
class Answered:
    """How long the cells took. seconds: all of it. first, all_first: until the first cell and until every cell has its first token.

    tokens: per cell, its ids.
    """

    seconds: float
    first: float
    all_first: float
    tokens: list[list[int]]


@dataclass(frozen=True)
class Measured:
    """One line of the table: medians over the rounds. ratio: calls / cells. first, all_first: in units of one call's first token.

    same_answers: among the cells whose decoder is the backbone, those whose tokens are the calls'.
    """

    rows: tuple[str, ...]
    cells: int
    precision: Precision
    seconds: float
    tokens_per_second: float
    calls: float
    ratio: float
    target: float | None
    first: float
    all_first: float
    same_answers: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def cells_of(names: Sequence[str], pool: ModelPool) -> list[Cell]:
    """The default conditions of the rows of these names, without stop tokens."""
    made = []
    for name in names:
        base, loaded = pool.row(find_row(name, pool.settings))
        shown = [CONDITIONS[c] for c in DEFAULT_CONDITIONS if loaded.manifest or not CONDITIONS[c].gist_from]
        made += [Cell(base, replace(loaded.row(loaded.plan(EXAMPLE, c, K)), stop_ids=frozenset())) for c in shown]
    return made


def together(cells: Sequence[Cell], sampling: Sampling) -> Answered:
    """All cells as the page runs them: one batch per backbone, backbones step by step in turn."""
    began, first = time.perf_counter(), [0.0] * len(cells)
    tokens: list[list[int]] = [[] for _ in cells]

    def work(engine: Any, at: list[int]) -> None:
        for event in engine.stream([cells[n].row for n in at], sampling):
            if isinstance(event, RowReady):
                continue
            if event.error or event.token_id is None:
                raise RuntimeError(event.error or "a cell ended early")
            first[at[event.row]] = first[at[event.row]] or time.perf_counter() - began
            tokens[at[event.row]].append(event.token_id)

    engines = {id(cell.base): cell.base.engine for cell in cells}
    groups = {key: [n for n, cell in enumerate(cells) if id(cell.base) == key] for key in engines}
    with ThreadPoolExecutor(len(groups)) as threads:
        for done in [threads.submit(work, engines[key], at) for key, at in groups.items()]:
            done.result()
    return Answered(time.perf_counter() - began, min(first), max(first), tokens)


def one_call(plain: GistModel, cell: Cell, tokens: int) -> list[int]:
    """One cell by `model.generate` of the plain backbone; on the gist that the cell's own model makes, where its condition has one."""
    ids = torch.tensor([cell.row.plan.prompt_ids], device=plain.device)
    options = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    if cell.row.plan.compress_ids is None:
        output = plain.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
    else:
        cache = cell.base.model.compress([cell.row.compression()])
        output = plain.model.generate(
            ids,
            attention_mask=torch.ones(1, cache.length + ids.shape[1], dtype=torch.long, device=plain.device),
            position_ids=torch.arange(ids.shape[1], device=plain.device)[None] + cache.next_position[:, None],
            past_key_values=cache.to_dynamic_cache(plain.config),
            generation_config=options,
        )
    made: list[int] = output[0, ids.shape[1] :].tolist()
    return made


class Calls:
    """The other side: backbones read again, to which no adapter is ever attached."""

    def __init__(self, settings: Settings):
        self._pool = ModelPool(settings)

    @torch.inference_mode()
    def run(self, cells: Sequence[Cell], tokens: int) -> list[list[int]]:
        return [one_call(self._pool.backbone(cell.base.name).model, cell, tokens) for cell in cells]


def measure(
    settings: Settings,
    tokens: int = 64,
    rounds: int = 3,
    tell: Callable[[str], None] = print,
    grids: Sequence[tuple[str, ...]] = (SIX, NINE),
) -> list[Measured]:
    """Six cells on one backbone and the nine of the first screen, both precisions against the calls, alternately.

    Raises: UsageError: tokens or rounds below 2 or 1. What loading a checkpoint raises.
    """
    if tokens < 2 or rounds < 1:
        raise UsageError(f"Bench: tokens is {tokens} and rounds {rounds}; at least 2 and 1 are needed.")
    transformers.logging.set_verbosity_error()  # about the end token that no vocabulary has
    pool, calls, found = ModelPool(settings), Calls(settings), []
    for names in grids:
        cells = cells_of(names, pool)
        ways: dict[Precision, Sampling] = {p: Sampling(tokens, precision=p) for p in get_args(Precision)}
        for sampling in ways.values():
            together(cells, replace(sampling, max_new_tokens=2))
        calls.run(cells, 2)
        answered: dict[Precision, list[Answered]] = {p: [] for p in ways}
        apart, one, said = [], [], []
        for number in range(rounds):
            for precision, sampling in ways.items():
                answered[precision].append(together(cells, sampling))
            apart.append(-time.perf_counter())
            said = calls.run(cells, tokens)
            apart[-1] += time.perf_counter()
            one.append(-time.perf_counter())
            calls.run(cells[:1], 1)
            one[-1] += time.perf_counter()
            passed = ", ".join(f"{p} {runs[-1].seconds:.2f} s" for p, runs in answered.items())
            tell(f"{len(cells)} cells, round {number + 1} of {rounds}: {passed}; {len(cells)} calls {apart[-1]:.2f} s")
        found += [_line(names, precision, runs, apart, one, cells, said) for precision, runs in answered.items()]
    return found


def _line(
    names: tuple[str, ...],
    precision: Precision,
    runs: list[Answered],
    calls: list[float],
    one: list[float],
    cells: Sequence[Cell],
    said: list[list[int]],
) -> Measured:
    seconds, apart, alone = median(run.seconds for run in runs), median(calls), median(one)
    tokens = runs[-1].tokens
    compared = [n for n, cell in enumerate(cells) if cell.row.decode_adapter is None]  # the calls answer without it
    return Measured(
        names,
        len(tokens),
        precision,
        seconds,
        sum(map(len, tokens)) / seconds,
        apart,
        apart / seconds,
        TARGETS.get((names, precision)),
        median(run.first for run in runs) / alone,
        median(run.all_first for run in runs) / alone,
        f"{sum(tokens[n] == said[n] for n in compared)} of {len(compared)}",
    )


def machine() -> str:
    """What ran here, in words."""
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} with {kernels}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def table(lines: Sequence[Measured]) -> str:
    """Markdown."""
    heads = ("cells", "rows", "precision", "seconds", "tokens/s", "calls, s", "times as fast", "target", "first token", "all first", "same")
    rows = [
        (
            m.cells, ", ".join(m.rows), m.precision, f"{m.seconds:.2f}", f"{m.tokens_per_second:.0f}", f"{m.calls:.2f}", f"{m.ratio:.1f}",
            f"{m.target:.0f}" if m.target else "-", f"{m.first:.1f}", f"{m.all_first:.1f}", m.same_answers,
        )
        for m in lines
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows))
