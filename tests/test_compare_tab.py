"""The Compare tab without a browser: links, the download, and which comparison a page is watching."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from scripted import ScriptedPool, write_checkpoint, write_two_checkpoints
from toy import save_toy

from gistdemo.generation import Sampling
from gistdemo.grid import Cell, CompareRequest, Snapshot
from gistdemo.model.embedded import EMBEDDED, GEMMA, SMOLLM2
from gistdemo.prompts import Example
from gistdemo.services import LOCAL, Caller, Services, visitor
from gistdemo.ui.build import from_query
from gistdemo.ui.compare_tab import CompareTab, Form, _export, _summary
from gistdemo.ui.running import Running

FIELDS = [field.name for field in dataclasses.fields(Form)]


@pytest.fixture
def restored(settings):
    """What a link puts into the form, without the fields that it leaves alone."""
    tab = SimpleNamespace(settings=settings, checkpoint_choices=lambda: [("One", "one"), ("Two", "two")])

    def restore(**query: str) -> dict:
        values = dict(zip(FIELDS, from_query(query, tab), strict=True))
        return {name: value for name, value in values.items() if value != gr.skip()}

    return restore


def test_a_link_restores_what_it_says(restored):
    link = {"instruction": "a", "input": "b", "reference": "c", "checkpoints": "two,one", "conditions": "none,full"}
    link |= {"k": "16", "limit": "512", "temperature": "0.25", "top_p": "1", "seed": "0", "precision": "fast"}
    numbers = {"k": 16, "limit": 512, "temperature": 0.25, "top_p": 1.0, "seed": 0}
    assert restored(**link) == link | numbers | {"checkpoints": ["two", "one"], "conditions": ["none", "full"]}


def test_a_link_leaves_alone_what_it_does_not_say(restored):
    assert restored() == {}
    assert restored(k="8") == {"k": 8}
    assert restored(instruction="a") == {"instruction": "a", "input": "", "reference": ""}  # an example is a whole


@pytest.mark.parametrize(
    "wrong",
    """k=0 k=17 k=4.5 k= limit=513 limit=-1 limit=x temperature=nan temperature=2.1 temperature=inf top_p=0 seed=-1 seed=1e9
    checkpoints=nobody conditions=<b>,, precision=fp16 other=1""".split(),
)
def test_a_link_with_a_value_that_is_not_allowed_leaves_the_field_alone(restored, wrong):
    assert restored(**dict([wrong.split("=")])) == {}


def test_a_download_holds_any_text_that_can_be_typed():
    """Half a character (a lone surrogate) cannot be written as UTF-8, but it can be sent by a browser."""
    text = 'a\ud800b "quoted" \\ 🍎\n'
    request = CompareRequest(Example(text), ("one",), ("full",), 4, Sampling())
    path = Path(_export(request, Snapshot((Cell("one", "full", "done", error="broken"),), "Done", None, True), {}))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["instruction"] == text and record["answers"][0]["error"] == "broken"


def test_a_newer_comparison_of_a_page_ends_the_older_one():
    running = Running()
    first, other = running.start("page"), running.start("other page")
    second = running.start("page")
    assert first.is_set() and not second.is_set() and not other.is_set()
    assert running.is_current("page", second) and not running.is_current("page", first)
    running.finish("page", first)  # the older one ends late
    assert running.has("page") and running.stop("page") and second.is_set() and not other.is_set()
    running.finish("page", second)
    assert not running.has("page") and not running.stop("page")


def test_the_summary_counts_verdicts_and_failures():
    cells = (Cell("one", "full", "done", error="out of memory"), Cell("one", "gist", "done"))
    assert _summary(Snapshot(cells, "Done", None, True)) == "Done: 1 failed"
    assert _summary(Snapshot((), "Stopped", None, True)) == "Stopped: nothing generated"


def test_the_summary_does_not_count_cells_that_have_nothing_to_show():
    assert (
        _summary(Snapshot((Cell("one", "gist", "done", note="A backbone has no gist."),), "Done", None, True)) == "Done: nothing generated"
    )


# --- rows ------------------------------------------------------------------------------------------------------------


def tab_of(settings, caller: Caller = LOCAL) -> CompareTab:
    return CompareTab(Services(settings, ScriptedPool(settings)), caller)


@pytest.fixture
def tab(settings) -> CompareTab:
    return tab_of(write_two_checkpoints(settings))


def test_checkpoints_and_embedded_models_are_offered_and_what_has_no_gist_says_so(tab):
    (tab.settings.shipped_checkpoints_dir / "broken").mkdir()
    assert [row.name for row in tab.services.rows()] == ["base", "instruct", *EMBEDDED]
    titles = ["Toy base", "Toy instruct", f"{SMOLLM2.title} (no gist)", f"{GEMMA.title} (no gist)"]
    assert [title for title, _ in tab.checkpoint_choices()] == titles


def test_only_the_embedded_models_that_are_chosen_are_offered(settings):
    tab = tab_of(dataclasses.replace(settings, embedded=(GEMMA.name,)))
    assert [row.name for row in tab.services.rows()] == [GEMMA.name]


def test_the_rows_at_the_start_are_the_three_that_tell_the_story_where_they_are_there(tab):
    own = tab.settings.data_dir / "checkpoints"
    write_checkpoint(own / "mine")
    assert tab.default_rows() == ["base", "instruct"]
    write_checkpoint(own / "base-joint")
    assert tab.default_rows() == ["base", "base-joint", "instruct"]


def test_without_them_the_rows_at_the_start_are_all_that_have_a_gist(settings):
    write_checkpoint(settings.data_dir / "checkpoints" / "mine")
    assert tab_of(settings).default_rows() == ["mine"]


def test_a_backbone_added_by_hand_is_offered_chosen_and_compared(tab, tmp_path):
    folder = str(save_toy(tmp_path / "toy-model"))
    group, line = tab.add_row(f" {folder} ", ["instruct"])
    assert group.value == ["instruct", folder] and ("toy-model (no gist)", folder) in group.choices
    assert "&#39;toy-model&#39; is a row now" in line and tab.services.rows()[-1].name == folder
    again, _ = tab.add_row(folder, group.value)
    assert again.value == ["instruct", folder] and len(tab.services.rows()) == 5, "added once"
    request = tab._request(Form("Add.", "", "", [folder, "instruct"], ["gist", "full"], 4, 8, 0, 1, 0, "fast"))
    assert request.checkpoints == ("instruct", folder) and request.conditions == ("full", "gist")
    assert request.sampling == Sampling(8, 0, 1, 0, "fast")


@pytest.mark.parametrize("name", ["", "nobody", "./nowhere", "instruct2"])
def test_a_backbone_that_is_none_is_told_and_not_offered(tab, name):
    group, line = tab.add_row(name, ["instruct"])
    assert group == gr.skip() and "gd-s-error" in line and len(tab.services.rows()) == 4


def test_strangers_add_no_models_to_a_server(settings):
    tab = tab_of(write_two_checkpoints(settings), visitor())
    group, line = tab.add_row("org/name", ["instruct"])
    assert group == gr.skip() and "only on your own machine" in line and len(tab.services.rows()) == 4
