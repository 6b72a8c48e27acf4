"""Figures of others: the paper's own normalised scores come out of its ROUGE."""

from __future__ import annotations

import pytest

from gistdemo.results.references import EARLIER, PAPER, reference_table


@pytest.mark.parametrize(("split", "published"), [("seen", 99), ("unseen", 91), ("human", 75)])
def test_normalised_scores_agree_with_the_published_ones(split, published):
    (line,) = [r for r in reference_table() if (r["model"], r["split"], r["condition"], r["k"]) == ("LLaMA-7B", split, "gist", 1)]
    assert line["normalised"] == pytest.approx(published, abs=0.6)


def test_every_figure_has_a_source_and_says_what_differs():
    table = reference_table()
    assert {r["source"] for r in table} == {PAPER, EARLIER} and len(table) == 30
    assert all(len(r["note"]) > 50 and 0 < r["rougeL"] < 100 for r in table)
    full, none = (
        {r["split"]: r["normalised"] for r in table if r["model"] == "FLAN-T5-XXL" and r["condition"] == c} for c in ("full", "none")
    )
    assert set(full.values()) == {100.0} and set(none.values()) == {0.0}
