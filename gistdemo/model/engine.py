"""Streams the answers of rows whose prompts differ in length, condition, checkpoint and adapter.

One forward pass per step serves all rows of all requests (see `gistdemo.model.batch`). Padding is told by the mask, positions are per row,
and nothing is stripped from decoded text: the engine reports new ids only. Letters as in `gistdemo.model`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, get_args

import torch

from gistdemo.generation import Precision, RowReady, Sampling, TokenEvent
from gistdemo.memory import return_freed_memory
from gistdemo.model.answering import EngineRow, Request
from gistdemo.model.batch import COMPUTE, Batch
from gistdemo.model.gist_model import GistModel
from gistdemo.model.gist_store import GistStore
from gistdemo.model.packed import computing
from gistdemo.model.threads import send_home

T = TypeVar("T")


class Engine:
    """Generates with one GistModel, for many callers at once. gists: what was compressed before."""

    def __init__(self, model: GistModel, tokenizer: Any):
        self.model, self.tokenizer, self.gists = model, tokenizer, GistStore()
        self._batches: dict[Precision, Batch] = {p: Batch(model, tokenizer, self.gists, p) for p in get_args(Precision)}

    def prepare(self, precision: Precision) -> None:
        """Make what answers of this precision need, so that the first one need not wait for it."""
        self.apart(precision, self.model.prepare)
        COMPUTE.submit(return_freed_memory).result()

    def apart(self, precision: Precision, work: Callable[..., T], *given: Any) -> T:
        """Compute something else with the model, between the steps of answers, and return it."""
        return COMPUTE.submit(self._apart, precision, work, *given).result()

    @torch.inference_mode()
    def _apart(self, precision: Precision, work: Callable[..., T], *given: Any) -> T:
        try:
            with computing(precision):
                return work(*given)
        finally:
            send_home()

    def stream(
        self, rows: Sequence[EngineRow], sampling: Sampling, stop: threading.Event | None = None
    ) -> Generator[RowReady | TokenEvent, None, None]:
        """Generate all rows, beside those of other callers.

        Yields, for each row whose prompt could be read, RowReady and then TokenEvents; rows that began together go on step by step. Ends
        when every row has had an event with a finish_reason. Setting `stop` ends all rows before the next step.
        A row whose compression fails, whose adapter is missing or whose logits are not numbers ends with finish_reason
        "error"; the others go on. Closing the generator early ends its rows as well.
        Not: does not check lengths against the model's context; `PromptEncoder` limits do.
        """
        request, open_rows = Request(stop), len(rows)
        send_home()
        COMPUTE.submit(self._batches[sampling.precision].add, request, rows, sampling).result()
        try:
            while open_rows:
                event = request.events.get()
                open_rows -= isinstance(event, TokenEvent) and event.finish_reason is not None
                yield event
        finally:
            request.closed = True
