"""The only place that judges an answer: a text and its prompt become scores, findings with their places, and a verdict.

The verdict rests on the text, the instruction and the input alone, so the same answer has the same verdict wherever it is shown:
in a comparison, an evaluation, a report, an import. What else is known, such as why it ended or what the answers beside it say, gives
facts that stand next to the verdict and are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gistdemo.metrics.degeneration import Verdict, diagnose
from gistdemo.metrics.flags import Flag
from gistdemo.metrics.scores import scores_of
from gistdemo.metrics.task import Task
from gistdemo.prompts import Example

NEVER_READ = "the instruction never reached the model: any other instruction gives it exactly the same prompt"


@dataclass(frozen=True)
class Assessment:
    """What is to be said about one answer.

    verdict, flags: of the text (see `diagnose`). facts: F2 the limit cut it, F7 its instruction was never read, F10 it equals another
    answer. scores: see `scores_of`. task: whether it is about what was asked; None: not judged.
    """

    verdict: Verdict
    flags: tuple[Flag, ...] = ()
    facts: tuple[Flag, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    task: Task | None = None

    @property
    def codes(self) -> list[str]:
        """Codes of the flags that warn or fail."""
        return [flag.code for flag in self.flags if flag.severity != "info"]

    @property
    def answers(self) -> bool:
        """Whether this is what one would want: healthy text that is about what was asked."""
        return self.verdict == "healthy" and self.task is not None and self.task.verdict == "on task"


def assess(
    text: str,
    example: Example,
    *,
    finish_reason: str | None = None,
    blind: bool = False,
    full_text: str | None = None,
    none_text: str | None = None,
    task: Task | None = None,
) -> Assessment:
    """Judge one complete answer.

    finish_reason: "eos", "limit", "stopped" or "error"; None: not known, or not ended yet. blind: another instruction would have
    made the same prompt. full_text, none_text: the same model's answer to the full prompt, and without the instruction. task: what
    `gistdemo.judge` found, where it was asked.
    """
    found = diagnose(text, example.instruction, example.input)
    facts = []
    if blind:
        facts.append(Flag("F7", "instruction_blind", "warn", None, NEVER_READ))
    if finish_reason == "limit":
        facts.append(Flag("F2", "hit_limit", "info", None, "cut before it ended by itself"))
    own = _normalised(text)
    if own and full_text is not None and own == _normalised(full_text):
        facts.append(Flag("F10", "identical_to_full", "info", None, "the same answer as with the full instruction"))
    if own and none_text is not None and own == _normalised(none_text):
        facts.append(Flag("F10", "identical_to_dropped", "info", None, "the same answer as with the instruction dropped"))
    return Assessment(found.verdict, found.flags, tuple(facts), scores_of(text, example.output), task)


def _normalised(text: str) -> str:
    return " ".join(text.split())
