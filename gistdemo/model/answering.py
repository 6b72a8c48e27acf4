"""One answer on its way, and those who are told of it. No tensors: the batch computes, see `gistdemo.model.batch`."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from gistdemo.generation import FinishReason, RowReady, Sampling, TokenEvent
from gistdemo.model.gist_model import Compression, gist_row
from gistdemo.model.sampling import row_generator
from gistdemo.model.text_stream import TextStream
from gistdemo.prompts import PromptPlan


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

    def gist_key(self) -> Hashable:
        """The same for two rows exactly where their gists are the same tensors' work. None: there is none."""
        if self.plan.compress_ids is None:
            return None
        slots = None if self.slots is None else (self.slots.data_ptr(), self.slots.shape)
        return (self.plan.compress_ids, self.plan.k, self.plan.anchored_tokens, self.compress_adapter, slots)

    def key(self) -> Hashable:
        """The same for two rows exactly where one answer serves both, sampled alike."""
        return (self.gist_key(), self.plan.prompt_ids, self.decode_adapter, self.stop_ids)


class Request:
    """What one caller is told, in its own row numbers. The caller's thread takes events out; the computing thread does all else.

    closed: the caller is gone. has_begun: one of its prompts has been read.
    """

    def __init__(self, stop: threading.Event | None):
        self.events: SimpleQueue[RowReady | TokenEvent] = SimpleQueue()
        self.closed = self.has_begun = False
        self._stop, self._began = stop, time.perf_counter()

    @property
    def is_over(self) -> bool:
        return self.closed or (self._stop is not None and self._stop.is_set())

    def ready(self, row: int, kv_bytes: int, turn: float, gist_reused: bool) -> None:
        """turn: when its prompt came to be read."""
        self.has_begun = True
        self.events.put(RowReady(row, kv_bytes, self._seconds(), max(0.0, turn - self._began), gist_reused))

    def said(self, row: int, token: int | None, text: str, reason: FinishReason | None, error: str | None = None) -> None:
        self.events.put(TokenEvent(row, token, text, reason, self._seconds(), error))

    def _seconds(self) -> float:
        return time.perf_counter() - self._began


class Answer:
    """What is said in reply to one prompt. Callers with equal prompts share it: who comes later is told first what was said so far."""

    def __init__(self, row: EngineRow, sampling: Sampling, tokenizer: Any):
        self.row, self.sampling, self.generator = row, sampling, row_generator(sampling)
        self.callers: list[tuple[Request, int]] = []
        self._text = TextStream(tokenizer)
        self._ready: tuple[int, float, bool] | None = None
        self._said: list[tuple[int, str]] = []

    def told_to(self, request: Request, number: int) -> None:
        """One more caller, who calls it by this row number."""
        self.callers.append((request, number))
        if self._ready:
            request.ready(number, *self._ready)
        for token, text in self._said:
            request.said(number, token, text, None)

    def take_leave(self) -> bool:
        """Part with callers that have stopped or gone. Returns whether anybody is left."""
        for request, number in self.callers:
            if request.is_over:
                request.said(number, None, self._text.rest(), "stopped")
        self.callers = [(request, number) for request, number in self.callers if not request.is_over]
        return bool(self.callers)

    def ready(self, kv_bytes: int, turn: float, gist_reused: bool) -> None:
        """Its prompt has been read."""
        self._ready = (kv_bytes, turn, gist_reused)
        for request, number in self.callers:
            request.ready(number, *self._ready)

    def say(self, token: int | None) -> bool:
        """The next token; None: the model gave something that is not a number. Returns whether the answer goes on."""
        if token is None:
            self.fail("The model produced a value that is not a number for this row.")
            return False
        reason: FinishReason | None = None
        if token in self.row.stop_ids:
            text, reason = self._text.rest(), "eos"
        else:
            text = self._text.push(token)
            if len(self._said) + 1 == self.sampling.max_new_tokens:
                text, reason = text + self._text.rest(), "limit"
        self._said.append((token, text))
        for request, number in self.callers:
            request.said(number, token, text, reason)
        return reason is None

    def fail(self, error: str) -> None:
        """It ends here. error: one line."""
        for request, number in self.callers:
            request.said(number, None, self._text.rest(), "error", error)
