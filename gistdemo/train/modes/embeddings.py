"""Mode `embeddings`: gist vectors alone, learnt from reference answers; the backbone is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gistdemo.train.mode import Mode

if TYPE_CHECKING:
    from torch import Tensor

    from gistdemo.train.objectives import GistLearning


def loss(learning: GistLearning, batch: int) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy on reference answers, after the gist."""
    seen = learning.with_gist(batch)
    return seen.cross_entropy, seen.numbers


EMBEDDINGS = Mode(
    name="embeddings",
    meaning="gist vectors only",
    card="Gist vectors alone, trained with cross-entropy on reference answers; the backbone is frozen.",
    loss=loss,
    adapts="nothing",
    answers="references",
)
