"""GistCache: the keys and values that stand for compressed prompts, one row per prompt, rows of unequal length.

Letters as in `gistdemo.model`. Knows nothing of prompts, adapters or generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from gistdemo.model.window import growing_cache


@dataclass(frozen=True)
class GistCache:
    """Keys and values of B rows, padded on the left to a common length P.

    keys, values: L tensors of (B, H, P, D) in the model's dtype, keys already rotated to the position they had in the
        full prompt, so a slice keeps its meaning.
    mask: (B, P) int64, 1 = a real position, 0 = padding.
    next_position: (B,) int64, where each row goes on, counted in the full prompt.
    positions: (B, P) int64, of every key; those of padding do not matter. Left out where rows hold the unbroken text before
        next_position, from which they follow.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    next_position: Tensor
    positions: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.mask.shape[0]

    @property
    def length(self) -> int:
        """P, padding included."""
        return self.mask.shape[1]

    def all_positions(self) -> Tensor:
        """(B, P) int64: `positions`, or what they are where they were left out."""
        if self.positions is not None:
            return self.positions
        back = torch.arange(self.length, 0, -1, device=self.mask.device)
        return (self.next_position[:, None] - back).clamp(min=0)

    @property
    def bytes(self) -> int:
        """Size of keys and values."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def row(self, index: int) -> GistCache:
        """One row without the padding on its left (a view where it can be)."""
        start = next(iter(self.mask[index].nonzero()[:, 0].tolist()), self.length)
        one = slice(index, index + 1)
        return GistCache(
            tuple(k[one, :, start:] for k in self.keys),
            tuple(v[one, :, start:] for v in self.values),
            self.mask[one, start:],
            self.next_position[one],
            self.all_positions()[one, start:],
        )

    def copied(self) -> GistCache:
        """The same in memory of its own: a view keeps all rows it was cut from."""
        keys, values = (tuple(t.clone() for t in tensors) for tensors in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def followed_by(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mask and positions, (B, P + T) int64 each, of these rows and T more tokens. mask: (B, T) int64, padded on the left."""
        width = mask.shape[1]
        start = (width - mask.sum(1))[:, None]
        more = self.next_position[:, None] + torch.arange(width, device=mask.device)[None] - start
        return torch.cat([self.mask, mask], 1), torch.cat([self.all_positions(), more.clamp(min=0)], 1)

    def to_dynamic_cache(self, config: Any) -> DynamicCache:
        """A transformers cache that starts with these tensors. Decoding appends to the copy, never to this object."""
        cache = growing_cache(config)
        if self.length:
            for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
                cache.update(k, v, layer)
        return cache


def empty_cache(config: Any, rows: int, dtype: torch.dtype, device: torch.device | str) -> GistCache:
    """A cache of `rows` rows that holds nothing: P = 0, next position 0."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    nothing = torch.zeros(rows, config.num_key_value_heads, 0, head_size, dtype=dtype, device=device)
    tensors = (nothing,) * config.num_hidden_layers
    empty = torch.zeros(rows, 0, dtype=torch.long, device=device)
    return GistCache(tensors, tensors, empty, torch.zeros(rows, dtype=torch.long, device=device))


def keys_and_values(cache: DynamicCache) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys, then values, of every layer of a transformers cache that a forward pass has filled: (B, H, T, D) each."""
    layers: list[Any] = cache.layers  # some kinds of layer hold no keys; models that have them are refused when they are loaded
    return tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)


def stack(caches: Sequence[GistCache]) -> GistCache:
    """Put rows of several caches into one batch, padding shorter ones on the left with zeros that the mask hides.

    Row order is kept. Padding is told by the mask alone: token ids are not known here, so pad = eos cannot matter.
    """
    width = max(cache.length for cache in caches)
    layers = range(len(caches[0].keys))
    return GistCache(
        tuple(side_by_side([c.keys[n] for c in caches], width) for n in layers),
        tuple(side_by_side([c.values[n] for c in caches], width) for n in layers),
        torch.cat([pad(c.mask, (width - c.length, 0)) for c in caches]),
        torch.cat([c.next_position for c in caches]),
        torch.cat([pad(c.all_positions(), (width - c.length, 0)) for c in caches]),
    )


def side_by_side(parts: Sequence[Tensor], width: int, room: int = 0) -> Tensor:
    """Tensors (b, H, p, D), p <= width, as one (B, H, width + room, D): each padded with zeros on the left, `room` places on the right."""
    rows, (_, heads, _, depth) = sum(len(t) for t in parts), parts[0].shape
    whole, at = parts[0].new_zeros(rows, heads, width + room, depth), 0
    for t in parts:
        whole[at : at + len(t), :, width - t.shape[2] : width] = t
        at += len(t)
    return whole
