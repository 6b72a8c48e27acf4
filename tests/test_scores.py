"""Scores are one list: each is computed once, and one more of them is kept, summed up and shown without another edit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gistdemo.metrics import MAIN, SCORES, rouge
from gistdemo.metrics import scores as module
from gistdemo.metrics.scores import scores_of

TESTS = Path(__file__).parent
ONE_MORE = """
import json, sys
from gistdemo.metrics.scores import SCORES, Score
SCORES["letters"] = Score("letters", "Letters", lambda answer, reference: 100.0 * len(answer) / (len(answer) + len(reference)))

import measured
from gistdemo.grid import Cell
from gistdemo.metrics import assess
from gistdemo.present.answer_table import COLUMNS, Filter, answer_rows
from gistdemo.present.cells import card
from gistdemo.present.markdown import markdown_table
from gistdemo.present.report import html_report
from gistdemo.present.tables import figures, row_detail
from gistdemo.results.earlier_format import eval_results
from gistdemo.results.evaluation import table

rows, results, examples = measured.rows(), measured.results(), measured.examples()
mine = lambda one: (one["checkpoint"], one["condition"], one["k"]) == ("healthy", "gist", 1)
healthy, (entry,) = [*filter(mine, rows)], filter(mine, results["answers"])
heads, line = [head for head, *_ in COLUMNS], answer_rows(rows, examples, Filter("healthy", "gist", 1))[0]
cell = Cell("toy", "full", "done", "ab", diagnosis=assess("ab", measured.EXAMPLES[0]))
print(json.dumps({
    "answers": [r["scores"]["letters"] for r in healthy],
    "entry": entry["scores"]["letters"],
    "column": line[heads.index("Letters")],
    "exported": list(table(healthy, examples)["letters"]),
    "texts": {
        "scores": figures(results, "Scores"), "markdown": markdown_table(results), "report": html_report(results, rows, examples),
        "row": row_detail(1, examples[1], healthy[1:2]), "card": card(cell),
    },
    "earlier": eval_results("healthy", 1, [entry], 1.0)["rouge_scores"]["gist"],
}))
"""


def test_rouge_is_three_scores_and_computed_once():
    pair = "the cat sat on a mat", "the cat ran off the mat"
    module._rouge.cache_clear()
    found, labels = scores_of(*pair), {name: score.label for name, score in SCORES.items()}
    assert {name: found[name] for name in ("rouge1", "rouge2", "rougeL")} == rouge(*pair) and list(found) == list(SCORES)
    assert module._rouge.cache_info().misses == 1
    assert (labels["rouge1"], labels["rouge2"], labels["rougeL"]) == ("ROUGE-1", "ROUGE-2", "ROUGE-L")
    assert MAIN.of(*pair) == rouge(*pair)["rougeL"]


@pytest.mark.parametrize("reference", ["", " \n"])
def test_without_a_reference_there_is_no_score(reference):
    assert scores_of("some answer", reference) == {}


def test_one_more_score_shows_wherever_scores_are():
    """In a process of its own: the lists of columns are made when they are imported."""
    made = subprocess.run([sys.executable, "-c", ONE_MORE], cwd=TESTS, env={"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    found = json.loads(made.stdout)
    answers, entry = found["answers"], found["entry"]
    assert answers == found["exported"] == pytest.approx([300 / 7, 50] * 3)
    assert (entry["mean"], entry["n"]) == (pytest.approx(sum(answers) / 6), 6) and entry["low"] < entry["mean"] < entry["high"]
    assert found["column"] == 42.9
    interval = f"[{entry['low']:.1f}, {entry['high']:.1f}]"
    for name, text in found["texts"].items():
        assert "Letters" in text, name
        assert {"row": "Letters 50.0", "card": "Letters 14.3"}.get(name, interval) in text, name
    assert set(found["earlier"]) == {"rouge1", "rouge2", "rougeL"}, "the earlier experiment knew no other"
