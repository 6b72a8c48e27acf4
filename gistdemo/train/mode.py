"""What tells one way of training a gist from another. Each is a file in `modes/` and a line in the list there. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from gistdemo.train.objectives import GistLearning

Loss = Callable[["GistLearning", int], "tuple[Tensor, dict[str, float]]"]


@dataclass(frozen=True)
class Mode:
    """One way of training.

    meaning: a few words for command line and page. card: a sentence for the checkpoint's card. loss: what a step minimises, given the
    learning and the number of its batch; and numbers to record. adapts: where weights that are trained beside the gist vectors act; in
    "both phases" the decoder itself moves. answers: what is learnt from: references, the untouched decoder's own answers, or both; where
    own answers are, they are what is judged by as well.
    """

    name: str
    meaning: str
    card: str
    loss: Loss
    adapts: Literal["nothing", "compression", "both phases"]
    answers: Literal["references", "own", "both"]
