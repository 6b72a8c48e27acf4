"""The Compare tab without a browser: links, the download, and which comparison a page is watching."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from gistdemo.generation import Sampling
from gistdemo.grid import Cell, CompareRequest, Snapshot
from gistdemo.prompts import Example
from gistdemo.ui.build import from_query
from gistdemo.ui.compare_tab import Running, _export, _summary

FIELDS = ("instruction", "input", "reference", "checkpoints", "conditions", "k", "limit", "temperature", "top_p", "seed")


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
    link |= {"k": "16", "limit": "512", "temperature": "0.25", "top_p": "1", "seed": "0"}
    numbers = {"k": 16, "limit": 512, "temperature": 0.25, "top_p": 1.0, "seed": 0}
    assert restored(**link) == link | numbers | {"checkpoints": ["two", "one"], "conditions": ["none", "full"]}


def test_a_link_leaves_alone_what_it_does_not_say(restored):
    assert restored() == {}
    assert restored(k="8") == {"k": 8}
    assert restored(instruction="a") == {"instruction": "a", "input": "", "reference": ""}  # an example is a whole


@pytest.mark.parametrize(
    "wrong",
    """k=0 k=17 k=4.5 k= limit=513 limit=-1 limit=x temperature=nan temperature=2.1 temperature=inf top_p=0 seed=-1 seed=1e9
    checkpoints=nobody conditions=<b>,, other=1""".split(),
)
def test_a_link_with_a_value_that_is_not_allowed_leaves_the_field_alone(restored, wrong):
    assert restored(**dict([wrong.split("=")])) == {}


def test_a_download_holds_any_text_that_can_be_typed():
    """Half a character (a lone surrogate) cannot be written as UTF-8, but it can be sent by a browser."""
    text = 'a\ud800b "quoted" \\ 🍎\n'
    request = CompareRequest(Example(text), ("one",), ("full",), 4, Sampling())
    path = Path(_export(request, Snapshot((Cell("one", "full", "done", error="broken"),), "Done", None, True)))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["instruction"] == text and record["cells"][0]["error"] == "broken"


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
