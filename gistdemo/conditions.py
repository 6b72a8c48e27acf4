"""The five conditions: what the model is shown of an instruction. Data only; `prompts.plan` turns one into token ids.

This module imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Condition:
    """One way to show an instruction to the model.

    text_shown: how much of the instruction the decoder reads as plain tokens.
    gist_from: what the gist slots were computed from (None: no gist slots).
    """

    name: str
    title: str
    text_shown: Literal["all", "first_k", "nothing"]
    gist_from: Literal["instruction", "nothing"] | None
    explanation: str

    @property
    def depends_on_k(self) -> bool:
        """Whether another budget gives another prompt."""
        return self.text_shown == "first_k" or self.gist_from is not None

    @property
    def holds_instruction(self) -> bool:
        """Whether anything stands in the instruction's place, text or slots."""
        return self.text_shown != "nothing" or self.gist_from is not None


CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition("full", "Full", "all", None, "The whole instruction as text: the upper bound."),
        Condition("gist", "Gist", "nothing", "instruction", "The instruction compressed into the keys and values of k gist tokens."),
        Condition("truncated", "Truncated", "first_k", None, "Only the first k tokens of the instruction: the same budget as the gist."),
        Condition("none", "No instruction", "nothing", None, "The instruction dropped: the lower bound. Only template and input remain."),
        Condition(
            "blind",
            "Blind gist",
            "nothing",
            "nothing",
            "Gist tokens that never saw the instruction: a common evaluation mistake, kept here to demonstrate it.",
        ),
    )
}

DEFAULT_CONDITIONS = ("full", "gist", "truncated")
