"""Mode `compressor`: gist vectors and LoRA that is on only while compressing, distilled from the full prompt; the decoder is untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gistdemo.train.mode import Mode

if TYPE_CHECKING:
    from torch import Tensor

    from gistdemo.train.objectives import GistLearning


def loss(learning: GistLearning, batch: int) -> tuple[Tensor, dict[str, float]]:
    """KL from the gist to the full prompt, and a share of cross-entropy, on references and on the decoder's own answers."""
    seen = learning.with_gist(batch)
    kl = learning.divergence(seen)
    kinds = {"own": float(seen.pool.endswith("own")), "long": float(seen.pool.startswith("long"))}
    return kl + learning.config.cross_entropy_weight * seen.cross_entropy, seen.numbers | {"kl": kl.item()} | kinds


COMPRESSOR = Mode(
    name="compressor",
    meaning="gist vectors and LoRA in phase 1, distilled from the full prompt",
    card="Gist vectors and a LoRA adapter that is on only while compressing, distilled from the full prompt; the decoder is the backbone, "
    "untouched.",
    loss=loss,
    adapts="compression",
    answers="both",
)
