"""ROUGE equals the rouge_score package, number for number, and behaves at the edges; normalised scores."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rouge_score.rouge_scorer import RougeScorer

from gistdemo.metrics import normalised_score, rouge, shared_words
from gistdemo.metrics.rouge import _words, lcs_length

KEYS = ("rouge1", "rouge2", "rougeL")
WORDS = "the cat cats sat sitting on a mat running runs quickly quick nationality national 42 co-operate U.S. naïve don't \n".split(" ")


def from_library(prediction: str, reference: str) -> dict[str, float]:
    scores = RougeScorer(list(KEYS), use_stemmer=True).score(reference, prediction)
    return {key: 100 * scores[key].fmeasure for key in KEYS}


def random_text(rng: random.Random, longest: int = 60) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, longest)))


def test_worked_example_by_hand():
    # the police killed the gunman / the gunman police killed: 4 of 5 and 4 words; pairs "police killed", "the gunman" of 4 and 3;
    # longest common subsequence "the police killed" (3).
    scores = rouge("the police killed the gunman", "the gunman police killed")
    assert scores["rouge1"] == pytest.approx(100 * 2 * (4 / 5) * (4 / 4) / (4 / 5 + 4 / 4))
    assert scores["rouge2"] == pytest.approx(100 * 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert scores["rougeL"] == pytest.approx(100 * 2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))


def test_equals_rouge_score_on_random_texts():
    rng = random.Random(0)
    for _ in range(150):
        prediction, reference = random_text(rng), random_text(rng)
        assert rouge(prediction, reference) == pytest.approx(from_library(prediction, reference))


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("", ""),
        ("", "a word"),
        ("a word", ""),
        ("   \n", "a word"),
        ("...!?", "..."),
        ("one", "one"),
        ("日本語の文章です", "日本語の文章です"),
        ("Crème brûlée, 5€", "creme brulee 5"),
        ("two\nlines here", "here two lines"),
        ("broken \ud800 surrogate", "surrogate"),
    ],
)
def test_equals_rouge_score_at_the_edges(prediction, reference):
    assert rouge(prediction, reference) == pytest.approx(from_library(prediction, reference))


def test_identical_texts_score_100_and_disjoint_or_empty_texts_0():
    text = "Gist tokens keep an instruction in a few slots."
    assert rouge(text, text) == pytest.approx(dict.fromkeys(KEYS, 100.0))
    for other in ("", "nothing shared whatsoever"):
        assert rouge(text, other) == dict.fromkeys(KEYS, 0.0) == rouge(other, text)


def test_f1_is_symmetric():
    rng = random.Random(1)
    for _ in range(50):
        first, second = random_text(rng), random_text(rng)
        assert rouge(first, second) == pytest.approx(rouge(second, first))


def test_stems_words_and_ignores_line_breaks():
    assert rouge("running cats", "runs cat")["rouge2"] == pytest.approx(100)
    # rougeLsum would match both lines separately and give 100.
    assert rouge("first line\nsecond line", "second line\nfirst line")["rougeL"] == pytest.approx(50)


def test_lcs_length_agrees_with_the_table_method():
    rng = random.Random(2)
    for _ in range(300):
        first, second = (rng.choices("abcd", k=rng.randint(0, 12)) for _ in range(2))
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, x in enumerate(first):
            for j, y in enumerate(second):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert lcs_length(first, second) == table[-1][-1]


def test_shared_words_are_the_words_that_rouge_l_counts():
    rng = random.Random(2)
    for _ in range(100):
        prediction, reference = random_text(rng), random_text(rng)
        places = shared_words(prediction, reference)
        assert places == sorted(set(places))
        again = rouge(" ".join(prediction[start:stop] for start, stop in places), reference)
        assert len(places) == lcs_length(_words(prediction), _words(reference))
        assert again["rougeL"] == pytest.approx(again["rouge1"]), "nothing is out of order"


def test_threads_share_the_scorer():
    rng = random.Random(3)
    pairs = [(random_text(rng), random_text(rng)) for _ in range(100)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda pair: rouge(*pair), pairs))
    assert results == [rouge(*pair) for pair in pairs]


def test_quick_enough_for_live_scores():
    rng = random.Random(4)
    words = [f"{rng.choice(WORDS)}{rng.randint(0, 99)}" for _ in range(400)]
    reference = " ".join(words[200:])
    seconds = []
    for length in range(180, 200):  # a growing answer: every call sees a new text
        start = time.perf_counter()
        rouge(" ".join(words[:length]), reference)
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[len(seconds) // 2]
    print(f"rouge of 200 words: {median * 1000:.2f} ms")
    assert median < 0.010


def test_importing_metrics_loads_no_heavy_library():
    code = "import sys, gistdemo.metrics; print([m for m in ('nltk', 'rouge_score', 'numpy', 'torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("score", "none", "full", "expected"),
    [
        (14.4, 14.4, 27.0, 0.0),
        (27.0, 14.4, 27.0, 100.0),
        (20.7, 14.4, 27.0, 50.0),
        (33.3, 14.4, 27.0, 150.0),
        (10.0, 14.4, 27.0, -34.9206),
        (20.0, 27.0, 13.0, 50.0),
        (20.0, 13.0, 13.0 + 1e-8, 7e10),
    ],
)
def test_normalised_score_places_none_at_0_and_full_at_100(score, none, full, expected):
    assert normalised_score(score, none, full) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("none", "full"), [(5.0, 5.0), (5.0, 5.0 + 1e-10), (5.0, float("nan")), (float("-inf"), 5.0)])
def test_normalised_score_has_no_value_without_a_gap(none, full):
    assert normalised_score(5.0, none, full) is None
