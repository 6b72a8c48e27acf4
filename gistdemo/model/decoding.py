"""Rows that are being answered, by the stock forward pass of their model. Letters as in `gistdemo.model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

if TYPE_CHECKING:
    from gistdemo.model.gist_model import GistModel


class Decoding(Protocol):
    """Keys, values and places of B rows whose prompts have been read."""

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        """Read one token of each row, ids (B,), and return logits (B, V) in fp32. greedy: only the largest of each row will be looked at."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, so that finished ones cost nothing."""


class StockDecoding:
    """Works with every model that can be loaded."""

    def __init__(self, model: GistModel, adapters: Sequence[str | None], mask: Tensor, positions: Tensor, cache: DynamicCache):
        """mask, positions: (B, T) int64, of every place in the cache."""
        self._model, self._adapters, self._mask, self._positions, self._cache = model, list(adapters), mask, positions, cache

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._positions = torch.cat([self._positions, self._positions[:, -1:] + 1], 1)
        return self._model.next_logits(self._adapters, ids[:, None], self._mask, self._positions, self._cache, greedy)

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.as_tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._positions = self._mask[index], self._positions[index]
        self._adapters = [self._adapters[n] for n in rows]
