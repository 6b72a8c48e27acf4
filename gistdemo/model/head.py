"""How a model makes logits of its last hidden state: the head, then a scale, then a cap.

Serving runs the stock model and gets them from it; training and recovery want them at some places, for some tokens, and take them
from here. `gistdemo.model.probe` sees to it that both agree.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

MULTIPLIES = ("hyperclovax",)  # types whose `logits_scaling` multiplies; elsewhere (Granite) it divides


def logits_of(model: Any, hidden: Tensor, among: Tensor | None = None) -> Tensor:
    """Logits of hidden states, as the stock model makes them, in its dtype.

    hidden: (N, E), the inner model's last_hidden_state at N places. among: (C,) int64, ids of the tokens whose logits are wanted; None:
    all V. Returns (N, V) or (N, C).
    """
    head, config = model.get_output_embeddings(), model.config
    if among is None:
        logits = head(hidden)
    else:
        logits = linear(hidden, head.weight[among], None if head.bias is None else head.bias[among])
    return finished(logits, config)


def finished(logits: Tensor, config: Any) -> Tensor:
    """What the head gave, scaled and capped as the model of this config does it."""
    return _capped(_scaled(logits, config), getattr(config, "final_logit_softcapping", None))


def _scaled(logits: Tensor, config: Any) -> Tensor:
    """Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`; 1 is left out, for a pass over all logits costs time."""
    factor, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    if divisor is not None and config.model_type in MULTIPLIES:
        factor, divisor = divisor, None
    if factor not in (None, 1):
        logits = logits * factor
    return logits if divisor in (None, 1) else logits / divisor


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    """Gemma 2 bends logits into (-cap, cap)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap
