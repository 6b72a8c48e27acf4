"""HTML comes from templates and from nowhere else, and nothing goes into it unescaped."""

from __future__ import annotations

import re

import measured
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from pages import ATTACKS, NASTY, Page, infected, shown

from gistdemo.jobs.progress import Progress
from gistdemo.jobs.record import Job
from gistdemo.present import job_cards, markup, panels, tables
from gistdemo.present.markup import Line, Value
from gistdemo.results.evaluation import Evaluation
from gistdemo.results.references import reference_table
from gistdemo.settings import PROJECT_DIR

PACKAGE = PROJECT_DIR / "gistdemo"
TAG = re.compile(r"</?(?:div|span|p|small|table|t[rdh]|[ud]l|li|d[td]|h[1-6]|article|section|header|mark|figure)[ >]")


def found(pattern: str | re.Pattern, ending: str = "py") -> set[str]:
    return {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob(f"*.{ending}") if re.search(pattern, p.read_text(encoding="utf-8"))}


def test_tags_stand_in_templates_only():
    assert found(TAG) == set() and "present/templates/cells.html" in found(TAG, "html")


def test_nobody_escapes_by_hand_or_says_that_a_text_is_markup():
    """But for figures, whose language is plotly's own, and for what plotly has drawn."""
    assert found(r"(?<!re\.)\bescape\(") == {"present/figures.py"}
    assert found(r"\bMarkup\(") == {"present/markup.py", "present/report.py"}
    assert found(r"\|\s*safe\b|autoescape", "html") == set()


@pytest.mark.parametrize("attack", ATTACKS)
def test_escaped_text_reads_as_it_was_written(attack):
    page = Page(markup.draw("parts.fact", attack, attack, attack))
    assert page.said == [shown(attack)] * 2 and page.found[0][1]["title"] == shown(attack)
    assert [tag for tag, _ in page.found] == ["div", "dt", "dd"]


def test_foreign_text_adds_no_element_to_jobs_nor_to_tables():
    def made(end: str) -> Page:
        results = infected(measured.results(notes=["a note"]), end)
        results["recovery"] = {name + end: found for name, found in results["recovery"].items()}
        answer = {
            "checkpoint": "one",
            "condition": "full",
            "k": 0,
            "scores": {},
            "tokens": None,
            "verdict": "healthy",
            "flags": ["F1" + end],
        }
        task = {"verdict": "unsure", "gain": 0.1, "rank": 2, "of": 6, "reason": "because" + end, "judge": "one" + end}
        answer |= {"text": "said" + end, "findings": [], "task": task}
        job = Job("id" + end, "train", "title" + end, {}, state="failed", cause="cause" + end)
        sample = {"instruction": "Say" + end, "input": "this" + end, "condition": "full" + end, "text": "said" + end, "verdict": "warning"}
        parts = [tables.figures(results, view) for view in tables.VIEWS]
        parts += [tables.leaderboard([Evaluation("id", PACKAGE, results)]), tables.references(infected(reference_table(), end))]
        parts += [tables.row_detail(0, {"instruction": "Say" + end, "input": "this" + end, "output": ""}, [answer])]
        return Page("".join([*parts, job_cards.watched(job, Progress()), job_cards.samples([sample], 1)]))

    clean, attacked = made(""), made(NASTY)
    assert [(tag, *attributes) for tag, attributes in attacked.found] == [(tag, *attributes) for tag, attributes in clean.found]
    assert attacked.text.count(shown(NASTY)) > 50, "it is shown as the text it is"


def test_line_breaks_and_tabs_stay_and_other_control_characters_are_shown():
    assert Page(panels.note("a\nb\tc\x00\x1b\r\x1f")).text == "a\nb\tc␀␛␍␟"


def test_only_what_a_template_made_is_markup():
    made = panels.note("\x07<b>")
    assert made == '<p class="gd-hint">␇&lt;b&gt;</p>' and made + "<b>" == made + Markup("&lt;b&gt;")
    assert panels.note(made) == f'<p class="gd-hint">{made}</p>'


def test_a_value_that_a_template_does_not_know_is_an_error():
    with pytest.raises(UndefinedError):
        markup.draw("panels.note", "text without a kind")


def test_a_table_shows_groups_and_values_with_what_qualifies_them():
    lines = [Line("<one>", ["text", 2, Value("3.0", "[2, 4]", strong=True), [Value("F3", "1"), Value("F6", "2")], Value()], "full")]
    html = markup.draw("parts.table", ["", "a", "b", "c", "d", "e"], [("first", lines), ("", lines)], css="x-", kind="y")
    page = Page(html)
    assert page.words == "a b c d e first" + 2 * " <one> text 2 3.0 [2, 4] F3 1 · F6 2 –"
    assert "<b>3.0</b> <small>[2, 4]</small>" in html and page.with_class("x-group") and page.with_class("y")
    assert [attributes.get("colspan") for tag, attributes in page.found if tag == "th"][6] == "6"
    assert html.count('<tr data-condition="full">') == 2
