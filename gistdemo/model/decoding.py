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
        self._model, self._mask, self._positions, self._next = model, whole.mask, whole.all_positions(), whole.next_position
        self._cache = whole.to_dynamic_cache(model.config)

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        return self.read(ids[:, None], torch.ones_like(ids)[:, None])

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read T tokens of each row, ids (B, T) padded on the left, mask alike; return the last position's logits (B, V) in fp32."""
        positions = (self._next[:, None] + mask.cumsum(1) - 1).clamp(min=0)
        self._next = positions[:, -1] + 1
        self._mask, self._positions = torch.cat([self._mask, mask], 1), torch.cat([self._positions, positions], 1)
        return self._model.next_logits(self.adapters, ids, self._mask, self._positions, self._cache)

    def held(self) -> GistCache:
        return GistCache(*keys_and_values(self._cache), self._mask, self._next, self._positions)
