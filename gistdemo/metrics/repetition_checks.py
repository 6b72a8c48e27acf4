"""Checks F4 repetitive and F5 prompt_echo: text that has been said before, by the answer or by its prompt.

Where a comment gives a false positive rate, it was measured on reference answers that are known to be good: 252 "Human",
1,000 "Unseen" and 1,000 "Seen" rows of Alpaca+ (Mu et al. 2023) and 8,712 rows of two other sets, cut to 128 tokens; "caught"
is out of the 14 different outputs of a public run that was degenerate; counted in tokens. In words and signs, on 8,795
Alpaca answers of any length, F3 and F4 fail 1 and 7 of them, and all checks together 10 (scripts/calibrate_flags.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gistdemo.metrics.flags import ASKS_FOR_SERIES, ASKS_TO_REPEAT, Answer, Flag, Severity, Span
from gistdemo.metrics.repetition import Units, compression_ratio, seq_rep, split_units

# F4 warns when two of the first three hold (with F3: false positives 0-0.6%, 12 of 14 caught) and fails at either of the STRONG
# ones (0-0.4%) or at WORD_REPETITION, which sees copies under new numbers. Gopher's "top 4-gram > 0.16" as in datatrove counts
# n-grams seen once and fires on half of all short answers.
WINDOW = 128  # units; all of F4 grows with length, so longer answers are judged window by window, the worst one counts
REPETITION = 0.2  # seq-rep-4 of at least MIN_REPETITION_UNITS; reference p99 is 0.152, p99.5 0.232
MIN_REPETITION_UNITS = 16
DISTINCT_2 = 0.6  # distinct word pairs / word pairs, of at least MIN_DISTINCT_WORDS
MIN_DISTINCT_WORDS = 12
COMPRESSION = 2.4  # Whisper's own threshold; reference p99 is 1.92. Of at least MIN_COMPRESSION_CHARACTERS
MIN_COMPRESSION_CHARACTERS = 64
STRONG_REPETITION = 0.5
STRONG_COMPRESSION = 3.0
WORD_REPETITION = 0.35  # seq-rep-4 of at least MIN_REPEATED_WORDS words, numbers and signs left out; fails 3 of the 8,795
MIN_REPEATED_WORDS = 32

# F5. Share of the answer's first words covered by 6-grams of the prompt. Instruction: false positives 0-1.2%. Input: 5.4% in
# Seen, because copying with small changes is how texts are corrected; so that is only a remark.
ECHO_NGRAM = 6
ECHO_MIN_WORDS = 12
ECHO_WINDOW = 128
ECHO_INSTRUCTION = 0.5
ECHO_INPUT = 0.8

_SPOKEN = re.compile(r"[^\W\d_]+")


def repetitive(answer: Answer) -> Iterator[Flag]:
    """F4: much of a window of 128 units has been said before, in a loop or not. Value: seq-rep-4 (0-1) of the worst window."""
    windows = [_measure_window(answer, start, stop) for start, stop in _windows(len(answer.words))]
    worst = max(windows, key=lambda window: (window.strong, window.votes, window.repetition), default=None)
    if worst is None or not (worst.strong or worst.votes >= 2):
        return
    endless = worst.extreme and not ASKS_TO_REPEAT.search(answer.instruction or "")
    severity: Severity = "fail" if worst.strong and (endless or not answer.may_repeat) else "warn"
    span = worst.span if worst.span[0] < worst.span[1] else None
    yield Flag("F4", "repetitive", severity, span, worst.evidence, worst.repetition)


def prompt_echo(answer: Answer) -> Iterator[Flag]:
    """F5: the answer is made of the instruction's own 6-word sequences; of the input's, only a remark. Value: share (0-1)."""
    instruction = answer.instruction or ""
    severity: Severity = "info" if ASKS_TO_REPEAT.search(instruction) else "warn"
    span, share = _echo(answer.words, instruction)
    if share >= ECHO_INSTRUCTION:
        yield Flag("F5", "prompt_echo", severity, span, f"{share:.0%} of its words repeat the instruction", share)
        return
    span, share = _echo(answer.words, answer.input)
    if share >= ECHO_INPUT:
        yield Flag("F5", "prompt_echo", "info", span, f"{share:.0%} of its words repeat the input", share)


@dataclass(frozen=True)
class _Window:
    """What F4 measured in one stretch of an answer. A measure that has too little text to mean anything is 0 (distinct_2: 1)."""

    span: Span
    repetition: float  # seq-rep-4, 0-1
    distinct_2: float  # 0-1
    compression: float  # characters per byte
    word_repetition: float  # seq-rep-4 of the words alone, 0-1

    @property
    def votes(self) -> int:
        """How many of the three measures are beyond their threshold."""
        return (self.repetition > REPETITION) + (self.distinct_2 < DISTINCT_2) + (self.compression > COMPRESSION)

    @property
    def strong(self) -> bool:
        """Whether one measure alone is enough."""
        return self.repetition > STRONG_REPETITION or self.compression > STRONG_COMPRESSION or self.word_repetition > WORD_REPETITION

    @property
    def extreme(self) -> bool:
        """Whether all measures agree so far beyond their thresholds that a list or a table as the task is no excuse."""
        return self.repetition > STRONG_REPETITION and self.compression > STRONG_COMPRESSION and self.distinct_2 < DISTINCT_2

    @property
    def evidence(self) -> str:
        """The measures beyond their thresholds, in words."""
        parts = []
        if self.repetition > REPETITION:
            parts.append(f"{self.repetition:.0%} of its sequences of 4 words and signs came before")
        if self.distinct_2 < DISTINCT_2:
            parts.append(f"only {self.distinct_2:.0%} of its word pairs are different")
        if self.compression > COMPRESSION:
            parts.append(f"compresses {self.compression:.1f} times")
        if self.word_repetition > WORD_REPETITION and self.repetition <= STRONG_REPETITION:
            parts.append(f"{self.word_repetition:.0%} of its 4-word sequences came before, numbers and signs apart")
        return ", ".join(parts)


def _windows(count: int) -> list[Span]:
    """Cut `count` units into stretches of WINDOW; the last one ends at the end, overlapping the one before."""
    if count <= WINDOW:
        return [(0, count)] if count else []
    return [(start, start + WINDOW) for start in range(0, count - WINDOW, WINDOW)] + [(count - WINDOW, count)]


def _measure_window(answer: Answer, start: int, stop: int) -> _Window:
    values = answer.words.values[start:stop]
    span = answer.words.characters(start, stop)
    text = answer.text[slice(*span)]
    words = text.lower().split()
    spoken = _SPOKEN.findall(text.lower())
    series = ASKS_FOR_SERIES.search(answer.instruction or "")  # "The square of 2 is 4. The square of 3 is 9."
    return _Window(
        span,
        repetition=seq_rep(values) if len(values) >= MIN_REPETITION_UNITS else 0.0,
        distinct_2=1.0 - seq_rep(words, 2) if len(words) >= MIN_DISTINCT_WORDS else 1.0,
        compression=compression_ratio(text) if len(text) >= MIN_COMPRESSION_CHARACTERS else 0.0,
        word_repetition=0.0 if len(spoken) < MIN_REPEATED_WORDS or series or answer.is_data(text) else seq_rep(spoken),
    )


def _echo(words: Units, source: str) -> tuple[Span, float]:
    """Return the stretch of the answer that copies `source`, and the share (0-1) of its words inside n-grams of `source`."""
    said = [str(word).lower() for word in words.values[:ECHO_WINDOW]]
    given = [str(word).lower() for word in split_units(source).values]
    if len(said) < ECHO_MIN_WORDS or len(given) < ECHO_NGRAM:
        return (0, 0), 0.0
    known = {tuple(given[i : i + ECHO_NGRAM]) for i in range(len(given) - ECHO_NGRAM + 1)}
    covered: set[int] = set()
    for i in range(len(said) - ECHO_NGRAM + 1):
        if tuple(said[i : i + ECHO_NGRAM]) in known:
            covered.update(range(i, i + ECHO_NGRAM))
    span = words.characters(min(covered), max(covered) + 1) if covered else (0, 0)
    return span, len(covered) / len(said)
