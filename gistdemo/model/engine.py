"""Streams the answers of a batch of rows whose prompts differ in length, condition, checkpoint and adapter.

One forward pass per step serves all rows. Padding is told by the mask, positions are per row, and nothing is stripped from
decoded text: the engine reports new ids only. Letters as in `gistdemo.model`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gistdemo.errors import one_line
from gistdemo.generation import FinishReason, RowReady, Sampling, TokenEvent
from gistdemo.model.decoding import Decoding
from gistdemo.model.gist_cache import GistCache, keys_and_values, stack
from gistdemo.model.gist_model import Compression, GistModel, gist_row, pad_left
from gistdemo.model.packed import computing
from gistdemo.model.sampling import choose, row_generators
from gistdemo.prompts import PromptPlan

log = logging.getLogger(__name__)


class _Turns:
    """A lock that goes to whoever has waited longest. Each pass uses all cores: side by side, two only slow each other down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()  # the first has its turn

    def __enter__(self) -> None:
        turn = threading.Event()
        with self._lock:
            self._queue.append(turn)
            if len(self._queue) == 1:
                turn.set()
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._queue.popleft()
            if self._queue:
                self._queue[0].set()


TURNS = _Turns()  # of all engines of this process


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
    """The rows still running, in batch order. `indices` are the caller's row numbers. last: (B,) ids to feed next."""

    indices: list[int]
    decoding: Decoding
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

        greedy = sampling.temperature == 0
        with TURNS, computing(sampling.precision):
            batch, ready, failed, logits = self._start(rows, greedy)
        seconds = time.perf_counter() - began
        yield from (RowReady(row, size, seconds) for row, size in ready)
        yield from (end(row, "error", text) for row, text in failed.items())
        while batch is not None and batch.indices:
            if stop is not None and stop.is_set():
                yield from (end(row, "stopped") for row in batch.indices)
                return
            if logits is None:
                try:
                    with TURNS, computing(sampling.precision):
                        logits = self._step(batch, greedy)
                except Exception as error:
                    log.exception("decoding failed")
                    yield from (end(row, "error", one_line(error)) for row in batch.indices)
                    return
            finite = torch.isfinite(logits.sum(-1)).tolist()  # one pass over what may be 262,144 values per row; isfinite() takes five
            chosen = choose(logits if all(finite) else logits.nan_to_num(0.0), sampling, [generators[row] for row in batch.indices])
            logits, going = None, []
            seconds = time.perf_counter() - began
            for n, row in enumerate(batch.indices):
                if not finite[n]:
                    yield end(row, "error", "The model produced a value that is not a number for this row.")
                    continue
                token = int(chosen[n])
                counts[row] += 1
                if token in rows[row].stop_ids:
                    yield TokenEvent(row, token, texts[row].flush(), "eos", seconds)
                elif counts[row] == sampling.max_new_tokens:
                    yield TokenEvent(row, token, texts[row].push(token) + texts[row].flush(), "limit", seconds)
                else:
                    going.append(n)
                    yield TokenEvent(row, token, texts[row].push(token), None, seconds)
            batch.last = chosen
            if going and len(going) < len(batch.indices):
                batch.keep(going)
            elif not going:
                return

    @torch.inference_mode()
    def _start(self, rows: Sequence[EngineRow], greedy: bool) -> tuple[_Batch | None, list[tuple[int, int]], dict[int, str], Tensor | None]:
        """Compress, stack, read the prompts. Returns the batch, (row, kv bytes), failures by row, and the first logits."""
        caches, failed = self._compress_each(rows)
        known = {None, *self.model.adapters.names}
        failed |= {n: f"Adapter '{row.decode_adapter}' is not attached." for n, row in enumerate(rows) if row.decode_adapter not in known}
        alive = [n for n in range(len(rows)) if n not in failed]
        if not alive:
            return None, [], failed, None
        try:
            decoding, sizes, logits = self._prefill([rows[n] for n in alive], stack([caches[n] for n in alive]), greedy)
        except Exception as error:
            log.exception("reading the prompts failed")
            return None, [], failed | dict.fromkeys(alive, one_line(error)), None
        return _Batch(alive, decoding), list(zip(alive, sizes, strict=True)), failed, logits

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

    def _prefill(self, rows: Sequence[EngineRow], start: GistCache, greedy: bool) -> tuple[Decoding, list[int], Tensor]:
        """Read the prompts on top of what is compressed. Returns the rows, the bytes of their keys and values, and the first logits."""
        ids, mask = pad_left([row.plan.prompt_ids for row in rows], self.model.device)
        adapters, cache = [row.decode_adapter for row in rows], start.to_dynamic_cache(self.model.config)
        places, positions = start.followed_by(mask)
        logits = self.model.next_logits(adapters, ids, places, positions, cache, greedy)
        keys, values = keys_and_values(cache)
        per_place = sum(t.shape[1] * t.shape[3] * t.element_size() for t in (*keys, *values))
        return self.model.decoding(adapters, places, positions, cache), [per_place * int(n) for n in places.sum(1)], logits

    @torch.inference_mode()
    def _step(self, batch: _Batch, greedy: bool) -> Tensor:
        return batch.decoding.next_logits(batch.last.to(self.model.device), greedy)
