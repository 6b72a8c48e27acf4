"""Whether an answer is about what was asked, told from how likely a judge finds it after other prompts. docs/METHOD.md has the curves.

Two questions, each a contrast of log-likelihoods summed over the judged tokens: does the answer fit its prompt better than it fits any of
a few prompts about something else; and, where there is an input, does it fit its instruction better than other instructions before the
same input. An answer to another question fails the first, one that only follows the input fails the second. The likelihoods come from
`gistdemo.judge`; this file knows no model.

Relatives: domain-conditional PMI (Holtzman et al. 2021, arXiv 2104.08315), IFD (Li et al. 2023, arXiv 2308.12032).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gistdemo.metrics.flags import ASKS_TO_REPEAT, Answer
from gistdemo.metrics.repetition_checks import prompt_echo

TaskVerdict = Literal["on task", "unsure", "off task"]
SHORT = 4  # tokens: "Yes", "Positive" fit many prompts
TASK_VERDICTS: tuple[TaskVerdict, ...] = ("on task", "unsure", "off task")


@dataclass(frozen=True)
class Likelihoods:
    """Log-probabilities (nats, summed over `tokens` tokens) that a judge gives to the judged part of an answer.

    own: after its instruction and input. without: after the input alone. same_input: after other instructions with that input; empty where
    there is none. elsewhere: after other instructions with inputs of their own.
    """

    tokens: int
    own: float
    without: float
    same_input: Sequence[float]
    elsewhere: Sequence[float]

    @property
    def gain(self) -> float:
        """Nats per token that the instruction makes the answer more likely by."""
        return (self.own - self.without) / max(1, self.tokens)

    @property
    def contrasts(self) -> tuple[float, ...]:
        """Own minus the best of the others, by the square root of the tokens, as sums of so many differences scatter: of other prompts; and,
        where there is an input, of other instructions or none before it."""
        others = [self.elsewhere, (*self.same_input, self.without)] if self.same_input else [self.elsewhere]
        return tuple((self.own - max(found)) / math.sqrt(self.tokens) for found in others)

    @property
    def rank(self) -> int:
        """Place of the own prompt among all, 1 the most likely."""
        return 1 + sum(other > self.own for other in (*self.same_input, *self.elsewhere))


@dataclass(frozen=True)
class Bounds:
    """A contrast below `off` is off task, at or above `on` it is on task, else unsure. So few tokens as SHORT are never off task."""

    off: float
    on: float

    def verdict(self, contrast: float, tokens: int) -> TaskVerdict:
        if contrast >= self.on:
            return "on task"
        return "off task" if contrast < self.off and tokens > SHORT else "unsure"


@dataclass(frozen=True)
class Task:
    """The second judgement of an answer.

    gain: nats per token (see `Likelihoods`). rank, of: place of its own prompt among so many. reason: in words, where no likelihood was
    needed. judge: name of the checkpoint that judged; "" where none was needed.
    """

    verdict: TaskVerdict
    gain: float | None = None
    rank: int | None = None
    of: int | None = None
    reason: str = ""
    judge: str = ""


def judge_task(found: Likelihoods, bounds: Sequence[Bounds], judge: str) -> Task:
    """The worse of the verdicts of both contrasts. bounds: of other prompts, of other instructions before the same input."""
    verdicts = [bound.verdict(contrast, found.tokens) for bound, contrast in zip(bounds, found.contrasts, strict=False)]
    worst = max(verdicts, key=TASK_VERDICTS.index)
    return Task(worst, found.gain, found.rank, 1 + len(found.same_input) + len(found.elsewhere), judge=judge)


def told_at_once(text: str, instruction: str, given: str) -> Task | None:
    """The judgement of an answer that no model need read; None: one must. given: the input."""
    if not text.strip():
        return Task("off task", reason="there is no answer")
    echoes = prompt_echo(Answer(text, instruction, given))  # of longer answers; a short one repeats the instruction whole
    if any(flag.severity != "info" for flag in echoes) or (_words(text) == _words(instruction) and not ASKS_TO_REPEAT.search(instruction)):
        return Task("off task", reason="it repeats the instruction instead of answering it")
    return None


def judged_part(text: str) -> str:
    """What of an answer is judged: all of it; of one that goes round, what comes before the second copy, for copies would dilute it.

    >>> judged_part("Boil it. " * 9)
    'Boil it.'
    """
    answer = Answer(text)
    if answer.loop is None:
        return text
    return text[: answer.words.characters(0, answer.loop.start + answer.loop.period)[1]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
