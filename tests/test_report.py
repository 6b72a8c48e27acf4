"""The report of an evaluation and its Markdown table: the measured numbers, self-contained, and foreign text stays text."""

from __future__ import annotations

import copy
import re

import evaluated
import pytest
from pages import NASTY, Page, infected, shown

from gistdemo.metrics import FLAGS, SCORES
from gistdemo.present.markdown import flags_table, markdown_table
from gistdemo.present.report import best_and_worst, html_report
from gistdemo.results.references import reference_table


@pytest.fixture(scope="module")
def html() -> str:
    return html_report(evaluated.results(), evaluated.rows(), evaluated.examples(), reference_table())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


# --- best and worst ---------------------------------------------------------------------------------------------------


def test_best_and_worst_are_measured_against_the_full_prompt_row_by_row():
    assert best_and_worst(evaluated.rows(), "joint", "gist", 4) == ([0], [3, 1])
    assert best_and_worst(evaluated.rows(), "joint", "gist", 1) == ([], [0, 1, 2, 3])
    assert best_and_worst(evaluated.rows(), "joint", "truncated", 4) == ([], [0, 1, 2, 3])


def test_the_worst_come_first_and_no_more_than_asked_for():
    assert best_and_worst(evaluated.rows(), "joint", "gist", 4, most=1) == ([0], [3])


def test_a_row_without_a_score_or_without_a_full_answer_is_neither_best_nor_worst():
    rows = [row for row in evaluated.rows() if not (row["condition"] == "full" and row["row"] == 3)]
    for row in rows:
        row["scores"] = {} if row["condition"] == "gist" and row["row"] == 0 else row["scores"]
    assert best_and_worst(rows, "joint", "gist", 4) == ([], [1])
    assert best_and_worst([], "joint", "gist", 4) == ([], [])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file_and_carries_plotly_once(html, page):
    assert not {"src", "href", "action", "data"} & {name for _, attributes in page.found for name in attributes}
    assert "default-src 'none'" in html and not re.search(r"@import|url\(", html.partition("</style>")[0])
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    # four figures of the whole, two of each checkpoint
    assert sum('Plotly.newPlot("figure-' in " ".join(script.split()).replace("( ", "(") for script in page.scripts) == 9
    assert html.count('id="figure-1"') == html.count('id="figure-8"') == 1


def test_the_style_sheet_is_whole(html):
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert style.count("{") == style.count("}") > 30 and not re.search(r"^(<{7}|={7}|>{7})", style, re.MULTILINE)


def test_the_same_results_give_the_same_page(html):
    assert html == html_report(evaluated.results(), evaluated.rows(), evaluated.examples(), reference_table())


def test_the_page_shows_numbers_with_their_interval_and_count(page):
    assert "Gist 4 4 31.2 [29.2, 33.2] – – – 75 % 3 0 % 0 25 % 1 75 % 3 20.5 – 0.88 swapped -0.25" in page.words
    assert "Gist 4 4 32.2 [31.2, 33.2] – 31.2 [29.2, 33.2] –" in page.words and "– -3.8 [-15.0, +6.2] 0.88 swapped -0.25 –" in page.words
    assert "Gist 1 4 16.0 [15.0, 17.0] – 15.0 [13.0, 17.0] – – – – –" in page.words, "no recovery without its control"


def test_the_page_says_what_was_measured(page):
    assert "4 rows of held_out.jsonl, greedy answers of joint, base, at most 64 tokens each" in page.words
    assert "with k = 1, 4." in page.words and "trained on" not in page.words


def test_rows_that_were_trained_on_are_a_warning():
    page = Page(html_report(evaluated.results() | {"rows_trained_on": 2}, [], []))
    assert "2 of the rows were trained on: no figure here speaks of unseen instructions." in page.words


def test_imported_results_are_not_called_greedy_nor_reproducible():
    results = evaluated.results() | {"source": "imported", "notes": ["Prompts were not recorded."]}
    del results["command"]
    page = Page(html_report(results, [], []))
    assert "outputs of another program of joint" in page.words and "greedy" not in page.words
    assert "Imported from held_out.jsonl." in page.words and "What stands out Prompts were not recorded." in page.words


def test_verdicts_and_flags_are_counted_and_explained(page):
    assert "Gist 4 4 75 % 3 0 % 0 25 % 1 75 % 3 0 % 0 25 % 1 0 F3 1 Truncated" in page.words
    assert "Blind gist 4 4 100 % 4 0 % 0 0 % 0 100 % 4 0 % 0 0 % 0 4 –" in page.words, "F7 is counted over the set"
    assert all(f"{kind.code} {kind.words}: {kind.more}" in page.words for kind in FLAGS)


def test_best_and_worst_rows_are_shown_with_all_their_texts(page):
    joint = page.words[page.words.index("Row by row: joint, k = 4") : page.words.index("Row by row: base, k = 4")]
    best, worst = joint.split("Where the gist loses most against the full prompt")
    assert "Row 1 ROUGE-L +10.0 Instruction List three primary colours. Reference reference 0" in best and "Row 4" not in best
    assert worst.index("Row 4 ROUGE-L -20.0") < worst.index("Row 2 ROUGE-L -5.0") and "Row 3 " not in joint
    assert "Full 20.0 ● healthy ✓ on task joint full 0 says 3 Gist 0.0 ■ degenerate ✗ off task joint gist 4 says 3" in worst


def test_the_page_says_how_to_reproduce_it(page):
    for fact in ("python -m gistdemo eval joint base --k 1 4", "sha256:0123abcd", "seed 7", "torch 2.13.0", "2026-11-23T05:00:00"):
        assert fact in page.words


def test_figures_of_others_stand_apart_with_their_source(page):
    others = page.words.partition("Figures of others")[2]
    assert "Mu et al. 2023, Table 1" in others and "LLaMA-7B seen Full – 58.0 100" in others and "compare within one source only" in others
    assert "Figures of others" not in Page(html_report(evaluated.results(), [], [])).words


def test_without_the_rows_the_figures_are_still_reported():
    page = Page(html_report(evaluated.results(), [], []))
    assert "Gist 4 4 32.2" in page.words and "Row by row:" not in page.words


def test_an_evaluation_that_has_no_answers_is_reported_as_that():
    results = evaluated.results() | {"answers": [], "recovery": {}}
    page = Page(html_report(results, [], []))
    assert "4 rows of held_out.jsonl: joint, base. No answers were generated." in page.words
    assert "under these conditions" not in page.words and not page.words.count("Verdicts and flags")
    assert [line for line in markdown_table(results).splitlines() if line.startswith("|")] == markdown_table(results).splitlines()[:2]


def test_foreign_text_adds_no_element_to_the_page():
    def made(end: str) -> Page:
        results = infected(evaluated.results() | {"notes": ["a note"]}, end)
        for name in ("recovery", "versions"):  # their keys are foreign as well
            results[name] = {key + end: value for key, value in results[name].items()}
        references = [line | {"source": line["source"] + end} for line in infected(reference_table(), end)]
        html = html_report(results, infected(evaluated.rows(), end), infected(evaluated.examples(), end), references)
        html.encode("utf-8")  # raises where the page could not be written to a file
        return Page(html)

    clean, attacked = made(""), made(NASTY)
    assert [(tag, *attributes) for tag, attributes in attacked.found] == [(tag, *attributes) for tag, attributes in clean.found]
    assert attacked.text.count(shown(NASTY)) > 40, "it is shown as the text it is"


def test_a_condition_and_a_flag_of_others_are_text_as_well():
    results = evaluated.results()
    results["answers"][0] |= {"condition": "<i>odd", "flags": {"<u>F": 1}}
    assert not {"i", "u"} & {tag for tag, _ in Page(html_report(results, [], [])).found}


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_the_markdown_table_has_all_figures_of_an_entry_on_one_line():
    lines = markdown_table(evaluated.results()).splitlines()
    assert lines[0].startswith("| checkpoint | condition | k | n | ROUGE-1 | ROUGE-2 | ROUGE-L | ")
    assert lines[0].endswith(" | normalised | recovery (swapped) | degenerate | prompt tokens |")
    assert lines[4].startswith("| joint | gist | 4 | 4 | 32.2 [31.2, 33.2] | - | 31.2 [29.2, 33.2] | - | ")
    assert lines[4].endswith("| - | ref 0.88 (-0.25) | 25.0 % | 20.5 |")
    assert lines[2].startswith("| joint | full | - | 4 | 36.0 [35.0, 37.0] | - | 35.0 [33.0, 37.0] | - | ")
    assert lines[2].endswith("| - | - | 0.0 % | 20.5 |") and {line.count("|") for line in lines[:10]} == {len(SCORES) + 9}


def test_the_table_of_a_terminal_has_verdicts_and_flags_on_one_line():
    results = evaluated.results()
    results["answers"][2] |= {"checkpoint": "a | b", "flags": {"F3": 1, "F6": 2}, "kv_bytes": 2048}
    heads, _, _, _, line, *_ = flags_table(results).splitlines()
    assert heads.startswith("| checkpoint | condition | k | n | ROUGE-L | normalised | own full |") and heads.endswith("| answers with |")
    assert line.startswith("| a \\| b | gist | 4 | 4 | 31.2 [29.2, 33.2] | - | - | - | 75 % 3 | 0 % 0 | 25 % 1 | 75 % 3 | 20.5 | 2 | -")
    assert line.endswith("| 0 | F3 1, F6 2 |")


def test_the_markdown_table_names_both_kinds_of_recovery_where_both_were_measured():
    results = evaluated.results()
    results["recovery"]["joint"]["own_answers"]["by_k"]["4"] = {"recovery": 0.5, "swapped": 0.125}
    assert "| ref 0.88 (-0.25), own 0.50 (0.12) |" in markdown_table(results)


def test_the_markdown_table_says_how_to_reproduce_it():
    table = markdown_table(evaluated.results())
    assert "- command: `python -m gistdemo eval joint base --k 1 4`\n- rows: 4\n- digest of the rows: sha256:0123abcd\n- seed: 7\n" in table
    assert "- versions: gistdemo 0.1.0, torch 2.13.0\n- date: 2026-11-23T05:00:00+00:00\n" in table


def test_a_seed_of_zero_is_a_seed_and_what_is_unknown_is_left_out():
    results = evaluated.results()
    results["request"]["seed"] = 0
    del results["command"], results["versions"]
    table = markdown_table(results)
    assert "- seed: 0\n" in table and "command" not in table and "versions" not in table


def test_foreign_text_breaks_no_cell_and_no_line_of_the_markdown_table():
    results = copy.deepcopy(evaluated.results())
    for entry in results["answers"]:
        entry["checkpoint"] = "a | b\n\\| <img src=x> \ud800"
    results["command"] = "eval `x`\ny"
    table = markdown_table(results)
    table.encode("utf-8")
    lines = [line for line in table.splitlines() if line.startswith("| a")]
    assert len(lines) == len(results["answers"]) and "<img" not in table
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {len(SCORES) + 9}
    assert "- command: `` eval `x` y ``\n" in table
