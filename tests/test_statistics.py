"""Intervals: they cover as they should, come out the same every time, and pairs make them narrower where rows go together."""

from __future__ import annotations

import numpy as np
import pytest

from gistdemo.results import statistics
from gistdemo.results.statistics import Interval, mean_interval, paired_difference

SHAPES = {
    "normal": (lambda rng, n: rng.normal(30, 10, n), 30.0),
    "skewed like ROUGE": (lambda rng, n: 100 * rng.beta(1.2, 3.0, n), 100 * 1.2 / 4.2),
    "mostly nothing": (lambda rng, n: np.where(rng.random(n) < 0.6, 0.0, rng.uniform(0, 100, n)), 20.0),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [30, 200])
def test_ninety_five_in_a_hundred_intervals_hold_the_true_mean(shape, n, monkeypatch):
    """On 400 simulated samples: within 4 points of 95 %."""
    monkeypatch.setattr(statistics, "RESAMPLES", 600)
    draw, true = SHAPES[shape]
    rng = np.random.default_rng(7)
    found = [mean_interval(draw(rng, n).tolist()) for _ in range(400)]
    covered = sum(one["low"] <= true <= one["high"] for one in found) / len(found)
    assert 0.91 <= covered <= 0.99


def test_equal_values_give_the_same_interval_every_time():
    values = np.random.default_rng(1).uniform(0, 100, 50).tolist()
    assert mean_interval(values) == mean_interval(list(values))
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_few_values_and_unknown_ones():
    assert mean_interval([]) is None and mean_interval([None, None]) is None
    assert mean_interval([3.0]) == Interval(mean=3.0, low=3.0, high=3.0, n=1)
    assert mean_interval([None, 4.0, 4.0]) == Interval(mean=4.0, low=4.0, high=4.0, n=2)


def test_many_values_are_drawn_in_parts_and_agree_with_theory(monkeypatch):
    values = np.random.default_rng(0).normal(50, 10, 5000).tolist()
    whole = mean_interval(values)
    assert whole["high"] - whole["low"] == pytest.approx(2 * 1.96 * 10 / 5000**0.5, rel=0.15)
    monkeypatch.setattr(statistics, "AT_ONCE", 50_000)
    assert mean_interval(values)["mean"] == whole["mean"]


def test_pairs_tell_small_differences_that_means_do_not():
    rng = np.random.default_rng(3)
    a = 100 * rng.beta(1.2, 3.0, 200)
    b = a + rng.normal(1.0, 3.0, 200)
    difference = paired_difference(b.tolist(), a.tolist())
    one, other = mean_interval(a.tolist()), mean_interval(b.tolist())
    assert difference["low"] > 0 and one["high"] > other["low"], (
        "the intervals of the two means overlap, that of the difference leaves zero out"
    )
    assert difference["high"] - difference["low"] < (one["high"] - one["low"]) / 3
    assert paired_difference([1.0, None, 3.0], [0.0, 5.0, None]) == Interval(mean=1.0, low=1.0, high=1.0, n=1)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0], [])
