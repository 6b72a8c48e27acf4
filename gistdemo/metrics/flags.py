"""What a finding is, what is known about an answer, and what its instruction asks for. The checks are in the *_checks.py files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict, cast

from gistdemo.metrics.repetition import Loop, Units, find_loop, split_units

Severity = Literal["fail", "warn", "info"]
Span = tuple[int, int]

SYMBOLS = re.compile(r"[0-9()\[\]{}<>|+=&\\^_-]")
SYMBOLS_SHARE = 0.6  # SYMBOLS / non-blank characters; the false positives that were left are truth tables, matrices and LaTeX

# Code, JSON, tables and columns say much the same on every line.
_DATA = re.compile(r"[{}\[\]<>|=;\t]|\w\(|[^\S\n]{3,}")
DATA_SHARE = 0.025  # of these per character; prose has less,
CODE_SHARE = 0.01  # but where code was asked for, so few are enough

# What an instruction asks for. The first makes repetition the right answer; a pattern or code only makes it likely, so an
# endless loop stays a failure there. The last two announce symbols or another script.
ASKS_TO_REPEAT = re.compile(
    r"(?<!not )(?<!n't )(?<!without )\brepeat(?!ing|ed|itive)|\bpermut|\bover and over\b"
    r"|\b(write|say|print|type|copy)\b.*\btimes\b|繰り返|重复",
    re.IGNORECASE,
)
ASKS_FOR_PATTERN = re.compile(
    r"\b(lists?|tables?|matri(x|ces)|combinations?|patterns?|grid|csv|latex|ascii|surveys?|questionnaires?"
    r"|poems?|songs?|lyrics|chorus|refrain|verses?|rhymes?|rap)\b",
    re.IGNORECASE,
)
ASKS_FOR_CODE = re.compile(
    r"\b(code|program|scripts?|functions?|class|algorithm|sql|quer(y|ies)|html|css|javascript|python|java|json|xml|regex)\b",
    re.IGNORECASE,
)
ASKS_FOR_NUMBERS = re.compile(
    r"\b(charts?|equations?|formulas?|calculat\w*|comput\w*|numbers?|digits?|binary|arrays?|emojis?|convert)\b",
    re.IGNORECASE,
)
# What looks like counting, or like a loop in which only numbers change. "number" alone is left out: "the number of people" is one.
ASKS_FOR_SERIES = re.compile(
    r"\bcount(ing|down)?\b(?! the| how)|\b(numbers|integers|digits|multiples|divisible|divisors|even|odd|primes?|fibonacci|squares|cubes"
    r"|arithmetic|geometric|progression|multiplication|times tables?)\b|\b(number|numeric\w*) (line|sequence|series|pattern)\b",
    re.IGNORECASE,
)
NAMES_A_LANGUAGE = re.compile(
    r"translat|language|alphabet|\b(chinese|mandarin|cantonese|japanese|kanji|kana|hiragana|katakana|korean|hangul|russian"
    r"|cyrillic|ukrainian|bulgarian|serbian|greek|hebrew|yiddish|arabic|persian|farsi|urdu|hindi|sanskrit|bengali|tamil|telugu"
    r"|marathi|punjabi|gujarati|thai|lao|burmese|khmer|georgian|armenian|amharic|mongolian|ipa|phonetic)\b",
    re.IGNORECASE,
)


class Finding(TypedDict):
    """A flag in JSON. span: [start, stop]."""

    code: str
    name: str
    severity: Severity
    span: list[int] | None
    evidence: str
    value: float | None
    members: list[int]


@dataclass(frozen=True)
class Flag:
    """One finding about an answer, or (F7) about a set of answers.

    code and name: "F3", "loop". severity: "fail" makes the answer degenerate, "warn" makes a warning, "info" neither.
    span: (start, stop) in characters of the text, None where the finding has no place. evidence: plain words.
    value: the number behind it, with the meaning its check documents; members: the indices of an F7 group, else empty.
    """

    code: str
    name: str
    severity: Severity
    span: Span | None
    evidence: str
    value: float | None = None
    members: tuple[int, ...] = ()

    def to_dict(self) -> Finding:
        span = None if self.span is None else list(self.span)
        return cast(Finding, vars(self) | {"span": span, "members": list(self.members)})

    @classmethod
    def from_dict(cls, values: Finding) -> Flag:
        """The flag that `to_dict` wrote."""
        start_stop = values["span"]
        span = None if start_stop is None else (start_stop[0], start_stop[1])
        return cls(values["code"], values["name"], values["severity"], span, values["evidence"], values["value"], tuple(values["members"]))


@dataclass(frozen=True)
class Answer:
    """One answer and its prompt, with the things that several checks need computed once. instruction: None where it is not known."""

    text: str
    instruction: str | None = None
    input: str = ""

    @cached_property
    def words(self) -> Units:
        """The text split into words and signs, in which loops are searched and counted."""
        return split_units(self.text)

    @cached_property
    def loop(self) -> Loop | None:
        """The longest loop of equal copies, in words and signs."""
        return find_loop(self.words.values)

    @property
    def runaway(self) -> bool:
        """Whether that loop goes on to the end of the text; what a limit cut at last may differ."""
        return self.loop is not None and len(self.words) - self.loop.stop <= 1

    @cached_property
    def may_repeat(self) -> bool:
        """Whether repetition is what was asked for, so that it is worth a warning but is not a failure."""
        instruction = self.instruction or ""
        if ASKS_TO_REPEAT.search(instruction):
            return True
        if self.runaway:
            return False
        if ASKS_FOR_PATTERN.search(instruction) or ASKS_FOR_CODE.search(instruction):
            return True
        visible = len(self.text) - sum(map(str.isspace, self.text))
        return len(SYMBOLS.findall(self.text)) > SYMBOLS_SHARE * visible

    def is_data(self, text: str) -> bool:
        """Whether a part of the answer looks like code, JSON or a table rather than prose."""
        share = CODE_SHARE if ASKS_FOR_CODE.search(self.instruction or "") else DATA_SHARE
        return len(_DATA.findall(text)) > share * len(text)

    @property
    def prompt(self) -> str:
        """Instruction and input, one under the other."""
        return f"{self.instruction or ''}\n{self.input}"
