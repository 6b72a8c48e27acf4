"""Loops whose copies are not quite equal: only a number changes, items are empty, numbers count on, a few lines come in turns.

Pure functions on a text; whether an instruction excuses what they find is decided in loop_checks.py. Calibrated with
scripts/calibrate_flags.py on answers of the real base model (Gemma 3 270M) and on 8,795 reference answers of Alpaca.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from gistdemo.metrics.repetition import LOOP_REPEATS, Loop, Units, find_loop, one_line

Kind = Literal["numbered", "empty items", "counting", "cycle"]

NUMBER = "№"  # stands for every number and every enumerator in a normalised sequence
NUMBERED_WORDS = 2  # words per copy beside its numbers; "(1, 2), (1, 3)" and tables of figures have fewer
NUMBERED_TOTAL = 12  # words in all copies; the four choices of a quiz have fewer
LONG_ITEM = 6  # units per copy of an item under new numbers: "Step 3: 2 + 2 = 4" needs no more words, "3. Yes" does
ONE_WORD_COPIES = 10  # copies with one word each, such as "Color 7:", and one number; "Year 1: 110, Year 2: 121" is data
ONE_WORD_ITEMS = 7  # the same where the number is that of an item: "7. Yes"
EMPTY_ITEMS = 4  # in a row
COUNTED = 12  # numbers in a row with one difference; no reference counts beyond 9 without being asked for numbers or code
BEGINNING = 2.4  # copies at the end of an answer that the limit cut
BEGINNING_SPAN = 24  # units
BEGINNING_WORDS = 5  # per copy
CYCLE_LINES = 6  # lines or sentences in a row that have all been said before,
CYCLE_LETTERS = 40  # with so many letters together,
CYCLE_COPIES = 2  # and each of them so often on average: a chorus comes once more, not twice more at once

_NUMBER_WORDS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_SAYS_NUMBER = frozenset([*_NUMBER_WORDS, *_ORDINALS])
_DIGITS = re.compile(r"\d+")
_ROMAN = "[ivx]{2,5}|[IVX]{2,5}"
_ENUMERATOR = re.compile(rf"[A-Za-z]|{_ROMAN}")  # a letter or a roman number; only where it begins a line and a sign follows: "a)"
_ENUMERATOR_SIGNS = frozenset([".", ")", ":"])

# A line that ends with its enumerator, after two words at most: "3.", "a)", "**IV.**", "- Step 3:". A bare number is no empty item.
_EMPTY_ITEM = re.compile(
    rf"\s*(?:[-*•#]+\s+)?[*_(\[]*(?:[^\W\d_]+[ \t]+){{0,2}}([^\W\d_]*\d{{1,4}}|[A-Za-z]|{_ROMAN})[*_]*[.):\]]+[*_:]*[-–]?\s*"
)
_EMPTY_BULLET = re.compile(r"\s*([-*•])\s*")
_FIGURE = re.compile(r"(?<![\w.])[-−]?\d{1,9}(?:\.\d{1,6}|st|nd|rd|th)?(?!\w)|\b(?:" + "|".join(_NUMBER_WORDS) + r")\b", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")
_LINE = re.compile(r"[^\n]+")
_SENTENCE = re.compile(r"[^\n.!?;。！？]+(?:[.!?;]+(?![\s.!?;]|$)[^\n.!?;。！？]*)*")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class NearLoop:
    """Text that goes round without saying anything new.

    span: characters; evidence: plain words; numbers: what is counted; itemised: each copy is an item with a number on a line of
    its own; enumerated: the number of the item is all that changes.
    """

    kind: Kind
    span: tuple[int, int]
    evidence: str
    numbers: tuple[float, ...] = ()
    enumerated: bool = False
    itemised: bool = False

    @property
    def length(self) -> int:
        """Characters inside the loop."""
        return self.span[1] - self.span[0]


def find_near_loops(text: str, words: Units) -> list[NearLoop]:
    """Find the longest near loop of each kind in a text, of which `words` are the words and signs."""
    return [found for found in (_numbered(text, words), _empty_items(text), _counting(text), _cycle(text)) if found]


def find_beginning(words: Units) -> tuple[int, int] | None:
    """Return the place of a sentence at the end that was about to come for the third time, numbers apart; None if there is none."""
    values = _normalised(words.values)
    found = find_loop(values, min_repeats=2, min_span=BEGINNING_SPAN)
    if found is None or not BEGINNING <= found.repeats < LOOP_REPEATS or found.stop < len(words) - 1:  # the limit may have cut a word
        return None
    spoken = sum(map(_is_word, values[found.start : found.start + found.period]))
    return words.characters(found.start, found.stop) if spoken >= BEGINNING_WORDS else None


@dataclass(frozen=True)
class _Figure:
    """A number as it stands in a text. For 1.9, read as section 9 of chapter 1, the value is 9 and the prefix is "1."."""

    value: float
    prefix: str
    start: int
    stop: int


def runs(text: str, *, sections: bool = False) -> Iterator[tuple[tuple[float, ...], tuple[int, int]]]:
    """Yield every run of at least 3 numbers with one difference and one separator without letters, and its place in characters.

    With `sections`, 1.10 comes after 1.9.

    >>> list(runs("Take 2, 4, 6, then 10"))
    [((2.0, 4.0, 6.0), (5, 12))]
    """
    figures = [_figure(match, sections) for match in _FIGURE.finditer(text)]
    first = 0
    while first + 2 < len(figures):
        step = figures[first + 1].value - figures[first].value
        sign = _separator(text, figures, first)
        last = first + 1
        if step and not _LETTER.search(sign):
            while last + 1 < len(figures) and _continues(text, figures, last, step, sign):
                last += 1
        if last - first >= 2:
            yield tuple(figure.value for figure in figures[first : last + 1]), (figures[first].start, figures[last].stop)
        first = last


def _figure(match: re.Match[str], sections: bool) -> _Figure:
    written = match[0].lower().replace("−", "-")
    prefix = written[: written.rfind(".") + 1] if sections else ""
    number = written[len(prefix) :].rstrip("stndrh")  # 1st, 2nd, 3rd, 4th
    return _Figure(float(_NUMBER_WORDS.get(written, number)), prefix, *match.span())


def _separator(text: str, figures: Sequence[_Figure], index: int) -> str:
    """What stands between one number and the next, blanks apart, of which there are more before numbers of one digit."""
    following = figures[index + 1]
    return "".join(text[figures[index].stop : following.start].split()) + following.prefix


def _continues(text: str, figures: Sequence[_Figure], last: int, step: float, sign: str) -> bool:
    return abs(figures[last + 1].value - figures[last].value - step) < 1e-6 and _separator(text, figures, last) == sign


def _counting(text: str) -> NearLoop | None:
    """Numbers in a row with one difference: '10, 15, 20, 25, ...', and '1.1, 1.2, ... 1.9, 1.10, ...'."""
    readings = [*runs(text), *(runs(text, sections=True) if "." in text else ())]
    if not readings:
        return None
    numbers, span = max(readings, key=lambda run: len(run[0]))
    if len(numbers) < COUNTED:
        return None
    written = [match[0] for match in _FIGURE.finditer(text, *span)]
    evidence = f"counts {', '.join(written[:3])} … {written[-1]}: {len(numbers)} numbers in steps of {numbers[1] - numbers[0]:g}"
    return NearLoop("counting", span, evidence, numbers)


def _numbered(text: str, words: Units) -> NearLoop | None:
    """A loop where all numbers and enumerators count as equal: '1. I am a haiku\\n2. I am a haiku\\n3. ...'."""
    values = _normalised(words.values)
    found = find_loop(values) if sum(NUMBER in value for value in values) >= LOOP_REPEATS else None
    if found is None:
        return None
    copy = range(found.start, found.start + found.period)
    wordy = sum(_is_word(values[i]) for i in copy)
    changing = {i for i in copy if NUMBER in values[i] and len(set(words.values[i : found.stop : found.period])) > 1}
    enumerated = len(changing) == 1 and values[min(changing) + 1] in _ENUMERATOR_SIGNS  # a loop has 3 copies, so there is a next unit
    if not changing:
        return None
    if not wordy:
        return _counting_together(text, words, found, changing)
    if not (enumerated and found.period >= LONG_ITEM):
        if wordy * found.repeats < NUMBERED_TOTAL and not (enumerated and found.repeats >= ONE_WORD_ITEMS):
            return None
        if wordy < NUMBERED_WORDS and (len(changing) > 1 or found.repeats < (ONE_WORD_ITEMS if enumerated else ONE_WORD_COPIES)):
            return None
    changes = "number changes" if len(changing) == 1 else "numbers change"
    evidence = f"'{_pattern(text, words, found, changing)}' x {int(found.repeats)}, only the {changes}"
    itemised = any(words.values[i + found.period - 1] == "\n" and values[i + 1] in _ENUMERATOR_SIGNS for i in changing)
    return NearLoop("numbered", words.characters(found.start, found.stop), evidence, enumerated=enumerated, itemised=itemised)


def _counting_together(text: str, words: Units, found: Loop, changing: Set[int]) -> NearLoop | None:
    """Numbers that count on side by side and say nothing else: '1. 10.00\\n2. 11.00\\n3. 12.00'."""
    columns = [words.values[i : found.stop : found.period] for i in sorted(changing)]
    if len(columns) < 2 or int(found.repeats) < COUNTED or not all(value.isdecimal() for column in columns for value in column):
        return None
    numbers = [tuple(map(float, column)) for column in columns]
    if any(len({b - a for a, b in pairwise(column)}) > 1 for column in numbers):
        return None
    evidence = f"'{_pattern(text, words, found, changing)}' x {int(found.repeats)}, the numbers count on and nothing is said"
    return NearLoop("counting", words.characters(found.start, found.stop), evidence, max(numbers, key=max))


def _normalised(values: Sequence[str]) -> list[str]:
    """Write every number, in digits or as a word, and every enumerator that begins a line as NUMBER.

    >>> _normalised(["a", ")", "Step", "1", "\\n", "b", ")", "Step", "two"])
    ['№', ')', 'Step', '№', '\\n', '№', ')', 'Step', '№']
    """
    normalised = []
    before = "\n"
    for i, value in enumerate(values):
        if value.lower() in _SAYS_NUMBER or (
            before == "\n" and _ENUMERATOR.fullmatch(value) and i + 1 < len(values) and values[i + 1] in _ENUMERATOR_SIGNS
        ):
            normalised.append(NUMBER)
        else:
            normalised.append(_DIGITS.sub(NUMBER, value))
        before = value
    return normalised


def _is_word(value: str) -> bool:
    return value.isalpha() and (len(value) > 1 or not value.isascii())


def _pattern(text: str, words: Units, found: Loop, changing: Set[int]) -> str:
    """One copy with N for what changes, from the start of a line or else from what changes."""
    begin = next((i for i in range(found.start, found.start + found.period) if i and words.values[i - 1] == "\n"), min(changing))
    pattern, end = "", words.places[begin][0]
    for i in range(begin, begin + found.period):
        start, stop = words.places[i]
        changes = found.start + (i - found.start) % found.period in changing
        pattern += text[end:start] + ("N" if changes else words.values[i])
        end = stop
    return one_line(pattern)


def _empty_items(text: str) -> NearLoop | None:
    """Items with an enumerator or a bullet and nothing else, one line under the other: '1.\\n2.\\n3.\\n4.'."""
    lines = [line for line in _LINE.finditer(text) if line[0].strip()]
    groups = [list(group) for empty, group in groupby(lines, key=_is_empty_item) if empty]
    longest = max(groups, key=len, default=[])
    if len(longest) < EMPTY_ITEMS:
        return None
    shown = [one_line(line[0]) for line in (longest[0], longest[1], longest[-1])]
    evidence = f"'{shown[0]}', '{shown[1]}' … '{shown[2]}': {len(longest)} items in a row with nothing in them"
    return NearLoop("empty items", (longest[0].start(), longest[-1].end()), evidence)


def _is_empty_item(line: re.Match[str]) -> bool:
    return bool(_EMPTY_ITEM.fullmatch(line[0]) or _EMPTY_BULLET.fullmatch(line[0]))


def _cycle(text: str) -> NearLoop | None:
    """Lines or sentences that have all been said before, in any order: 'The word is a noun.\\n2. The word is a verb.\\n3. ...'."""
    sentences = [(tuple(_WORD.findall(match[0].lower())), match.span()) for match in _SENTENCE.finditer(text)]
    sentences = [(said, place) for said, place in sentences if any(len(word) > 1 for word in said)]  # not the enumerators
    first, stop = _nothing_new([said for said, _ in sentences])
    lines = stop - first
    kinds = {said for said, _ in sentences[first:stop]}
    letters = sum(len(word) for said, _ in sentences[first:stop] for word in said)
    if len(kinds) < 2 or lines < max(CYCLE_LINES, CYCLE_COPIES * len(kinds)) or letters < CYCLE_LETTERS:
        return None
    while first and sentences[first - 1][0] in kinds:  # what the first copies were
        first -= 1
    last = sentences[stop][0] if stop < len(sentences) else ()
    if last and any(said[: len(last) - 1] == last[:-1] for said in kinds):  # the limit cut it
        stop += 1
    span = (sentences[first][1][0], sentences[stop - 1][1][1])
    shown = one_line(text[slice(*sentences[first][1])])
    return NearLoop("cycle", span, f"{stop - first} lines say the same {len(kinds)} things in turns, such as '{shown}'")


def _nothing_new(sentences: Sequence[tuple[str, ...]]) -> tuple[int, int]:
    """Return the longest stretch [start, stop) of sentences that have all come before."""
    known: set[tuple[str, ...]] = set()
    best, start = (0, 0), 0
    for i, said in enumerate(sentences):
        if said not in known:
            start = i + 1
        elif i + 1 - start > best[1] - best[0]:
            best = (start, i + 1)
        known.add(said)
    return best
