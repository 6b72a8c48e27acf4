"""Verdicts: all findings about one generation (F1-F6, F8-F10), and answers that ignore their instructions across a set (F7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gistdemo.metrics import loop_checks, repetition_checks, text_checks
from gistdemo.metrics.flags import Answer, Flag

Verdict = Literal["healthy", "warning", "degenerate"]
FINISH_REASONS = (None, "eos", "limit", "stopped", "error")
BLIND_MIN_CHARACTERS = 30  # "Yes." is right for many instructions; equal answers of 30 characters and more: 0 in 211 Human rows

_CHECKS = (
    text_checks.empty,
    text_checks.hit_limit,
    loop_checks.loop,
    repetition_checks.repetitive,
    repetition_checks.prompt_echo,
    text_checks.template_leak,
    text_checks.garbled,
    text_checks.wrong_language,
    text_checks.identical,
)
_SEVERITY_ORDER = {"fail": 0, "warn": 1, "info": 2}


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one answer, the most severe first. "degenerate": one failed at least; "warning": one warned."""

    verdict: Verdict
    flags: tuple[Flag, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that json can write."""
        return {"verdict": self.verdict, "flags": [flag.to_dict() for flag in self.flags]}


def diagnose(
    text: str | None,
    ids: Sequence[int] | None = None,
    instruction: str | None = None,
    input: str | None = None,
    finish_reason: str | None = None,
    *,
    full_text: str | None = None,
    none_text: str | None = None,
    token_offsets: Sequence[tuple[int, int]] | None = None,
) -> Diagnosis:
    """Look for every known kind of degeneration in one generation.

    Args:
        text: the complete generation, with nothing trimmed; None is taken as empty.
        ids: its token ids; loops are then searched and counted in tokens, otherwise in words and signs of the text.
        instruction, input: the prompt's parts, which may excuse a repetition, a label or another script.
        finish_reason: why it ended: "eos", "limit", "stopped" (by a person), "error"; None if unknown or still going on.
        full_text, none_text: the same model's answer to the full prompt, and to the prompt without its instruction.
        token_offsets: (start, stop) in characters of the text per id; makes the places found on ids exact.

    Returns: a Diagnosis; the spans of its flags are (start, stop) in characters of `text`. About 0.8 ms for 128 tokens.
    Raises:  ValueError: an unknown finish_reason, or not one token offset per id.
    Not:     does not judge whether an answer is right, and changes no text.

    >>> diagnose("Output: www\\n" * 14).flags[0].evidence
    "'Output: www' x 14, 56 of 56 words and signs"
    """
    if finish_reason not in FINISH_REASONS:
        raise ValueError(f"finish_reason is {finish_reason!r}; allowed are {', '.join(map(repr, FINISH_REASONS))}.")
    tokens = () if ids is None else tuple(ids)
    if token_offsets is not None and len(token_offsets) != len(tokens):
        raise ValueError(f"{len(token_offsets)} token_offsets for {len(tokens)} ids; give one (start, stop) per id.")
    answer = Answer(
        text or "",
        tokens,
        None if token_offsets is None else tuple(token_offsets),
        instruction,
        input or "",
        finish_reason,
        full_text,
        none_text,
    )
    flags = [flag for check in _CHECKS for flag in check(answer)]
    flags.sort(key=lambda flag: _SEVERITY_ORDER[flag.severity])  # stable: F1 before F2 within one severity
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
