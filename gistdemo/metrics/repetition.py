"""Loops and repetition measures, on any sequence whose items can be compared: token ids, or the words of a text.

Of what is too much, only the loop rule is decided here; the other thresholds and their reasons are in repetition_checks.py.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

# Flag F3. No false positive in 10,964 reference answers cut to 128 tokens; 9 of 14 degenerate outputs caught. Human text hardly
# ever repeats a sentence at once (0.02% of sentences in WikiText-103, Xu et al. 2022), so three copies of anything long do.
LOOP_REPEATS = 3
LOOP_SPAN = 16  # units; vLLM's rule, which has no minimum span, fires on "..."
MAX_PERIOD = 64  # units; longer blocks do not fit three times into the answers shown here
LONGEST_WORD = 40  # characters; "hahaha..." without an end is looked at character by character

# Scripts written without spaces (kana, Han, Thai, Lao, Myanmar, Khmer, ...): every character is a unit, as it is for most tokenizers.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Vowel signs and points that Python's \w leaves out although they stand inside words (Hebrew, Arabic, Indic, accents).
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
_UNIT = re.compile(
    rf"(?:[^\W_{_SPACELESS}]|[{_MARKS}]|_(?!_))+"  # a word, a name or a number
    rf"|[{_SPACELESS}]"
    r"|\n"  # line breaks count, single spaces do not
    r"|[^\S\n]{2,8}"
    # A run of one sign is one unit of up to 8 signs, or every ruled line and every row of hearts would be a loop.
    r"|((?:[^\w\s]|_)[\ufe0e\ufe0f\u200d]?)\1{0,7}"
)
_SIGN_RUN = re.compile(r"([^\w\s]|_)\1+")


@dataclass(frozen=True)
class Loop:
    """A stretch [start, stop) of a sequence in which every item equals the one `period` places before it. Counted in units."""

    start: int
    stop: int
    period: int

    @property
    def span(self) -> int:
        """Units inside the loop, a last incomplete copy included."""
        return self.stop - self.start

    @property
    def repeats(self) -> float:
        """Copies of the block; 2.5 means that the third copy stops half way."""
        return self.span / self.period


def find_loop(values: Sequence[Hashable], *, min_repeats: int = LOOP_REPEATS, min_span: int = LOOP_SPAN) -> Loop | None:
    """Find the longest loop with at least `min_repeats` (>= 2) copies and `min_span` units, anywhere in a sequence.

    Of loops with equal spans the one with the shortest period wins, then the earliest. O(64 n) at worst; usually
    far less, because a run of length r is found by looking at every r-th place only.
    Source: the idea is vLLM's RepetitionDetectionParams; unlike it, the loop need not be at the tail or end with a whole copy.

    >>> find_loop([7, 1, 2, 1, 2, 1, 2, 1, 9], min_span=6)
    Loop(start=1, stop=8, period=2)
    """
    if min_repeats < 2:
        raise ValueError(f"min_repeats is {min_repeats}; a loop has at least 2 copies.")
    n = len(values)
    best: Loop | None = None
    for period in range(1, min(MAX_PERIOD, n // min_repeats) + 1):
        need = max(min_span, min_repeats * period) - period  # places i with values[i] == values[i - period], in a row
        place = period + need - 1
        while place < n:
            if values[place] != values[place - period]:
                place += need
                continue
            first, stop = place, place + 1
            while first > period and values[first - 1] == values[first - 1 - period]:
                first -= 1
            while stop < n and values[stop] == values[stop - period]:
                stop += 1
            found = Loop(first - period, stop, period)
            if stop - first >= need and (best is None or found.span > best.span):
                best = found
            place = stop + need
    return best


def seq_rep(values: Sequence[Hashable], n: int = 4) -> float:
    """Return the share (0-1) of n-grams that have occurred before: 1 - unique / total; 0 when there is none.

    Source: seq-rep-n of Welleck et al. 2020, "Neural text generation with unlikelihood training".
    """
    total = len(values) - n + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(values[i:] for i in range(n)), strict=False))) / total


def compression_ratio(text: str) -> float:
    """Return characters per compressed byte; about 1.5 for a paragraph of prose, above 2.4 for repetitive text; 0 when empty.

    Source: Whisper's compression_ratio, len(text) / len(zlib(UTF-8)). Two differences, none for plain English: each character
    is compressed as one byte (the low byte of its UTF-16 code), so that a threshold means the same in every script; and runs
    of blanks or of one sign count once, because indents, columns and ruled lines are layout.
    """
    text = " ".join(without_rules(text).split())
    if not text:
        return 0.0
    low_bytes = text.encode("utf-16-le", "surrogatepass")[::2]
    return len(low_bytes) / len(zlib.compress(low_bytes))


def without_rules(text: str) -> str:
    """Shorten every run of one sign (a ruled line, a blank to fill in) to a single sign.

    >>> without_rules("Name: ____ ### yes!!")
    'Name: _ # yes!'
    """
    return _SIGN_RUN.sub(r"\1", text)


def one_line(text: str, most: int = 40) -> str:
    """Write text on one line of at most `most` characters; line breaks and what cannot be seen as escapes."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text.strip() or text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def copies(repeats: float) -> str:
    """Write 14 as "14" and 13.52 as "13.5"."""
    return f"{repeats:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Units:
    """A text as a sequence of words and signs. places: (start, stop) in characters per unit."""

    values: Sequence[str]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.values)

    def characters(self, start: int, stop: int) -> tuple[int, int]:
        """Return the (start, stop) in characters of the units [start, stop)."""
        return (self.places[start][0], self.places[stop - 1][1]) if start < stop else (0, 0)


def split_units(text: str) -> Units:
    """Split a text into words, numbers, runs of one sign, line breaks and wide spaces; single spaces are skipped.

    >>> split_units("Output: www.x.com\\n").values
    ('Output', ':', 'www', '.', 'x', '.', 'com', '\\n')
    """
    places: list[tuple[int, int]] = []
    for match in _UNIT.finditer(text):
        start, stop = match.span()
        if stop - start > LONGEST_WORD:
            places.extend((i, i + 1) for i in range(start, stop))
        else:
            places.append((start, stop))
    return Units(tuple(text[start:stop] for start, stop in places), places)
