"""Logits to token ids. Pure: no model, no state but the generators passed in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gistdemo.generation import Sampling


def row_generators(sampling: Sampling, rows: int) -> list[torch.Generator]:
    """One generator per row, all started at the same seed: a row draws the same numbers alone and in a batch."""
    return [torch.Generator().manual_seed(sampling.seed) for _ in range(rows)]


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Choose the next token of each row.

    logits: (B, V) fp32. generators: B, used only when sampling.temperature > 0. Returns (B,) int64 on the CPU.
    """
    if sampling.is_greedy:
        return logits.argmax(-1).cpu()
    probabilities = nucleus((logits / sampling.temperature).softmax(-1), sampling.top_p).cpu()
    return torch.cat([torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)])


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probability reaches top_p, at least one; renormalise. (B, V) -> (B, V).

    Source: Holtzman et al. 2020, nucleus sampling.
    """
    if top_p >= 1:
        return probabilities
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # mass in front of each token: the first is always kept
    kept = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))
    return kept / kept.sum(-1, keepdim=True)
