"""The scores of an answer against its reference, as one list: what is kept, summed up and shown follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gistdemo.metrics.rouge import rouge


@dataclass(frozen=True)
class Score:
    """One way to hold an answer against its reference.

    name: its key in files. label: what people read. of: (answer, reference) -> 0 to 100. listed: whether the table of answers, which is
    narrow, has a column for it; everything else shows every score.
    """

    name: str
    label: str
    of: Callable[[str, str], float]
    listed: bool = True


_rouge = lru_cache(maxsize=32)(rouge)  # it computes all three at once

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("rouge1", "ROUGE-1", lambda answer, reference: _rouge(answer, reference)["rouge1"], listed=False),
        Score("rouge2", "ROUGE-2", lambda answer, reference: _rouge(answer, reference)["rouge2"], listed=False),
        Score("rougeL", "ROUGE-L", lambda answer, reference: _rouge(answer, reference)["rougeL"]),
    )
}
MAIN = SCORES["rougeL"]  # what is normalised, paired, sorted by and drawn


def scores_of(answer: str, reference: str) -> dict[str, float]:
    """Every score by name, 0 to 100; empty without a reference.

    >>> scores_of("the cat sat", "the cat ran")["rouge2"], scores_of("the cat sat", " ")
    (50.0, {})
    """
    return {name: score.of(answer, reference) for name, score in SCORES.items()} if reference.strip() else {}
