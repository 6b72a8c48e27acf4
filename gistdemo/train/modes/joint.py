"""Mode `joint`: gist vectors and weights (LoRA, or all) that are on in both phases, as in the paper: instruction tuning and gist together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gistdemo.train.batches import draw
from gistdemo.train.mode import Mode

if TYPE_CHECKING:
    from torch import Tensor

    from gistdemo.train.objectives import GistLearning


def loss(learning: GistLearning, batch: int) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy on reference answers, in some steps after the full prompt; if asked for, KL to the full prompt and unlikelihood of
    repeats as well."""
    config = learning.config
    full = draw(config.seed, "condition", batch).random() < config.full_share
    seen = learning.with_full_prompt(batch) if full else learning.with_gist(batch)
    total, numbers = seen.cross_entropy, seen.numbers | ({"full": 1.0} if full else {})
    if config.distillation_weight and not full:
        kl = learning.divergence(seen)
        total, numbers = total + config.distillation_weight * kl, numbers | {"kl": kl.item()}
    if config.unlikelihood_weight:
        total = total + config.unlikelihood_weight * seen.unlikelihood
        numbers |= {"unlikelihood": seen.unlikelihood.item()}
    return total, numbers


JOINT = Mode(
    name="joint",
    meaning="gist vectors and weights in both phases, as in the paper",
    card="Gist vectors and weights that are on in both phases, trained with cross-entropy on reference answers, part of the steps with the "
    "full prompt: instruction tuning and gist together.",
    loss=loss,
    adapts="both phases",
    answers="references",
)
