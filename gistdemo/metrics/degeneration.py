"""Verdicts: all findings about one text (F1, F3-F6, F8, F9), and answers that ignore their instructions across a set (F7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gistdemo.metrics import loop_checks, repetition_checks, text_checks
from gistdemo.metrics.flags import Answer, Flag

Verdict = Literal["healthy", "warning", "degenerate"]
VERDICTS: tuple[Verdict, ...] = ("healthy", "warning", "degenerate")
BLIND_MIN_CHARACTERS = 30  # "Yes." is right for many instructions; equal answers of 30 characters and more: 0 in 211 Human rows


class Kind(NamedTuple):
    """A kind of finding.

    code, name: as in `Flag`. words: what stands beside a mark. more: what they mean. check: finds it in one text; None: `assess` tells it
    from what else is known.
    """

    code: str
    name: str
    words: str
    more: str
    check: Callable[[Answer], Iterator[Flag]] | None = None


FLAGS = (
    Kind("F1", "empty", "empty answer", "no text at all", text_checks.empty),
    Kind("F2", "hit_limit", "reached the limit", "cut before it ended by itself"),
    Kind("F3", "loop", "loop", "the same stretch of text over and over", loop_checks.loop),
    Kind("F4", "repetitive", "repetitive", "few different words for its length", repetition_checks.repetitive),
    Kind("F5", "prompt_echo", "echoes the prompt", "its words are those of what was asked", repetition_checks.prompt_echo),
    Kind("F6", "template_leak", "prompt labels leak into the answer", "such as 'Instruction:'", text_checks.template_leak),
    Kind("F7", "instruction_blind", "blind to the instruction", "other instructions get the same answer"),
    Kind("F8", "garbled", "garbled", "hardly any words", text_checks.garbled),
    Kind("F9", "wrong_language", "other script than asked", "letters that no language in the prompt calls for", text_checks.wrong_language),
    Kind("F10", "identical_to_full", "same as the full prompt's answer", "what was left out of the prompt changed nothing"),
    Kind("F10", "identical_to_dropped", "same as without the instruction", "what was left of it in the prompt changed nothing"),
)
_SEVERITY_ORDER = {"fail": 0, "warn": 1, "info": 2}


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one text, the most severe first. "degenerate": one failed at least; "warning": one warned."""

    verdict: Verdict
    flags: tuple[Flag, ...] = ()


def diagnose(text: str, instruction: str | None = None, input: str | None = None) -> Diagnosis:
    """Look for every known kind of degeneration in one answer.

    Args:
        text: the complete answer, with nothing trimmed.
        instruction, input: the prompt's parts, which may excuse a repetition, a label or another script. None: not known.

    Returns: a Diagnosis, made of these three alone; the spans of its flags are (start, stop) in characters of `text`.
             About 0.8 ms for 128 tokens.
    Not:     does not judge whether an answer is right, and changes no text.

    >>> diagnose("Output: www\\n" * 14).flags[0].evidence
    "'Output: www' x 14, 56 of 56 words and signs, to the end of the text"
    """
    answer = Answer(text, instruction, input or "")
    flags = [flag for kind in FLAGS if kind.check for flag in kind.check(answer)]
    flags.sort(key=lambda flag: _SEVERITY_ORDER[flag.severity])  # stable: F1 before F3 within one severity
    severities = {flag.severity for flag in flags}
    verdict: Verdict = "degenerate" if "fail" in severities else "warning" if "warn" in severities else "healthy"
    return Diagnosis(verdict, tuple(flags))


def instruction_blind(items: Iterable[tuple[str, str | None, str | None]]) -> list[Flag]:
    """F7: find answers that are equal although their instructions differ, which no model that reads instructions gives.

    Args:    items: (instruction, input, output) per row; only rows with the same input (or none) are compared.
    Returns: one Flag "instruction_blind" per group, in order of first appearance. Its members are the indices of the rows in
             `items`, its value the number of different instructions. Case and blanks are ignored in all three texts.
    Source:  measured on the results of Mu et al. 2023: for 44 Human instructions without input their gist model gives 44
             different outputs, their negative control (instruction hidden) gives one.
    """
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for index, (instruction, given, output) in enumerate(items):
        said = _normalised(output)
        if len(said) >= BLIND_MIN_CHARACTERS:
            groups.setdefault((_normalised(given), said), []).append((index, _normalised(instruction)))
    flags = []
    for (_, said), rows in groups.items():
        different = len({instruction for _, instruction in rows})
        if different >= 2:
            evidence = f"{different} different instructions gave the same {len(said)}-character output"
            members = tuple(index for index, _ in rows)
            flags.append(Flag("F7", "instruction_blind", "fail", None, evidence, float(different), members))
    return flags


def _normalised(text: str | None) -> str:
    return " ".join((text or "").casefold().split())
