"""Sliding windows, counted in positions. Some models (Gemma 3, Mistral) have layers that see the last `sliding_window` positions only.

Left to itself, transformers counts cache places instead. Here the two differ: rows are padded on the left, and of a compressed
prompt only the sink and the slots are cached. So for these models every layer caches every key, and the masks made here alone
say what is seen. Models without a window get the mask (B, P + T) they always had, and nothing below costs them anything.

A query at position p in cache place n sees a key at position q in place m when

    it is real and not later:         mask[m] and m <= n        in every layer
    and it is in the window:          p - q < sliding_window    in sliding layers

Order is that of places, as in the stock model: an anchored slot is placed after the instruction and sees all of it, also the words
whose positions are higher than its own. Where no key is left out and no slot anchored this is exactly the stock model's window.
A sink or slot whose position has slid out of the window is hidden from sliding layers, as the text at that position would be.

Letters as in `gistdemo.model`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

# types whose forward pass takes one attention mask for all layers; without layer types they all slide. Read in transformers 5.23
ONE_MASK = (
    "blt", "doge", "ministral3", "mistral", "mixtral", "phi3", "phi4_multimodal", "phimoe", "qwen3_moe", "starcoder2",
)  # fmt: skip


def window_of(config: Any) -> int | None:
    """How many positions a sliding layer sees, its own included. None: no layer of this model slides, whatever else its config holds."""
    kinds = getattr(config, "layer_types", None)
    slides = config.model_type in ONE_MASK if kinds is None else "sliding_attention" in kinds
    return getattr(config, "sliding_window", None) if slides else None


def growing_cache(config: Any) -> DynamicCache:
    """An empty transformers cache that will keep every key of every layer.

    Told of a window, transformers would keep the last window - 1 places only, padding and all, and `compress` would gather from those.
    """
    return DynamicCache() if getattr(config, "sliding_window", None) else DynamicCache(config=config)


def attention_masks(config: Any, mask: Tensor, positions: Tensor, new: int, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """What to hand to the model as attention_mask when the last `new` (= T) of P + T places are its input.

    mask: (B, P + T) int64, 1 = a real place. positions: (B, P + T) int64; those of padding do not matter.
    Returns `mask` itself for models without a window; else masks (B, 1, T, P + T) of `dtype` to add to the scores: one per kind of layer
    by name or, for models whose layers are all alike and named nowhere (Mistral), the one they share.
    """
    window = window_of(config)
    if window is None:
        return mask
    first = mask.shape[1] - new
    places = torch.arange(mask.shape[1], device=mask.device)
    seen = mask.bool()[:, None] & (places <= places[first:, None])  # (B, T, P + T)
    near = positions[:, None] > positions[:, first:, None] - window
    sliding = _additive(seen & near, dtype)
    if getattr(config, "layer_types", None) is None:
        return sliding
    return {"full_attention": _additive(seen, dtype), "sliding_attention": sliding}


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, P + T) bool to (B, 1, T, P + T): 0 where seen, else the smallest number.

    Not bool, which eager attention would add as 0 and 1; not -inf, which makes rows that see nothing (padding) NaN.
    """
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
