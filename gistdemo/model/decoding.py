"""Rows that are being answered, by the stock forward pass of their model. Letters as in `gistdemo.model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gistdemo.model.gist_cache import GistCache, keys_and_values, stack

if TYPE_CHECKING:
    from gistdemo.model.gist_model import GistModel


class Decoding(Protocol):
    """Keys, values and places of B rows whose prompts have been read. adapters: of each row."""

    adapters: list[str | None]

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        """Read one token of each row, ids (B,), and return logits (B, V) in fp32. greedy: only the largest of each row will be looked at."""

    def held(self) -> GistCache:
        """All that has been read (a view where it can be): what other rows can be put beside."""


class StockDecoding:
    """Works with every model that can be loaded."""

    def __init__(self, model: GistModel, adapters: Sequence[str | None], caches: Sequence[GistCache]):
        """caches: of the rows, in their order, which this one does not change."""
        whole = stack(caches)
        self.adapters = list(adapters)
        self._model, self._mask, self._positions = model, whole.mask, whole.all_positions()
        self._cache = whole.to_dynamic_cache(model.config)

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._positions = torch.cat([self._positions, self._positions[:, -1:] + 1], 1)
        return self._model.next_logits(self.adapters, ids[:, None], self._mask, self._positions, self._cache, greedy)

    def held(self) -> GistCache:
        return GistCache(*keys_and_values(self._cache), self._mask, self._positions[:, -1] + 1, self._positions)
