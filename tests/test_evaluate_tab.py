"""What the Evaluate tab's handlers do with a form and with results, and the HTML they show. The page itself: test_browser_evaluate.py."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import gradio as gr
import measured
import pandas
import pytest
from gradio_client import Client
from scripted import write_two_checkpoints

from gistdemo.checkpoint.registry import list_rows
from gistdemo.cli import build_parser
from gistdemo.data.alpaca import read_rows
from gistdemo.data.examples import OWN_EXAMPLES
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.watch import Watch
from gistdemo.model.embedded import EMBEDDED, SMOLLM2
from gistdemo.present import tables
from gistdemo.present.answer_table import COLUMNS, Filter, answer_rows
from gistdemo.results.evaluation import export, find_evaluations
from gistdemo.services import LOCAL, Caller, Services, visitor
from gistdemo.settings import PROJECT_DIR
from gistdemo.ui.evaluate_tab import PICTURES, EvaluateTab


def tab_of(settings, caller: Caller) -> EvaluateTab:
    services = Services(settings, jobs=Jobs(settings.runs_dir, at_once=0))
    return EvaluateTab(services, Watch(services.jobs), caller)


@pytest.fixture
def tab(settings, tmp_path) -> EvaluateTab:
    """A tab whose queue starts nothing, with one evaluation and none that came with the app."""
    (tmp_path / "assets").mkdir()
    shutil.copy(settings.examples_file, tmp_path / "assets")
    settings = dataclasses.replace(settings, assets_dir=tmp_path / "assets")
    write_two_checkpoints(settings)
    measured.write(settings.data_dir / "evaluations" / "animals")
    return tab_of(settings, LOCAL)


def form(**changes):
    values = {
        "checkpoints": ["instruct"],
        "conditions": ["gist", "full"],
        "ks": ["4", "1"],
        "data": OWN_EXAMPLES,
        "rows": 5,
        "seed": 0,
        "limit": 16,
        "recovery": True,
    }
    return list((values | changes).values())


def test_a_form_becomes_a_job_and_a_command_that_measure_the_same(tab):
    assert "starting" in tab.submit(*form()) or "in the queue" in tab.submit(*form())
    request = EvaluationRequest.from_dict(tab.jobs.list()[0].settings)
    assert (request.checkpoints, request.conditions, request.ks, request.rows) == (("instruct",), ("full", "gist"), (1, 4), 5)
    estimate, command = tab.describe(*form())
    assert "At most about" in estimate
    args = build_parser().parse_args(shlex.split(command)[3:])
    assert (args.checkpoint, args.conditions, args.k, args.rows, args.max_new_tokens) == (["instruct"], "full,gist", "1,4", 5, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoints": []}, "one or more different names are needed"),
        ({"ks": []}, "at least one k"),
        ({"conditions": [], "recovery": False}, "nothing would be measured"),
        ({"limit": 0}, "max_new_tokens 0"),
        ({"data": "gone.jsonl"}, "does not exist"),
    ],
)
def test_what_is_not_allowed_is_said_and_reaches_no_queue(tab, changes, words):
    assert words in tab.submit(*form(**changes)) and tab.jobs.list() == []


def test_files_of_the_server_are_not_read_for_strangers(settings, tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    tab = tab_of(settings, visitor())
    assert "is a file of the server" in tab.submit(*form(data=str(tmp_path / "rows.jsonl")))


def test_the_view_follows_the_chosen_evaluation(tab):
    assert tab.choices()[0][1] == "animals" and tab._newest() == "animals"
    figures, board, _, checkpoints, conditions, ks, detail = tab.show("animals")
    assert figures.count("<tr data-condition") == 12 and "<script>" not in figures + board
    assert "Choose a row" in detail
    assert (checkpoints.value, conditions.value, ks.value) == ("healthy", "gist", "4")
    listed = tab.list_rows("animals", "healthy", "gist", "1", "any verdict", "worst against full", "")
    gain = [head for head, *_ in COLUMNS].index("− full")
    assert [line[0] for line in listed[:3]] == [1, 3, 5] and listed[0][gain] < 0 <= listed[-1][gain]
    for picture in set(PICTURES) - {"On task"}:  # of these answers nobody asked
        assert tab.draw("animals", picture, "healthy", "4").data, picture
    assert (
        tab.show("gone")[0].startswith('<p class="gd-hint">No evaluation yet') and tab.list_rows("gone", None, None, None, "", "", "") == []
    )
    assert tab.draw("gone", "Verdicts", None, None) is None


def test_every_view_of_the_figures_has_all_lines_and_its_columns(tab):
    entry = next(e for e in measured.results()["answers"] if e["condition"] == "gist")
    for view, columns in tables.VIEWS.items():
        page = tab.show("animals", view)[0]
        assert page.count("<tr data-condition") == 12 and page.count("<td>") == 12 * len(columns), view
        assert {"k", "n"} < set(columns), "no figure without its n"
    gap = entry["paired"]["full"]
    assert f"<td>{gap['mean']:+.1f} <small>[{gap['low']:+.1f}, {gap['high']:+.1f}]</small></td>" in tab.show("animals", "Scores")[0]
    assert f"{entry['instruction_tokens']:.1f} → {entry['kept_tokens']:.1f}" in tab.show("animals", "Cost")[0]


def test_a_row_stands_in_all_its_answers_and_goes_to_compare(tab):
    detail = tab.detail_of("animals", 0, "healthy", "gist", "1")
    assert detail.count("<article") == 4 and "&lt;script&gt;" in detail and "<script>" not in detail
    assert "Choose a row" in tab.detail_of("animals", -1, "healthy", "gist", "1")
    wanted = tab.to_compare("animals", 1, "healthy", "1")
    assert wanted["example"] == measured.examples()[1] and wanted["k"] == 1
    assert wanted["checkpoints"] == ["base", "instruct"], "the measured checkpoints are not here, so all that have a gist are shown"
    assert tab.to_compare("animals", -1, "healthy", "1") is None and tab.to_compare("animals", 99, "healthy", "1") is None


def test_one_click_writes_report_tables_and_rows(tab):
    files, status = tab.prepared("animals")
    names = {Path(f["path"] if isinstance(f, dict) else f).name for f in files.value}
    assert names == {"report.html", "table.md", "rows.csv", "rows.parquet", "eval_results.json"} and "ready" in status
    (tab.settings.evaluations_dir / "animals" / "rows.jsonl").unlink()
    tab._read = (None, [], [])
    assert len(tab.prepared("animals")[0].value) == 3, "figures alone: report, table, results"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's own code
def test_every_file_of_a_report_can_be_downloaded_wherever_the_data_folder_is(tab, tmp_path, monkeypatch):
    """By default it is neither in the working directory nor in a temporary folder, and the server hands out nothing from elsewhere."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    tab = tab_of(tab.settings, LOCAL)
    with gr.Blocks() as page:
        chosen, status = gr.Textbox(), gr.HTML()
        gr.Button().click(tab.prepared, chosen, [gr.File(file_count="multiple"), status], api_name="prepared")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        files, _ = Client(address, verbose=False).predict("animals", api_name="/prepared")
    finally:
        page.close(verbose=False)
    files = {Path(file).name: Path(file).read_bytes() for file in (files["value"] if isinstance(files, dict) else files)}
    assert len(files) == 5 and files["eval_results.json"] == (tab.settings.evaluations_dir / "animals" / "eval_results.json").read_bytes()


def test_results_of_others_are_taken_in_and_what_is_wrong_is_said(tab, tmp_path):
    folder = tmp_path / "their run"
    folder.mkdir()
    sample = {"gist": "x", "reference": "x", "prompts": {"full": "Say x.", "gist": "g"}}
    (folder / "sample_outputs.json").write_text(json.dumps([sample] * 3))
    choice, status = tab.take_path(str(folder))
    assert "Imported: 3 rows" in status and choice.value == "their-run" and "gd-notes" in tab.show("their-run")[0]
    assert tab.take_path(str(folder))[0].value == "their-run-2", "a second import stands beside the first"
    assert "does not exist" in tab.take_path(str(tmp_path / "gone"))[1] and "No path is given" in tab.take_path(" ")[1]


def test_the_table_filters_and_orders():
    rows, examples = measured.rows(), measured.examples()
    assert len(answer_rows(rows, examples, Filter("looping", "gist", 1, "degenerate"))) >= 5
    assert answer_rows(rows, examples, Filter("healthy", "gist", 1, "degenerate")) == []
    assert [line[0] for line in answer_rows(rows, examples, Filter("healthy", "gist", 1, text="number 3"))] == [4]
    longest = answer_rows(rows, examples, Filter("healthy", "full", 4, order="longest instruction"))
    assert [line[0] for line in longest] == [3, 6, 2, 5, 1, 4], "equal ones stay in the order of the source"
    assert answer_rows(rows, examples, Filter("healthy", "gist", 1, order="lowest ROUGE-L"))[0][2] == 0


def test_evaluations_on_the_same_rows_stand_together(tab):
    measured.write(tab.settings.evaluations_dir / "more", digest="sha256:ffff", title="Other rows")
    board = tables.leaderboard(tab.services.evaluations())
    assert board.count("gd-group") == 2 and board.count("<tr><th>healthy</th>") == 4
    assert tables.leaderboard([]).startswith("<p")


# --- what comes with the app ---------------------------------------------------------------------------------------------

SHIPPED = find_evaluations([PROJECT_DIR / "assets" / "evaluations"])


@pytest.mark.parametrize("evaluation", SHIPPED, ids=lambda evaluation: evaluation.id)
def test_an_evaluation_that_comes_with_the_app_is_whole(evaluation, settings):
    own = {example.instruction for example in read_rows(settings.examples_file).examples}
    results = evaluation.results
    assert {e["checkpoint"] for e in results["answers"]} == set(results["request"]["checkpoints"]) and results["rows_trained_on"] == 0
    rows, examples = evaluation.rows(), evaluation.examples()
    assert len(rows) == (sum(e["n"] for e in results["answers"]) if rows else 0)
    assert {example["instruction"] for example in examples} <= own, "rows of others are measured on, not handed on"


@pytest.mark.parametrize("evaluation", SHIPPED, ids=lambda evaluation: evaluation.id)
def test_an_evaluation_that_comes_with_the_app_is_of_models_that_come_with_it(evaluation, settings):
    """Or its notes say which of them are gone."""
    names = {e["checkpoint"] for e in evaluation.results["answers"]}
    if "base-standin" in names:
        pytest.skip("measured before the stand-in left; it is to be measured again")
    notes = " ".join(map(str, evaluation.results.get("notes", [])))
    here = {row.name for row in list_rows(dataclasses.replace(settings, shipped_checkpoints_dir=PROJECT_DIR / "checkpoints"))}
    assert {name for name in names - here if name not in notes} == set()


@pytest.fixture
def old(tab) -> EvaluateTab:
    """A tab with an evaluation that an earlier version made, of a checkpoint that is no longer there: two of its rows."""
    shutil.copytree(Path(__file__).parent / "data" / "old_evaluation", tab.settings.evaluations_dir / "old")
    return tab


def test_an_old_evaluation_opens_and_shows(old):
    assert "old" in [value for _, value in old.choices()]
    figures, board, _, checkpoints, conditions, ks, detail = old.show("old")
    assert figures.count("<tr data-condition") == len(old.evaluation("old").results["answers"]) == 24
    assert "base-standin" in figures and "base-standin" in board and "Choose a row" in detail
    assert [value for _, value in checkpoints.choices] == ["base-standin", "base-joint", "instruct"]
    assert (conditions.value, ks.value) == ("gist", "4")
    for picture in set(PICTURES) - {"On task"}:  # of these answers nobody asked
        assert old.draw("old", picture, "base-standin", "4").data, picture
    assert [line[0] for line in old.list_rows("old", "base-standin", "gist", "4", "any verdict", "as in the source", "")] == [1, 2]
    assert old.detail_of("old", 1, "base-standin", "gist", "4").count("<article") == 5


def test_an_old_evaluation_exports_to_every_format(old, tmp_path):
    files, status = old.prepared("old")
    names = {Path(f["path"] if isinstance(f, dict) else f).name for f in files.value}
    assert names == {"report.html", "table.md", "rows.csv", "rows.parquet", "eval_results.json"} and "ready" in status
    frame = pandas.read_parquet(export(old.evaluation("old"), tmp_path)[1])
    assert len(frame) == 2 * 24 and set(frame["checkpoint"]) == {"base-standin", "base-joint", "instruct"}


def test_a_row_of_an_old_evaluation_opens_in_compare_with_the_models_that_are_still_there(old):
    wanted = old.to_compare("old", 0, "base-standin", "4")
    assert wanted["checkpoints"] == ["instruct"] and wanted["example"] == old.evaluation("old").examples()[0]


# --- the form ------------------------------------------------------------------------------------------------------------


def test_checkpoints_and_embedded_models_can_be_measured_and_those_with_a_gist_are_chosen(tab):
    assert tab._names() == ["base", "instruct", *EMBEDDED]
    with gr.Blocks():
        tab.build(gr.HTML())
    assert tab.checkpoints.value == ["base", "instruct"]
    kinds = dict(zip(tab.table.headers, tab.table.datatype, strict=True))
    texts = {head for head, kind in kinds.items() if kind == "str"}
    assert list(kinds)[:3] == ["#", "instruction", "ROUGE-L"] and texts == {"instruction", "verdict", "task", "flags"}
    (line, *_) = tab.list_rows("animals", "healthy", "gist", "1", "any verdict", "as in the source", "")
    assert len(tab.table.column_widths) == len(line) == len(kinds)
    assert texts == {head for head, value in zip(kinds, line, strict=True) if isinstance(value, str)}
    assert [value for _, value in tab.checkpoints.choices] == tab._names()
    tab.submit(*form(checkpoints=[SMOLLM2.name, "instruct"]))
    assert tab.jobs.list()[0].settings["checkpoints"] == ["instruct", SMOLLM2.name], "in the order of the list"


def test_an_evaluation_is_shown_once_when_it_is_done_however_late_the_page_asks(tab):
    tab.submit(*form())
    job = tab.latest_job()
    card, choice, awaited = tab.tick("animals", None)
    assert job.title in card and awaited == job.id and "choices" not in choice
    assert "choices" not in tab.tick("animals", awaited)[1], "it still waits"
    shutil.copytree(tab.settings.evaluations_dir / "animals", tab.jobs.folder(job.id), dirs_exist_ok=True)
    finished = dataclasses.replace(job, state="done", ended=1.0, history=[(1.0, "done")])
    tab.latest_job = lambda: finished
    _, choice, waiting = tab.tick("animals", awaited)
    assert choice.value == job.id and waiting is None
    assert "choices" not in tab.tick("animals", waiting)[1], "what a person chooses afterwards stays"
    assert tab.tick("gone", None)[1].value in (job.id, "animals")


def test_figures_without_their_rows_say_so(tab):
    for name in ("rows.jsonl", "examples.jsonl"):
        (tab.settings.evaluations_dir / "animals" / name).unlink()
    assert "Only the figures" in tab.show("animals")[-1] and "Only the figures" in tab.detail_of("animals", 0, "healthy", "gist", "1")
    assert tab.list_rows("animals", "healthy", "gist", "1", "any verdict", "as in the source", "") == []


def test_trained_rows_are_said_beside_the_figures():
    assert "OF THEM TRAINED ON" in tables.figures(measured.results(rows_trained_on=2))
