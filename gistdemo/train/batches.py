"""Which rows make up which step: a pure function of seed and step, so that a resumed run sees what the unbroken one saw. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

BUCKET_BATCHES = 16  # rows are sorted by length within this many batches: little padding, still a shuffled order


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of every full batch of an epoch. lengths: tokens per row. Rows of a batch are of similar length.

    A data set smaller than one batch gives one batch of all its rows.
    """
    rng = random.Random(f"{seed}/order/{epoch}")
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    size = min(batch_size, len(rows))
    batches = []
    full = rows[: len(rows) - len(rows) % size]  # before sorting: else the longest rows would be the ones left out, every epoch
    for start in range(0, len(full), size * BUCKET_BATCHES):
        bucket = sorted(full[start : start + size * BUCKET_BATCHES], key=lambda n: lengths[n])
        batches += [bucket[n : n + size] for n in range(0, len(bucket), size)]
    rng.shuffle(batches)
    return batches


class StepOrder:
    """Looks up the rows of a step, keeping the current epoch in memory."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch, self._batches = 0, epoch_order(lengths, batch_size, seed, 0)

    def rows(self, step: int) -> list[int]:
        """Row numbers of step 0, 1, 2, ... Every epoch has the same number of batches."""
        epoch, at = divmod(step, len(self._batches))
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, epoch_order(self._lengths, self._batch_size, self._seed, epoch)
        return self._batches[at]


def draw(seed: int, what: str, step: int) -> random.Random:
    """The random numbers of one step for one purpose; independent of every other step."""
    return random.Random(f"{seed}/{what}/{step}")
