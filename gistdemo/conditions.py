"""The conditions: what the model is shown of an instruction. Data only; `prompts.plan` turns one into token ids.

This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

NOTHING = slice(0, 0)


@dataclass(frozen=True)
class Condition:
    """One way to show an instruction to the model.

    gist_from: what the gist slots were computed from (None: no gist slots).
    shown: which of an instruction's n tokens the decoder reads as text at a budget of k: (n, k) -> slice with bounds in 0..n.
    """

    name: str
    title: str
    explanation: str
    gist_from: Literal["instruction", "nothing"] | None = None
    shown: Callable[[int, int], slice] = lambda n, k: NOTHING

    @property
    def depends_on_k(self) -> bool:
        """Whether another budget gives another prompt."""
        return self.shown(9, 1) != self.shown(9, 2) or self.gist_from is not None

    @property
    def holds_instruction(self) -> bool:
        """Whether anything stands in the instruction's place, text or slots."""
        return self.shown(9, 1) != NOTHING or self.gist_from is not None


_CUT = "Only the first k tokens of the instruction: the same budget as the gist."
_BLIND = "Gist tokens that never saw the instruction: a common evaluation mistake, kept here to demonstrate it."
CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition("full", "Full", "The whole instruction as text: the upper bound.", shown=lambda n, k: slice(0, n)),
        Condition("gist", "Gist", "The instruction compressed into the keys and values of k gist tokens.", "instruction"),
        Condition("truncated", "Truncated", _CUT, shown=lambda n, k: slice(0, min(k, n))),
        Condition("none", "No instruction", "The instruction dropped: the lower bound. Only template and input remain."),
        Condition("blind", "Blind gist", _BLIND, "nothing"),
    )
}

DEFAULT_CONDITIONS = ("full", "gist", "truncated")
