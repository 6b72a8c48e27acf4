"""What all measurements stand on: models, cells, and the two ways to answer them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from gistdemo.checkpoint.pool import LoadedBackbone, ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.generation import RowReady, Sampling
from gistdemo.model.answering import EngineRow
from gistdemo.model.gist_model import GistModel
from gistdemo.model.threads import send_home
from gistdemo.prompts import Example
from gistdemo.settings import Settings

T = TypeVar("T")
K = 4
LEAVES = Example("Explain in two sentences why leaves change colour in autumn, and name one tree that does not do so.")
BRIDGE = Example("Describe how a suspension bridge carries the weight of the cars on it, as you would to a curious child of nine.")


@dataclass(frozen=True)
class Cell:
    """One answer: what the engine of its backbone is asked."""

    base: LoadedBackbone
    row: EngineRow


@dataclass(frozen=True)
class Answered:
    """How long cells took. seconds: all of it. first: of every cell, until its first token. last: until its last. tokens: per cell, its ids."""

    seconds: float
    first: list[float]
    last: list[float]
    tokens: list[list[int]]

    @property
    def tokens_per_second(self) -> float:
        return sum(map(len, self.tokens)) / self.seconds


class Ground:
    """tokens: length of answers. rounds: medians are of so many. tell: is told how far it is."""

    def __init__(self, settings: Settings, tokens: int, rounds: int, tell: Callable[[str], None]):
        self.settings, self.tokens, self.rounds, self.tell = settings, tokens, rounds, tell
        self.pool = ModelPool(settings)
        self._plain = ModelPool(settings)  # backbones read again, to which no adapter is ever attached

    def cells(self, names: Sequence[str], example: Example = LEAVES, conditions: Sequence[str] = DEFAULT_CONDITIONS) -> list[Cell]:
        """The cells of the rows of these names, without stop tokens."""
        made = []
        for name in names:
            base, loaded = self.pool.row(find_row(name, self.settings))
            shown = [CONDITIONS[c] for c in conditions if loaded.manifest or not CONDITIONS[c].gist_from]
            made += [Cell(base, replace(loaded.row(loaded.plan(example, c, K)), stop_ids=frozenset())) for c in shown]
        return made

    def forget_gists(self, cells: Sequence[Cell]) -> None:
        """Let the next comparison compress again what the last one did."""
        for cell in cells:
            cell.base.engine.gists.clear()

    def calls(self, cells: Sequence[Cell], tokens: int) -> list[list[int]]:
        """The other way: one `model.generate` call per cell."""
        said = [one_call(self._plain.backbone(cell.base.name).model, cell, tokens) for cell in cells]
        send_home()
        return said


def together(cells: Sequence[Cell], sampling: Sampling) -> Answered:
    """All cells as the page asks for them: one request per backbone, all at once."""
    began = time.perf_counter()
    first, last = [0.0] * len(cells), [0.0] * len(cells)
    tokens: list[list[int]] = [[] for _ in cells]

    def work(base: LoadedBackbone, at: list[int]) -> None:
        for event in base.engine.stream([cells[n].row for n in at], sampling):
            if isinstance(event, RowReady):
                continue
            if event.error or event.token_id is None:
                raise RuntimeError(event.error or "a cell ended early")
            last[at[event.row]] = time.perf_counter() - began
            first[at[event.row]] = first[at[event.row]] or last[at[event.row]]
            tokens[at[event.row]].append(event.token_id)

    bases = {id(cell.base): cell.base for cell in cells}
    groups = [(base, [n for n, cell in enumerate(cells) if cell.base is base]) for base in bases.values()]
    with ThreadPoolExecutor(len(groups)) as threads:
        for done in [threads.submit(work, *group) for group in groups]:
            done.result()
    return Answered(time.perf_counter() - began, first, last, tokens)


@torch.inference_mode()
def one_call(plain: GistModel, cell: Cell, tokens: int) -> list[int]:
    """One cell by `model.generate` of the plain backbone; on the gist that the cell's own model makes, where its condition has one."""
    ids = torch.tensor([cell.row.plan.prompt_ids], device=plain.device)
    options = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=sorted(cell.row.stop_ids) or -1, pad_token_id=0)
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


def timed(work: Callable[..., T], *given: Any) -> tuple[float, T]:
    """Seconds, and what the work returns."""
    began = time.perf_counter()
    found = work(*given)
    return time.perf_counter() - began, found
