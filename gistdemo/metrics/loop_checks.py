"""Check F3 loop: text that goes round, in copies that are equal, or that differ in nothing but numbers, or of a few lines in turns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gistdemo.metrics.flags import ASKS_FOR_CODE, ASKS_FOR_SERIES, ASKS_TO_REPEAT, Answer, Flag
from gistdemo.metrics.near_loops import NearLoop, find_beginning, find_near_loops, runs
from gistdemo.metrics.repetition import Loop, Units, copies, one_line

# What an instruction asks for that may hold a run of numbers, or empty items, or the same lines again.
ASKS_FOR_FIGURES = re.compile(
    r"\b(arrays?|sort(ed)?|range|sequence|series|factors|tables?|charts?|data ?set|calendar|matri(x|ces))\b",
    re.IGNORECASE,
)
ASKS_FOR_YEARS = re.compile(r"\b(years?|when|since|dates?)\b", re.IGNORECASE)
FIRST_YEAR = 1000  # what counts from there on may be years
ASKS_FOR_BLANKS = re.compile(
    r"\b(blanks?|templates?|forms?|outlines?|skeletons?|surveys?|questionnaires?|worksheets?|placeholders?|checklists?|layouts?)\b",
    re.IGNORECASE,
)
ASKS_FOR_VERSE = re.compile(r"\b(poems?|songs?|lyrics|chorus|refrain|verses?|rhymes?|rap|haikus?)\b", re.IGNORECASE)

_SPELLED = {word: n for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)}
_SPELLED |= {"fifteen": 15, "twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100, "a hundred": 100, "one hundred": 100}
_AMOUNT = r"(\d[\d,]*|" + "|".join(sorted(_SPELLED, key=len, reverse=True)) + ")"
LAST_ASKED = re.compile(rf"(?:\b(?:to|until|till|through|below|under|than|between \w+ and)|\d\s?[-–])\s*{_AMOUNT}\b", re.IGNORECASE)
HOW_MANY_ASKED = re.compile(
    rf"\b{_AMOUNT}\s+(?:[a-z]+\s+){{0,3}}?(?:numbers|integers|multiples|digits|terms|primes|elements|values|squares|items|lines|rows|entries)\b",
    re.IGNORECASE,
)
END_CHARACTERS = 12  # a loop that stops so near the end of an answer never ended; what follows is a cut copy
TO_THE_END = ", to the end of the text"


def loop(answer: Answer) -> Iterator[Flag]:
    """F3: the answer goes round. Of several findings the most severe one, then that of equal copies, then the longest.

    Value: share (0-1) of the answer inside the loop, of its units for equal copies, of its characters for others.
    """
    equal = _equal_copies(answer)
    if equal is not None and equal.severity == "fail":
        yield equal
        return
    near = [flag for flag in (_near_copies(answer, found) for found in find_near_loops(answer.text, answer.words)) if flag]
    flags = ([equal] if equal else []) + sorted(near, key=lambda flag: -(flag.value or 0))
    if flags:
        yield min(flags, key=lambda flag: flag.severity != "fail")
    elif span := find_beginning(answer.words):
        evidence = f"'{one_line(answer.text[slice(*span)])}' began for the third time, numbers apart, where the text ends"
        excused = answer.may_repeat or ASKS_FOR_SERIES.search(answer.instruction or "")
        yield Flag("F3", "loop", "info" if excused else "warn", span, evidence, (span[1] - span[0]) / len(answer.text))


def _near_copies(answer: Answer, found: NearLoop) -> Flag | None:
    """The flag of a near loop; None where it is a proper answer."""
    if found.kind == "counting" and _asks_to_count(answer, found.numbers):
        excused = not _is_past_the_end(answer, found.numbers)
    else:
        excused = _is_excused(answer, found)
    if excused:
        return None
    endless = len(answer.text.rstrip()) - found.span[1] <= END_CHARACTERS
    return Flag("F3", "loop", "fail", found.span, found.evidence + (TO_THE_END if endless else ""), found.length / len(answer.text))


def _is_excused(answer: Answer, found: NearLoop) -> bool:
    """Whether the instruction asks for such a thing, or it is data or code; being asked for a list is no excuse."""
    instruction = answer.instruction or ""
    if ASKS_TO_REPEAT.search(instruction):
        return True
    if found.kind == "counting":
        return False
    if found.kind == "empty items":
        return (ASKS_FOR_SERIES.search(instruction) or ASKS_FOR_BLANKS.search(instruction)) is not None
    code = ASKS_FOR_CODE.search(instruction) is not None
    if (code or not found.enumerated) and answer.is_data(answer.text[slice(*found.span)]):
        return True
    # "1. The poem is about a poem\n2. The poem ..." is no poem, and no series of numbers either.
    if found.enumerated:
        return False
    return ASKS_FOR_SERIES.search(instruction) is not None or (not found.itemised and ASKS_FOR_VERSE.search(instruction) is not None)


def _asks_to_count(answer: Answer, numbers: tuple[float, ...]) -> bool:
    """Whether the prompt asks for numbers, holds a run of them or names their end, or asks for what may hold such numbers."""
    instruction = answer.instruction or ""
    if ASKS_FOR_SERIES.search(instruction) or any(True for _ in runs(answer.prompt)):
        return True
    last, step = numbers[-1], numbers[-1] - numbers[-2]
    if any(0 <= (_amount(match[1]) - last) / step <= 1 for match in LAST_ASKED.finditer(instruction)):
        return True
    if min(numbers) >= FIRST_YEAR and ASKS_FOR_YEARS.search(instruction):
        return True
    return any(kind.search(instruction) for kind in (ASKS_FOR_FIGURES, ASKS_FOR_CODE, ASKS_FOR_BLANKS))


def _is_past_the_end(answer: Answer, numbers: tuple[float, ...]) -> bool:
    """Whether a run of numbers went on behind the end, or beyond the amount, that the instruction names."""
    instruction = answer.instruction or ""
    up = numbers[-1] > numbers[0]
    lasts = [_amount(match[1]) for match in LAST_ASKED.finditer(instruction)]
    if lasts:
        return numbers[-1] > max(lasts) if up else numbers[-1] < min(lasts)
    return any(len(numbers) > _amount(match[1]) for match in HOW_MANY_ASKED.finditer(instruction))


def _amount(written: str) -> float:
    spelled = _SPELLED.get(written.lower())
    return float(written.replace(",", "")) if spelled is None else float(spelled)


def _equal_copies(answer: Answer) -> Flag | None:
    """A block comes at least 3 times in a row, over at least 16 words and signs. Value: share (0-1) of them inside the loop."""
    found = answer.loop
    if found is None:
        return None
    span = answer.words.characters(found.start, found.stop)
    block, whole = one_line(_block(answer.text, answer.words, found)), len(answer.words)
    evidence = f"'{block}' x {copies(found.repeats)}, {found.span} of {whole} words and signs"
    if answer.runaway:
        evidence += TO_THE_END
    return Flag("F3", "loop", "warn" if answer.may_repeat else "fail", span, evidence, found.span / whole)


def _block(text: str, words: Units, found: Loop) -> str:
    """Return the text of one copy, the one that begins a line if there is one."""
    first = found.start
    for start in range(found.start, found.start + found.period):
        if text[: words.places[start][0]].endswith("\n") or text.startswith("\n", words.places[start][0]):
            first = start
            break
    start, stop = words.characters(first, first + found.period)
    return text[start:stop]
