"""Mode `joint`: gist vectors and weights (LoRA, or all) that are on in both phases, as in the paper: instruction tuning and gist together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gistdemo.train.batches import draw
from gistdemo.train.mode import Mode

if TYPE_CHECKING:
    from torch import Tensor

    from gistdemo.train.objectives import GistLearning


def loss(learning: GistLearning, batch: int) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy on reference answers, in some steps after the full prompt; if asked for, KL to the full prompt as well."""
    config = learning.config
    if draw(config.seed, "condition", batch).random() < config.full_share:
        seen = learning.with_full_prompt(batch)
        return seen.cross_entropy, seen.numbers | {"full": 1.0}
    seen = learning.with_gist(batch)
    if not config.distillation_weight:
        return seen.cross_entropy, seen.numbers
    kl = learning.divergence(seen)
    return seen.cross_entropy + config.distillation_weight * kl, seen.numbers | {"kl": kl.item()}


JOINT = Mode(
    name="joint",
    meaning="gist vectors and weights in both phases, as in the paper",
    card="Gist vectors and weights that are on in both phases, trained with cross-entropy on reference answers, part of the steps with the "
    "full prompt: instruction tuning and gist together.",
    loss=loss,
    adapts="both phases",
    own_answers=False,
)
