"""Streams the answers of a batch of rows whose prompts differ in length, condition, checkpoint and adapter.

One forward pass per step serves all rows. Padding is told by the mask, positions are per row, and nothing is stripped from
decoded text: the engine reports new ids only. Letters as in `gistdemo.model`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from gistdemo.errors import one_line
from gistdemo.generation import FinishReason, Precision, RowReady, Sampling, TokenEvent
from gistdemo.model.decoding import Decoding
from gistdemo.model.gist_cache import GistCache, keys_and_values, stack
from gistdemo.model.gist_model import Compression, GistModel, gist_row, pad_left
from gistdemo.model.packed import computing
from gistdemo.model.sampling import choose, row_generators
from gistdemo.prompts import PromptPlan

log = logging.getLogger(__name__)
T = TypeVar("T")


# One thread computes for all requests of this process, a step of one after a step of another, in the order they ask. Each pass uses all cores;
# and for every thread that computes torch keeps helpers that go on spinning for a while: two such threads slow each other down.
COMPUTE = ThreadPoolExecutor(1, "compute")


@dataclass(frozen=True)
class EngineRow:
    """One answer to generate. slots: (k, E), needed when plan.compress_ids is not None. Adapter names as attached; None = plain weights."""

    plan: PromptPlan
    stop_ids: frozenset[int]
    slots: Tensor | None = None
    compress_adapter: str | None = None
    decode_adapter: str | None = None

    def compression(self) -> Compression:
        """Phase 1 of this row. Raises: ValueError: slots are needed and not there."""
        if self.slots is None:
            raise ValueError("slots is None; a row whose prompt is compressed needs a tensor (k, E)")
        return gist_row(self.plan, self.slots, self.compress_adapter)


class TextStream:
    """Turns a growing list of ids into text pieces that never split a character. Joined pieces = the text of all ids."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # ids before it are final and no longer needed as context
        self._read = 0  # ids before it have been given out

    def push(self, token_id: int) -> str:
        """Add an id; return the characters that became certain."""
        self._ids.append(token_id)
        return self._take(final=False)

    def flush(self) -> str:
        """Return what was held back; an unfinished character comes out as U+FFFD."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        known, whole = self._decode(self._ids[self._window : self._read]), self._decode(self._ids[self._window :])
        if len(whole) <= len(known) or (whole.endswith("\ufffd") and not final):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""


@dataclass
class _Batch:
    """The rows still running, in batch order. `indices` are the caller's row numbers.

    logits: (B, V) of the prompts, until they have been looked at. last: (B,) ids to feed next.
    """

    indices: list[int]
    decoding: Decoding
    logits: Tensor | None
    last: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these (numbers within the batch)."""
        self.decoding.keep(rows)
        self.last = self.last[rows]
        self.indices = [self.indices[n] for n in rows]


class Engine:
    """Generates with one GistModel. Safe under concurrent requests: all state lives in the generator of each."""

    def __init__(self, model: GistModel, tokenizer: Any):
        self.model = model
        self.tokenizer = tokenizer

    def stream(
        self, rows: Sequence[EngineRow], sampling: Sampling, stop: threading.Event | None = None
    ) -> Generator[RowReady | TokenEvent, None, None]:
        """Generate all rows together.

        Yields RowReady once per row whose prompt could be read, then TokenEvents step by step; within a step in row order.
        Ends when every row has had an event with a finish_reason. Setting `stop` ends all rows before the next step.
        A row whose compression fails, whose adapter is missing or whose logits are not numbers ends with finish_reason
        "error"; the others go on. Closing the generator early frees its memory.
        Not: does not check lengths against the model's context; `PromptEncoder` limits do.
        """
        began = time.perf_counter()
        texts = [TextStream(self.tokenizer) for _ in rows]
        counts = [0] * len(rows)
        generators = row_generators(sampling, len(rows))

        def end(row: int, reason: FinishReason, error: str | None = None) -> TokenEvent:
            return TokenEvent(row, None, texts[row].flush(), reason, time.perf_counter() - began, error)

        def compute(work: Callable[..., T], *given: Any) -> T:
            return COMPUTE.submit(_computed, sampling.precision, work, *given).result()

        batch, ready, failed = compute(self._start, rows, sampling)
        seconds = time.perf_counter() - began
        yield from (RowReady(row, size, seconds) for row, size in ready)
        yield from (end(row, "error", text) for row, text in failed.items())
        while batch is not None and batch.indices:
            if stop is not None and stop.is_set():
                yield from (end(row, "stopped") for row in batch.indices)
                return
            try:
                chosen = compute(self._next, batch, sampling, generators)
            except Exception as error:
                log.exception("decoding failed")
                yield from (end(row, "error", one_line(error)) for row in batch.indices)
                return
            going, seconds = [], time.perf_counter() - began
            for n, (row, token) in enumerate(zip(batch.indices, chosen, strict=True)):
                if token is None:
                    yield end(row, "error", "The model produced a value that is not a number for this row.")
                    continue
                counts[row] += 1
                if token in rows[row].stop_ids:
                    yield TokenEvent(row, token, texts[row].flush(), "eos", seconds)
                elif counts[row] == sampling.max_new_tokens:
                    yield TokenEvent(row, token, texts[row].push(token) + texts[row].flush(), "limit", seconds)
                else:
                    going.append(n)
                    yield TokenEvent(row, token, texts[row].push(token), None, seconds)
            if going and len(going) < len(batch.indices):
                compute(batch.keep, going)
            elif not going:
                return

    def _start(self, rows: Sequence[EngineRow], sampling: Sampling) -> tuple[_Batch | None, list[tuple[int, int]], dict[int, str]]:
        """Compress, stack, read the prompts. Returns the batch, (row, kv bytes), and failures by row."""
        caches, failed = self._compress_each(rows)
        known = {None, *self.model.adapters.names}
        failed |= {n: f"Adapter '{row.decode_adapter}' is not attached." for n, row in enumerate(rows) if row.decode_adapter not in known}
        alive = [n for n in range(len(rows)) if n not in failed]
        if not alive:
            return None, [], failed
        try:
            batch, sizes = self._prefill([rows[n] for n in alive], stack([caches[n] for n in alive]), alive, sampling)
        except Exception as error:
            log.exception("reading the prompts failed")
            return None, [], failed | dict.fromkeys(alive, one_line(error))
        return batch, list(zip(alive, sizes, strict=True)), failed

    def _compress_each(self, rows: Sequence[EngineRow]) -> tuple[dict[int, GistCache], dict[int, str]]:
        """Phase 1 of every row that has one: in one batch, or one by one when the batch fails, to find out which row it is."""
        caches = {n: self.model.empty(1) for n, row in enumerate(rows) if row.plan.compress_ids is None}
        todo = {n: row for n, row in enumerate(rows) if row.plan.compress_ids is not None}
        failed: dict[int, str] = {}
        try:
            caches |= self._compressed(todo)
        except Exception:
            log.exception("compressing in one batch failed; trying row by row")
            for n, row in todo.items():
                try:
                    caches |= self._compressed({n: row})
                except Exception as error:
                    log.exception("compressing row %d failed", n)
                    failed[n] = one_line(error)
        return caches, failed

    def _compressed(self, rows: dict[int, EngineRow]) -> dict[int, GistCache]:
        if not rows:
            return {}
        together = self.model.compress([row.compression() for row in rows.values()])
        return {n: together.row(at) for at, n in enumerate(rows)}

    def _prefill(self, rows: Sequence[EngineRow], start: GistCache, indices: list[int], sampling: Sampling) -> tuple[_Batch, list[int]]:
        """Read the prompts on top of what is compressed. Returns the batch, and the bytes of each row's keys and values."""
        ids, mask = pad_left([row.plan.prompt_ids for row in rows], self.model.device)
        adapters, cache = [row.decode_adapter for row in rows], start.to_dynamic_cache(self.model.config)
        places, positions = start.followed_by(mask)
        logits = self.model.next_logits(adapters, ids, places, positions, cache, sampling.is_greedy)
        keys, values = keys_and_values(cache)
        per_place = sum(t.shape[1] * t.shape[3] * t.element_size() for t in (*keys, *values))
        batch = _Batch(indices, self.model.decoding(adapters, places, positions, cache), logits)
        return batch, [per_place * int(n) for n in places.sum(1)]

    def _next(self, batch: _Batch, sampling: Sampling, generators: Sequence[torch.Generator]) -> list[int | None]:
        """The next token of each row; None where the logits are not numbers."""
        if batch.logits is None:
            batch.logits = batch.decoding.next_logits(batch.last.to(self.model.device), sampling.is_greedy)
        logits, batch.logits = batch.logits, None
        finite = torch.isfinite(logits.sum(-1)).tolist()  # one pass over what may be 262,144 values per row; isfinite() takes five
        batch.last = choose(logits if all(finite) else logits.nan_to_num(0.0), sampling, [generators[row] for row in batch.indices])
        return [token if known else None for token, known in zip(batch.last.tolist(), finite, strict=True)]


@torch.inference_mode()
def _computed(precision: Precision, work: Callable[..., T], *given: Any) -> T:
    with computing(precision):
        return work(*given)
