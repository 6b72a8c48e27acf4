"""The HTML of grid, status line and checkpoints: foreign text stays text, flagged places are marked, colour is never the only cue."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
from pages import ATTACKS, NASTY, Page, shown
from scripted import write_checkpoint

from gistdemo.checkpoint.manifest import read_manifest
from gistdemo.checkpoint.registry import Entry, ModelRow
from gistdemo.conditions import CONDITIONS
from gistdemo.grid import Cell, Piece, Snapshot
from gistdemo.metrics import FLAGS, Assessment, Flag
from gistdemo.model.embedded import GEMMA, SMOLLM2
from gistdemo.present import cells, panels
from gistdemo.present.checkpoint_cards import checkpoints
from gistdemo.prompts import Template
from gistdemo.results.migrations import FORMAT
from gistdemo.settings import PROJECT_DIR

TAGS = set("button div section header article h3 h4 h5 p span small b i strong dl dt dd ul li code mark table caption tr th td".split())
ATTRIBUTES = {"class", "id", "title", "type", "style", "dir", "tabindex", "role", "aria-live", "aria-hidden"}
ATTRIBUTES |= {"data-checkpoint", "data-condition", "data-status", "data-finished"}


def checked(html: str) -> Page:
    """The page, if it has only our own elements and attributes, none of which runs anything."""
    page = Page(html)
    assert {tag for tag, _ in page.found} <= TAGS, {tag for tag, _ in page.found} - TAGS
    names = {name for _, attributes in page.found for name in attributes}
    assert names <= ATTRIBUTES, names - ATTRIBUTES
    assert not any(ord(c) < 32 and c not in "\n\t" for c in page.strings)
    return page


def test_changes_are_the_cards_that_are_not_what_they_were():
    before = Snapshot(tuple(Cell("base", name, status="running", text="so") for name in CONDITIONS), "", None, False)
    grown = dataclasses.replace(before.cells[1], text="so <b>far</b>")
    now = dataclasses.replace(before, cells=(before.cells[0], grown, *before.cells[2:]))
    ((_, sent),) = Page(cells.changes(before, now)).found
    assert sent["data-cards"] == cells.card(grown) and "<b>far" not in sent["data-cards"]
    assert cells.changes(now, now) == '<i data-cards=""></i>'


def flag(severity="fail", span=None, name="loop", evidence="said before", code="F3") -> Flag:
    return Flag(code, name, severity, span, evidence)


def done(text: str = "Two.", condition: str = "full", **values) -> Cell:
    return Cell("toy", condition, status="done", text=text, **({"diagnosis": Assessment("healthy"), "finish_reason": "eos"} | values))


def one(cell: Cell) -> Snapshot:
    return Snapshot((cell,), "", None, True)


@pytest.fixture
def manifest(tmp_path):
    return read_manifest(write_checkpoint(tmp_path / "toy"))


def row_of(manifest, name: str = "toy") -> ModelRow:
    return ModelRow(name, manifest.backbone, Entry(name, Path(name), manifest, None))


def spoiled(manifest, text: str):
    """The manifest with `text` in every string of it."""
    template = Template(*[text] * 6, stop=(text,))
    strings = {f.name: text for f in dataclasses.fields(manifest) if isinstance(getattr(manifest, f.name), str)}
    figures = {"rows": text, "by_k": {text: {"recovery": 0.5, "swapped": None}}}
    records = {"training": {"steps": text, "seconds": 60.0, "device": text}, "recovery": {"references": figures, "own_answers": figures}}
    return dataclasses.replace(manifest, template=template, **strings, **records)


# --- escaping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["waiting", "running", "done"])
@pytest.mark.parametrize("error", [None, NASTY])
def test_nothing_foreign_becomes_markup_in_the_grid(manifest, status, error):
    flags = tuple(flag(severity, (0, 40), NASTY, NASTY, "F3") for severity in ("fail", "warn", "info"))
    scores = {"rouge1": 1.0, "rouge2": 2.0, "rougeL": 3.0}
    cell = Cell(NASTY, "gist", status, NASTY, error=error, diagnosis=Assessment("degenerate", flags, scores=scores))
    for known in ({NASTY: row_of(spoiled(manifest, NASTY), NASTY)}, {NASTY: ModelRow(NASTY, NASTY)}, {}):
        page = checked(cells.grid(one(cell), known))
        assert page.text.count(shown(NASTY)) >= (4 if error is None else 2)
        assert page.with_class("gd-card")[0]["data-checkpoint"] == shown(NASTY)
        assert ("gd-error" in str(page.found)) == (error is not None)


def test_nothing_foreign_becomes_markup_in_what_the_model_sees():
    pieces = (Piece("instruction", "shown", (NASTY, *ATTACKS)), Piece("gist", "slot", ()), Piece("input", "dropped", (NASTY,)))
    page = checked(cells.seen_by_model(one(Cell(NASTY, "gist", pieces=pieces, kept_tokens=2))))
    assert page.text.count(shown(NASTY)) == 3 and "g1g2" in page.text


def test_nothing_foreign_becomes_markup_in_the_status_line():
    for kind in ("info", "busy", "error"):
        page = checked(panels.status(NASTY, 0.5, kind))
        assert page.text == shown(NASTY) and page.found[0][1]["role"] == "status"


def test_models_that_are_not_ready_have_a_line_each():
    states = [("Downloading: 3 of 9 MB", 0.25, "busy"), (NASTY, None, "failed"), ("waiting", None, "busy")]
    page = checked(panels.models(states))
    lines = page.with_class("gd-model")
    assert [line["class"].split()[1] for line in lines] == ["gd-s-busy", "gd-s-error", "gd-s-busy"] and shown(NASTY) in page.text
    assert len(page.with_class("gd-bar")) == 1 and "width:25%" in page.strings
    assert panels.models([]) == ""


def test_the_notice_of_a_licence_is_shown_once_and_where_it_is_asked_for(manifest, tmp_path):
    notices = checked(panels.notices(["org/name", GEMMA.name, SMOLLM2.name, GEMMA.name]))
    assert notices.text == GEMMA.notice and panels.notices([SMOLLM2.name, "toy"]) == ""
    on_gemma = Entry("toy", tmp_path, dataclasses.replace(manifest, backbone=GEMMA.name), None)
    assert GEMMA.notice in checked(checkpoints([on_gemma])).text
    assert "gd-notice" not in checkpoints([Entry("toy", tmp_path, manifest, None)])


def test_nothing_foreign_becomes_markup_in_the_checkpoints(manifest, tmp_path):
    good = Entry(NASTY, tmp_path, spoiled(manifest, NASTY), None)
    broken = Entry(NASTY, tmp_path, None, NASTY)
    page = checked(checkpoints([good, broken]))
    assert page.text.count(shown(NASTY)) >= 8


# --- highlighting ----------------------------------------------------------------------------------------------------


def marked(text: str, *flags: Flag) -> list[tuple[str, str]]:
    """(piece, severity of its mark) in order."""
    runs: list[tuple[str, str]] = []
    for letter, mark in checked(cells.highlight(text, flags)).letters:
        severity = mark.removeprefix("gd-m-")
        if runs and runs[-1][1] == severity:
            runs[-1] = (runs[-1][0] + letter, severity)
        else:
            runs.append((letter, severity))
    return runs


def test_a_flagged_place_is_marked_with_its_evidence():
    assert marked("so it goes, it goes", flag(span=(3, 10))) == [("so ", ""), ("it goes", "fail"), (", it goes", "")]
    mark = Page(cells.highlight("abc", [flag(span=(0, 1), evidence="'a' x 3")])).with_class("gd-m-fail")[0]
    assert mark["title"] == "loop: 'a' x 3"


def test_remarks_and_flags_without_a_place_mark_nothing():
    assert marked("abc", flag("info", (0, 3)), flag("fail", None), flag("fail", (1, 1))) == [("abc", "")]


@pytest.mark.parametrize("span", [(0, 3), (0, 1), (2, 3)])
def test_places_may_touch_the_ends_of_the_text(span):
    runs = marked("abc", flag(span=span))
    assert ("abc"[slice(*span)], "fail") in runs and "".join(piece for piece, _ in runs) == "abc"


def test_where_places_overlap_the_more_severe_wins():
    text = "0123456789"
    inside = marked(text, flag("warn", (2, 8)), flag("fail", (4, 6)))
    assert inside == [("01", ""), ("23", "warn"), ("45", "fail"), ("67", "warn"), ("89", "")]
    assert marked(text, flag("fail", (0, 5)), flag("warn", (3, 10))) == [("01234", "fail"), ("56789", "warn")]


def test_an_interrupted_flag_stays_one_mark():
    """A place that another one only touches is not cut into pieces."""
    found = [flag("fail", (0, 9), evidence="outer"), flag("warn", (3, 6), "repetitive")]
    assert cells.highlight("123456789", found).count("<mark") == 1


def test_shared_words_are_coloured_inside_and_outside_of_a_mark():
    found = cells.highlight("a <b> c d", [flag(span=(2, 7))], [(0, 1), (3, 4), (6, 9)])
    same = '<span class="gd-same">{}</span>'.format
    assert found.startswith(same("a") + " <mark") and found.endswith(same("c") + "</mark>" + same(" d"))
    assert f"&lt;{same('b')}&gt; {same('c')}" in found and found.count("<mark") == 1


def test_markup_characters_inside_and_around_a_place_are_counted_as_one_character():
    text = 'a&b<c>"d'
    assert marked(text, flag(span=(1, 5))) == [("a", ""), ("&b<c", "fail"), ('>"d', "")]


def test_a_place_may_reach_over_line_breaks():
    text = "one\nOutput: www\nOutput: www\nend"
    assert marked(text, flag(span=(4, 27))) == [("one\n", ""), ("Output: www\nOutput: www", "fail"), ("\nend", "")]


def test_every_character_is_marked_as_its_most_severe_flag_says():
    """Against a slow and simple rule, on random places."""
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices('ab<&">\n é', k=rng.randint(1, 30)))
        spans = [tuple(sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))) for _ in range(rng.randint(0, 4))]
        found = [flag(rng.choice(["fail", "warn", "info"]), span) for span in spans]
        severities = [[f.severity for f in found if f.span[0] <= at < f.span[1]] for at in range(len(text))]
        expected = ["fail" if "fail" in over else "warn" if "warn" in over else "" for over in severities]
        letters = Page(cells.highlight(text, found)).letters
        assert letters == [(c, f"gd-m-{mark}" if mark else "") for c, mark in zip(text, expected, strict=True)]


# --- what a card says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "shape"), [("healthy", "●"), ("warning", "▲"), ("degenerate", "■")])
def test_every_verdict_is_a_word_and_a_shape_of_its_own(verdict, shape):
    assert f"{shape} {verdict}" in Page(cells.card(done(diagnosis=Assessment(verdict)))).text
    growing = dataclasses.replace(done(diagnosis=Assessment(verdict)), status="running", finish_reason=None)
    assert f"{shape} {verdict} so far" in Page(cells.card(growing)).text


def test_a_failed_cell_says_so_in_word_shape_and_reason():
    page = Page(cells.card(Cell("toy", "full", "done", error="out of memory", finish_reason="error")))
    assert "✕ failed" in page.text and "out of memory" in page.text
    assert page.with_class("gd-error")[0]["role"] == "alert"


def test_cells_without_a_verdict_say_what_they_are_waiting_for():
    assert "waiting" in Page(cells.card(Cell("toy", "full"))).text
    assert "reading" in Page(cells.card(Cell("toy", "full", "running"))).text


@pytest.mark.parametrize(("severity", "shape"), [("fail", "■"), ("warn", "▲"), ("info", "○")])
@pytest.mark.parametrize("kind", ["flags", "facts"])
def test_every_finding_is_told_in_words_with_shape_evidence_and_code(severity, shape, kind):
    found = Assessment("healthy", **{kind: (flag(severity, None, "template_leak", "'Output:' is part of a prompt", "F6"),)})
    text = " ".join(Page(cells.card(done(diagnosis=found))).text.split())
    assert f"{shape} prompt labels leak into the answer 'Output:' is part of a prompt F6" in text
    assert "gd-flags" not in cells.card(done())


def test_every_flag_that_exists_has_words():
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT_DIR / "gistdemo" / "metrics").glob("*.py"))
    made = set(re.findall(r'Flag\("(F\d+)", "(\w+)"', source))
    assert made == {(kind.code, kind.name) for kind in FLAGS} and all(kind.words and kind.more for kind in FLAGS)


@pytest.mark.parametrize(
    ("reason", "words"), [("eos", "ended by itself"), ("limit", "cut at the answer limit"), ("stopped", "stopped by you")]
)
def test_a_finished_answer_says_why_it_ended(reason, words):
    assert words in Page(cells.card(done(finish_reason=reason))).text and words not in Page(cells.card(done(finish_reason=None))).text


def test_numbers_are_shown_as_measured_and_dashes_until_then():
    counts = {"prompt_tokens": 31, "instruction_tokens": 12, "kept_tokens": 4, "kv_bytes": 2048, "answer_tokens": 5}
    text = Page(cells.card(done(**counts, first_token_seconds=0.25, tokens_per_second=19.6))).text
    assert all(part in text for part in ("31 tok", "12 → 4 3.0\u00d7", "2 KiB", "5 tok", "0.25 s", "20/s"))
    assert Page(cells.card(Cell("toy", "full"))).text.count("\u2013") == 5


def test_scores_show_with_a_reference_and_the_bar_stays_inside():
    assert "gd-rouge" not in cells.card(done())
    scored = lambda **scores: Assessment("healthy", scores=scores)  # noqa: E731
    line = cells.card(done(diagnosis=scored(rouge1=40.0, rouge2=20.0, rougeL=33.3), normalised=75.2))
    assert "ROUGE-L 33.3 ROUGE-1 40.0 · ROUGE-2 20.0" in Page(line).words and "width:33.3%" in line
    assert "width:100.0%" in cells.card(done(diagnosis=scored(rougeL=100.00001)))


def test_an_empty_answer_is_told_apart_from_one_that_has_not_begun():
    assert "(the model said nothing)" in cells.card(done(""))
    for status in ("waiting", "running"):
        assert "said nothing" not in cells.card(Cell("toy", "full", status))


def test_text_of_any_direction_is_laid_out_by_its_own_first_letter_and_tokens_from_left_to_right():
    assert 'dir="auto"' in cells.card(done("שלום"))
    assert 'dir="ltr"' in cells.seen_by_model(one(Cell("toy", "full", pieces=(Piece("input", "shown", ("של",)),))))


def test_the_grid_has_a_row_per_checkpoint_and_a_card_per_condition(manifest):
    everything = tuple(Cell(name, condition) for name in ("toy", "other") for condition in CONDITIONS)
    page = checked(cells.grid(Snapshot(everything, "", None, False), {"toy": row_of(manifest)}))
    assert len(page.with_class("gd-row")) == 2 and len(page.with_class("gd-card")) == 2 * len(CONDITIONS)
    assert "Toy toy" in page.text and "instruct" in page.text and "other" in page.text
    assert page.with_class("gd-grid")[0]["data-finished"] == "false"


@pytest.mark.parametrize(("template", "kind"), [("plain", "base"), ("chatml", "instruct")])
def test_a_row_says_what_kind_of_model_it_is_and_on_which_it_stands(manifest, template, kind):
    made = dataclasses.replace(manifest, template=dataclasses.replace(manifest.template, name=template), backbone=GEMMA.name)
    head = cells.grid(one(done()), {"toy": row_of(made)})
    assert f">{kind}<" in head and ">embeddings<" in head and f">{GEMMA.title}<" in head
    assert ">toy<" in cells.grid(one(done()), {"toy": row_of(manifest)}), "a model that is not embedded is named as it was given"


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [(SMOLLM2.name, SMOLLM2.title, "instruct"), (GEMMA.name, GEMMA.title, "base"), ("org/name", "name", None)],
)
def test_a_backbone_as_a_row_says_that_it_has_no_gist(name, title, kind):
    page = checked(cells.grid(one(dataclasses.replace(done(), checkpoint=name)), {name: ModelRow(name, name)}))
    assert "no gist" in page.text and title in page.text and "without a gist" in page.text
    assert len(page.with_class("gd-kind")) == (kind is not None) and (kind is None or kind in page.text)


def test_a_cell_that_has_nothing_to_show_is_no_answer_and_no_failure():
    page = checked(cells.card(Cell("toy", "gist", "done", note=NASTY)))
    card = page.with_class("gd-absent")[0]
    assert card["data-status"] == "absent" and card["data-condition"] == "gist" and page.text.strip() == f"Gist{shown(NASTY)}"
    assert not page.with_class("gd-badge") and not page.with_class("gd-numbers") and not page.with_class("gd-error")


def test_a_cell_that_waits_for_a_model_says_how_far_it_is():
    page = checked(cells.card(Cell("toy", "full", note=NASTY)))
    assert shown(NASTY) in page.text and page.with_class("gd-waiting") and not page.with_class("gd-absent")


def test_invisible_tokens_are_made_visible():
    text = Page(cells.seen_by_model(one(Cell("toy", "full", pieces=(Piece("template", "shown", ("\n", "\t", "", "a\n")),))))).text
    assert text.strip().endswith("⏎⇥·a⏎")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_broken_checkpoint_shows_its_reason_and_hides_no_other(manifest, tmp_path):
    broken = Entry("bad", tmp_path, None, "'bad' has no manifest.json.")
    text = Page(checkpoints([broken, Entry("toy", tmp_path, manifest, None)])).text
    assert "✕ broken" in text and "'bad' has no manifest.json." in text and "● usable" in text and "Toy toy" in text
    assert "No checkpoint found" in checkpoints([])


def test_recovery_stands_beside_its_control(manifest, tmp_path):
    text = Page(checkpoints([Entry("toy", tmp_path, manifest, None)])).text
    assert "k=4" in text and "own gist0.50" in text and "another row's gist0.01" in text and "64 held-out rows" in text


@pytest.mark.parametrize(
    "records",
    [
        {"training": {"other": 1}},
        {"training": {"steps": None, "seconds": "long", "device": 3}},
        {"recovery": {"references": "good"}},
        {"recovery": {"references": {"rows": 3}}},
        {"recovery": {"references": {"rows": 3, "by_k": {"4": {}}}}},
        {"recovery": {"references": {"rows": 3, "by_k": [1]}}},
        {"recovery": {"references": {"rows": 3, "by_k": {"4": {"recovery": "<b>", "swapped": 0}}}}},
        {"training": {}, "recovery": {}},
    ],
)
def test_records_of_another_trainer_do_not_break_the_page(manifest, tmp_path, records):
    """Both are notes for people: what they hold is not checked when a manifest is read."""
    page = checked(checkpoints([Entry("toy", tmp_path, dataclasses.replace(manifest, **records), None)]))
    assert "● usable" in page.text and "Toy toy" in page.text


def test_an_evaluation_kept_beside_a_checkpoint_is_shown_and_a_broken_one_is_not(tmp_path, manifest):
    entry = Entry("toy", tmp_path, manifest, None)
    verdicts = {"healthy": 3, "warning": 0, "degenerate": 1}
    now = {"n": 4, "verdicts": verdicts, "scores": {"rougeL": {"mean": 12.5, "low": 1.0, "high": 20.0, "n": 4}}}
    before = {"n": 4, "scored": 4, "verdicts": verdicts, "rougeL": 12.5, "intervals": {"rougeL": [1.0, 20.0]}}
    path = tmp_path / "evaluation.json"
    for number, one in ((FORMAT, now), (1, before)):
        answers = [{"condition": "full", "k": 0} | one, {"condition": "gist", "k": 4} | one]
        path.write_text(json.dumps({"format": number, "rows": 4, "answers": answers}))
        words = checked(checkpoints([entry])).words
        assert "Greedy answers to 4 rows" in words and "Gist, k = 4 12.5 75 % 0 % 25 %" in words
    entries = ('{"condition": "full"}', "3", '{"condition": "full", "k": 0, "n": 4, "scores": 3}')
    lists = [f'{{"format": {number}, "rows": 4, "answers": [{e}]}}' for number in (1, FORMAT) for e in entries]
    for broken in ("", "[]", "{", '{"rows": 4, "answers": []}', f'{{"format": {FORMAT}, "rows": "<b>", "answers": []}}', *lists):
        path.write_text(broken)
        assert "Greedy answers" not in checked(checkpoints([entry])).text


def test_a_cell_that_was_computed_fast_says_so():
    exact, fast = (cells.grid(one(done(precision=precision)), {}) for precision in ("exact", "fast"))
    checked(fast)
    assert "computed with weights in 16 bits" in fast and "16 bits" not in exact
