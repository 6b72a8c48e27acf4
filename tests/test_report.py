"""Figures hold what was measured; the report stands on its own and lets nothing foreign run in it."""

from __future__ import annotations

import re

import measured
import pytest

from gistdemo.evaluate import figures
from gistdemo.evaluate.references import reference_table
from gistdemo.evaluate.report import best_and_worst, html_report, markdown_table

RESULTS, ROWS, EXAMPLES = measured.results(), measured.rows(), measured.examples()
EMPTY = measured.results(answers=[], recovery={})


def traces(figure) -> dict[str, tuple[list, list]]:
    return {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}


def entry(checkpoint, condition, k=0):
    return next(e for e in RESULTS["answers"] if (e["checkpoint"], e["condition"], e["k"]) == (checkpoint, condition, k))


def test_bars_stand_for_means_and_their_intervals():
    figure = figures.rouge_bars(RESULTS)
    found = traces(figure)
    assert list(found) == ["looping", "healthy"] and found["healthy"][0][:3] == ["Full", "Gist, k=1", "Gist, k=4"]
    assert found["healthy"][1] == [e["rougeL"] for e in RESULTS["answers"] if e["checkpoint"] == "healthy"]
    low, high = entry("healthy", "gist", 1)["intervals"]["rougeL"]
    bar = figure.data[1]
    assert bar.y[1] + bar.error_y.array[1] == pytest.approx(high) and bar.y[1] - bar.error_y.arrayminus[1] == pytest.approx(low)
    assert traces(figures.rouge_bars(RESULTS, 4))["healthy"][0] == ["Full", "Gist, k=4", "Truncated, k=4", "No instruction"]


def test_quality_rises_along_k_between_two_level_lines():
    found = traces(figures.quality_by_k(RESULTS))
    assert found["healthy, gist"] == ([1, 4], [entry("healthy", "gist", k)["rougeL"] for k in (1, 4)])
    assert found["healthy, full"][1] == [100.0, 100.0] and found["healthy, no instruction"][0] == [1, 4]


def test_recovery_stands_beside_its_control():
    found = traces(figures.recovery_by_k(RESULTS))
    assert found["healthy, references"] == ([1, 4], [0.6, 0.9]) and found["healthy, references, swapped"][1] == [-0.1, -0.1]


def test_shares_of_verdicts_add_up():
    figure = figures.verdict_shares(RESULTS)
    assert [trace.name for trace in figure.data] == ["healthy", "warning", "degenerate"]
    assert all(sum(parts) == pytest.approx(100) for parts in zip(*(trace.x for trace in figure.data), strict=True))
    shares = dict(zip(figure.data[2].y, figure.data[2].x, strict=True))
    assert shares["looping: Full"] > 80 and shares["healthy: Full"] == 0


def test_length_and_scatter_speak_of_one_checkpoint_and_budget():
    found = traces(figures.rouge_by_length(ROWS, "healthy", 4))
    assert found["Full"] == (["1-7", "16-29"], [100.0, 100.0])
    points = [n for trace in figures.gist_against_full(ROWS, EXAMPLES, "healthy", 1).data for n in trace.customdata]
    assert sorted(points) == list(range(6))


@pytest.mark.parametrize("draw", [figures.rouge_bars, figures.quality_by_k, figures.recovery_by_k, figures.verdict_shares])
def test_nothing_measured_is_said_not_drawn(draw):
    figure = draw(EMPTY)
    assert len(figure.data) == 0 and figure.layout.annotations[0].text
    assert figures.rouge_by_length([], "x", 4).layout.annotations and figures.gist_against_full([], [], None, 0).layout.annotations


def test_best_and_worst_are_gains_and_losses_against_the_full_prompt():
    best, worst = best_and_worst(ROWS, "healthy", 1)
    assert best == [] and sorted(worst) == [0, 2, 4] and best_and_worst(ROWS, "healthy", 4) == ([], [])


def test_the_report_stands_on_its_own_and_runs_nothing_foreign():
    page = html_report(RESULTS, ROWS, EXAMPLES, reference_table())
    assert page.count("<script>alert(1)") == 0 and "&lt;script&gt;alert(1)" in page and "in </script> French" not in page
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=.https?:", without_scripts) and "<script src" not in page, "nothing is fetched"
    assert page.count("plotly.js v") == 1, "the library is inside, once"
    for words in (
        "healthy",
        "Gist, k=4",
        "How to reproduce",
        RESULTS["command"],
        "sha256:0123456789abcdef",
        "Mu et al. 2023",
        "F3",
    ):
        assert words in page, words


def test_a_report_of_figures_alone_is_a_report():
    page = html_report(RESULTS, [], [])
    assert "loses most" not in page and "Gist, k=4" in page
    assert "No answers were generated." in html_report(EMPTY, [], [])
    single = measured.results(answers=[e for e in RESULTS["answers"] if e["k"] in (0, 1)])
    assert "Where the gist loses most" in html_report(single, ROWS, EXAMPLES)
    imported = html_report(RESULTS | {"notes": [f"5 of 5 {measured.NASTY}"], "command": "", "source": "imported"}, [], [])
    assert "What stands out" in imported and "5 of 5 &lt;script&gt;" in imported and "imported from animals.jsonl" in imported


def test_the_table_for_a_paper_holds_n_intervals_and_what_reproduces_it():
    table = markdown_table(RESULTS)
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 12 and all(line.count(" | ") == lines[0].count(" | ") for line in lines[2:])
    (line,) = [line for line in lines if "| healthy | gist | 1 | 6 |" in line]
    assert "[" in line and "ref 0.60 (-0.10), own 0.60 (-0.10)" in line and "0.0 %" in line
    assert "`python -m gistdemo eval --checkpoint looping`" in table and "torch" in table and "seed: 0" in table
