"""Means with their uncertainty. numpy only.

Intervals are 95 % percentile bootstrap intervals of the mean (Efron and Tibshirani 1993, chapter 13): rows are drawn again with
replacement, RESAMPLES times, from a fixed seed, so that the same scores always give the same interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
AT_ONCE = 2_000_000  # values drawn at a time; bounds memory to a few tens of MB


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval and the number of values it rests on."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def mean_interval(values: Iterable[float | None], seed: int = 0) -> Interval | None:
    """Mean and interval of the values that are known; None where there is none. A single value is its own interval."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    n = len(known)
    if n == 0:
        return None
    rng = np.random.default_rng(seed)
    rounds = max(1, AT_ONCE // n)
    means = np.concatenate(
        [known[rng.integers(0, n, (min(rounds, RESAMPLES - start), n))].mean(1) for start in range(0, RESAMPLES, rounds)]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(known.mean()), float(low), float(high), n)


def paired_difference(a: Sequence[float | None], b: Sequence[float | None], seed: int = 0) -> Interval | None:
    """Mean of a - b, pair by pair, with its interval. Pairs with an unknown half are left out. Raises ValueError: lengths differ."""
    return mean_interval([x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None], seed)
