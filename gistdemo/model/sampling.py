"""Logits to token ids. Pure: no model, no state but the generators passed in."""

from __future__ import annotations

import torch
from torch import Tensor

from gistdemo.generation import Sampling


def row_generator(sampling: Sampling) -> torch.Generator:
    """Each row has one, started at its seed: it draws the same numbers alone and in a batch."""
    return torch.Generator().manual_seed(sampling.seed)


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw the next token of one row whose temperature is above 0. logits: (V,) fp32."""
    probabilities = nucleus((logits[None] / sampling.temperature).softmax(-1), sampling.top_p).cpu()
    return int(torch.multinomial(probabilities[0], 1, generator=generator))


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
