"""Figures of an evaluation: the numbers drawn are those measured, nothing missing is drawn, and everybody can tell the colours apart."""

from __future__ import annotations

import itertools
import json

import evaluated
import numpy as np
import pytest

from gistdemo.conditions import CONDITIONS, Condition
from gistdemo.present import figures

# What is seen with a missing kind of cone, in linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
PAPERS = ("#fbfaf7", "#fffdf8", "#181613")  # light report, light card, dark report


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(xyz / (0.9505, 1, 1.089))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    low, high = sorted(linear(c) @ (0.2126, 0.7152, 0.0722) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def drawn(figure) -> list:
    """The traces that hold data; those that only explain the legend hold None."""
    return [trace for trace in figure.data if any(value is not None for value in trace.x)]


def texts(figure) -> str:
    return json.dumps(figure.to_plotly_json(), default=list, ensure_ascii=False)


@pytest.mark.parametrize("palette", [figures.COLOURS, tuple(figures.VERDICTS.values())], ids=["checkpoints", "verdicts"])
@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart_with_every_kind_of_colour_vision(palette, vision):
    seen = {colour: lab(np.array(VISION[vision]) @ linear(colour)) for colour in palette}
    close = [(a, b) for a, b in itertools.combinations(palette, 2) if np.linalg.norm(seen[a] - seen[b]) < 20]
    assert not close


@pytest.mark.parametrize("colour", [*figures.COLOURS, *figures.VERDICTS.values()])
def test_colours_stand_out_from_light_and_from_dark_paper(colour):
    assert min(contrast(colour, paper) for paper in PAPERS) >= 3


def test_bars_show_means_intervals_and_counts():
    joint, base = figures.score_bars(evaluated.results(), 4).data
    assert joint.name == "joint" and list(joint.x) == ["Full", "Gist<br>k=4", "Truncated<br>k=4", "No<br>instruction", "Blind gist<br>k=4"]
    assert list(joint.y) == [35, 31.25, 15, 5, 4]
    assert list(joint.error_y.array) == list(joint.error_y.arrayminus) == [2] * 5
    assert joint.hovertext[1] == "Gist, k=4: 31.2 [29.2, 33.2], n = 4"
    assert joint.marker.color != base.marker.color
    assert figures.score_bars(evaluated.results(), 4).layout.yaxis.title.text == "ROUGE-L, n = 4"


def test_bars_of_every_budget_stand_side_by_side():
    assert len(figures.score_bars(evaluated.results()).data[0].x) == 6


def test_a_mean_that_is_not_known_is_left_out():
    results = evaluated.results()
    results["answers"][1]["scores"] = {}
    (joint, _), (_, line, *_) = figures.score_bars(results).data, drawn(figures.quality_by_k(results))
    assert "Gist<br>k=1" not in joint.x and len(joint.x) == len(joint.error_y.array) == 5
    assert list(line.x) == [4]


def test_counts_that_differ_are_named_as_a_range():
    results = evaluated.results()
    results["answers"][0]["scores"]["rougeL"]["n"] = 3
    assert figures.score_bars(results).layout.yaxis.title.text == "ROUGE-L, n = 3 to 4"


def test_quality_by_k_draws_budgets_as_points_and_the_ends_of_the_scale_as_levels():
    figure = figures.quality_by_k(evaluated.results())
    full, gist, truncated, none = (t for t in drawn(figure) if t.name == "joint")
    assert (list(gist.x), list(gist.y), gist.line.dash) == ([1, 4], [15, 31.25], "solid")
    assert (list(truncated.x), list(truncated.y), truncated.line.dash) == ([4], [15], "dot")
    assert (list(full.x), list(full.y), list(none.y)) == ([1, 16], [35, 35], [5, 5])
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.tickvals) == [1, 2, 4, 8, 16]


def test_a_condition_that_has_no_dash_of_its_own_is_drawn_with_another(monkeypatch):
    monkeypatch.setitem(CONDITIONS, "last", Condition("last", "Last", "The last k tokens.", shown=lambda n, k: slice(n - k, n)))
    monkeypatch.setitem(CONDITIONS, "title", Condition("title", "Title", "Its first token.", shown=lambda n, k: slice(0, 1)))
    results = evaluated.results()
    lines = [results["answers"][2] | {"condition": name, "k": k} for name, k in (("last", 8), ("last", 4), ("title", 0))]
    figure = figures.quality_by_k(results | {"answers": results["answers"] + lines})
    last, title = (t for t in drawn(figure) if t.line.dash == figures.OTHER_DASH)
    assert (list(last.x), last.mode) == ([4, 8], "lines+markers") and (list(title.x), title.mode) == ([1, 16], "lines")
    named = {trace.name for trace in figure.data}
    assert {"Last", "Title"} <= named and "Blind gist" not in named, "what was never shown the instruction is no choice of a budget"


def test_the_legend_names_each_checkpoint_and_each_kind_of_line_once():
    for figure in (figures.quality_by_k(evaluated.results()), figures.recovery_by_k(evaluated.results())):
        named = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert len(named) == len(set(named)) and "joint" in named
    assert {"Gist", "Truncated", "Full", "No instruction"} <= {t.name for t in figures.quality_by_k(evaluated.results()).data}


def test_recovery_has_its_control_beside_it_and_leaves_out_what_was_not_measured():
    figure = figures.recovery_by_k(evaluated.results())
    own, swapped = drawn(figure)
    assert (list(own.x), list(own.y), own.line.dash) == ([1, 4], [0.5, 0.875], "solid")
    assert (list(swapped.x), list(swapped.y), swapped.line.dash) == ([4], [-0.25], "dot")
    assert own.hovertext[1] == "references, own gist, k = 4: 0.88, n = 3" and figure.layout.yaxis.title.text == "recovery, n = 3"


def test_budgets_are_in_order_of_their_size_not_of_their_digits():
    results = evaluated.results()
    results["recovery"]["joint"]["references"]["by_k"] |= {"16": {"recovery": 1.0, "swapped": 0.0}, "2": {"recovery": 0.6, "swapped": 0.0}}
    assert list(drawn(figures.recovery_by_k(results))[0].x) == [1, 2, 4, 16]


def test_verdicts_are_shares_of_all_answers_with_counts_on_hover():
    figure = figures.verdict_shares(evaluated.results(), 4)
    shares = {trace.name: list(trace.x) for trace in figure.data}
    assert shares["degenerate"] == [0, 25, 0, 0, 0, 100, 0]
    assert all(sum(parts) == 100 for parts in zip(*shares.values(), strict=True))
    assert figure.data[2].hovertext[1] == "Gist, k=4, degenerate: 1 of 4"
    assert [note.text for note in figure.layout.annotations] == ["<b>joint</b>", "<b>base</b>"]
    assert len(set(figure.layout.yaxis.tickvals)) == 7, "bars of the same name stay apart"
    assert not {note.y for note in figure.layout.annotations} & set(figure.layout.yaxis.tickvals)


def test_lengths_are_grouped_by_tokens_and_empty_groups_stay_empty():
    figure = figures.score_by_length(evaluated.rows(), "joint", 4)
    gist = next(trace for trace in figure.data if trace.name == "Gist")
    assert dict(zip(gist.x, gist.y, strict=True)) == {"1-7": 47.5, "8-15": 30, "30+": 0}
    assert list(figure.layout.xaxis.ticktext) == ["1-7<br>n = 2", "8-15<br>n = 1", "16-29<br>n = 0", "30+<br>n = 1"]
    assert [trace.name for trace in figure.data] == ["Full", "Gist", "Truncated", "No instruction", "Blind gist"]


@pytest.mark.parametrize(
    ("tokens", "label"), [(1, "1-7"), (7, "1-7"), (8, "8-15"), (15, "8-15"), (16, "16-29"), (29, "16-29"), (30, "30+")]
)
def test_every_length_belongs_to_one_group(tokens, label):
    rows = [row | {"instruction_tokens": tokens} for row in evaluated.rows()[:1]]
    assert list(figures.score_by_length(rows, "joint", 4).data[0].x) == [label]


def test_a_point_of_the_scatter_knows_its_row():
    figure = figures.gist_against_full(evaluated.rows(), evaluated.examples(), "joint", 4)
    points = {n: (x, y) for trace in figure.data for n, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)}
    assert points == {0: (50, 60), 1: (40, 35), 2: (30, 30), 3: (20, 0)}
    at_one = figures.gist_against_full(evaluated.rows(), evaluated.examples(), "joint", 1).data[0]
    assert list(at_one.y) == [30, 20, 10, 0], "answers at another k are not mixed in"
    degenerate = next(trace for trace in figure.data if trace.name == "degenerate")
    assert list(degenerate.customdata) == [3] and degenerate.hovertext[0] == "#4 Say why<br>full 20.0, gist 0.0"
    assert len({trace.marker.symbol for trace in figure.data}) == 3, "colour is not the only cue"
    (diagonal,) = figure.layout.shapes
    assert (diagonal.x0, diagonal.y0) == (0, 0) and diagonal.x1 == diagonal.y1
    assert figure.layout.xaxis.range == figure.layout.yaxis.range


def test_a_long_instruction_is_cut_on_hover():
    examples = evaluated.examples()
    examples[0]["instruction"] = "x" * 200
    figure = figures.gist_against_full(evaluated.rows(), examples, "joint", 4)
    assert figure.data[0].hovertext[0].startswith("#1 " + "x" * 79 + "…<br>")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.score_bars({}),
        lambda: figures.score_bars({"answers": []}, 4),
        lambda: figures.quality_by_k({"answers": []}),
        lambda: figures.quality_by_k({"answers": evaluated.results()["answers"][:1]}),
        lambda: figures.recovery_by_k({}),
        lambda: figures.recovery_by_k({"recovery": {"joint": {"references": {"rows": 3, "by_k": {}}}}}),
        lambda: figures.verdict_shares({"answers": []}),
        lambda: figures.verdict_shares({"answers": [evaluated.results()["answers"][0] | {"verdicts": {}}]}),
        lambda: figures.task_shares({"answers": [evaluated.results()["answers"][0] | {"tasks": {}}]}),
        lambda: figures.score_by_length([], "joint", 4),
        lambda: figures.score_by_length(evaluated.rows(), "another", 4),
        lambda: figures.score_by_length([row | {"instruction_tokens": None} for row in evaluated.rows()], "joint", 4),
        lambda: figures.gist_against_full([], [], "joint", 4),
        lambda: figures.gist_against_full([row | {"scores": {}} for row in evaluated.rows()], evaluated.examples(), "joint", 4),
    ],
)
def test_without_anything_to_draw_a_figure_says_so(draw):
    figure = draw()
    assert not figure.data and len(figure.layout.annotations) == 1 and figure.layout.annotations[0].text.endswith(".")


def test_points_are_drawn_even_where_the_instructions_are_not_here():
    assert figures.gist_against_full(evaluated.rows(), [], "joint", 4).data[0].hovertext[0] == "#1 <br>full 50.0, gist 60.0"


def test_foreign_names_and_texts_are_no_markup():
    attack = "<b>bold</b><br>&lt;i&gt;\ud800"
    safe = "&lt;b&gt;bold&lt;/b&gt;&lt;br&gt;&amp;lt;i&amp;gt;?"
    results, rows = evaluated.results(), [row | {"checkpoint": attack} for row in evaluated.rows()]
    for entry in results["answers"]:
        entry |= {"checkpoint": attack}
    results["recovery"] = {attack: results["recovery"]["joint"]}
    examples = [example | {"instruction": attack} for example in evaluated.examples()]
    made = [figures.score_bars(results), figures.quality_by_k(results), figures.recovery_by_k(results), figures.verdict_shares(results)]
    made += [figures.gist_against_full(rows, examples, attack, 4), figures.score_by_length(rows, attack, 4)]
    for figure in made:
        assert safe in texts(figure) and "<b>bold" not in texts(figure)
    odd = [results["answers"][0] | {"condition": "<i>odd"}]
    assert "<i>" not in texts(figures.score_bars({"answers": odd})) + texts(figures.verdict_shares({"answers": odd}))


def test_a_long_name_of_a_checkpoint_goes_over_several_lines():
    results = {"answers": [evaluated.results()["answers"][0] | {"checkpoint": "x" * 40}]}
    assert figures.score_bars(results).data[0].name == f"{'x' * 32}<br>{'x' * 8}"
    notes = figures.verdict_shares(results).layout.annotations
    assert [(note.y, note.text) for note in notes] == [(0, f"<b>{'x' * 32}</b>"), (1, f"<b>{'x' * 8}</b>")]


def test_the_only_checkpoint_is_named_as_well():
    assert figures.score_bars({"answers": evaluated.results()["answers"][:2]}).layout.showlegend


def test_figures_leave_ground_and_width_to_the_page():
    for figure in (figures.score_bars(evaluated.results()), figures.verdict_shares(evaluated.results()), figures.empty("Nothing.")):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.width is None and figure.layout.yaxis.automargin
