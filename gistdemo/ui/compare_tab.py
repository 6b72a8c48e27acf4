"""The Compare tab: widgets and wiring. Handlers are methods of plain values; drawing is in `gistdemo.present`."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gistdemo.checkpoint.registry import budgets
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.data.examples import EMBEDDED, Listed, search, surprise
from gistdemo.errors import GistDemoError, one_line
from gistdemo.generation import LIVE, Precision, Sampling
from gistdemo.grid import CompareRequest, Snapshot
from gistdemo.present import cells, panels
from gistdemo.prompts import Example
from gistdemo.results.comparison import Model
from gistdemo.services import Caller, Compared, Services
from gistdemo.ui.running import Running

log = logging.getLogger(__name__)
SHOWN_ROWS = 200  # rows of the table at a time; the search narrows them
INPUT_FILTERS = {"all": None, "with input": True, "no input": False}
DEFAULT_ROWS = ("base", "base-joint", "instruct")
Shown = tuple[Any, Any, Any, Any, Any, Any]  # grid, what has changed in it, tokens seen, status, export, last comparison
PRECISIONS = [("exact: weights in fp32", "exact"), ("fast: weights in 16 bits", "fast")]  # on a CPU; on a GPU both are bf16
SKIP: Any = gr.skip()
OPENING = 73  # the embedded example in the form at the start: its first four tokens say nothing of its subject


@dataclass(frozen=True)
class Form:
    """What the form holds, as its widgets give it: in this order everywhere, links included."""

    instruction: str | None
    input: str | None
    reference: str | None
    checkpoints: list[str]
    conditions: list[str]
    k: float
    limit: float
    temperature: float
    top_p: float
    seed: float | None
    precision: Precision


class CompareTab:
    """Builds the tab inside an open gr.Blocks and holds what its handlers need."""

    def __init__(self, services: Services, caller: Caller):
        self.services, self.settings, self.caller = services, services.settings, caller
        self.running = Running()

    # --- widgets ---------------------------------------------------------------------------------------------------

    def build(self, status: gr.HTML, first_source: str) -> None:
        """Lay the tab out. status: the page's status line. first_source: examples shown at the start."""
        usable = self.checkpoint_choices()
        with gr.Row(elem_classes="gd-top", equal_height=False):
            with gr.Column(scale=5, min_width=340, elem_classes="gd-browser"):
                self._browser(first_source)
            with gr.Column(scale=7, min_width=340, elem_classes="gd-form"):
                self._form(usable)
        self.grid = gr.HTML(cells.empty_grid(), elem_id="gd-grid", padding=False)
        self.changes = gr.HTML("", elem_id="gd-changes", padding=False)  # page.js takes them over into the grid
        with gr.Accordion("What the model sees: every prompt token and what became of it", open=False, elem_id="gd-seen"):
            self.seen = gr.HTML(cells.seen_by_model(Snapshot((), "", None, True)), padding=False)
        with gr.Accordion("Where each condition leaves the full prompt's answer", open=False, elem_id="gd-leaves"):
            self.leave = gr.Button("Read the full answers under every condition", size="sm", elem_id="gd-leave")
            self.left = gr.HTML("", padding=False, elem_id="gd-left")
        with gr.Row(elem_classes="gd-after"):
            self.export = gr.DownloadButton("Download as JSON", size="sm", interactive=False, elem_id="gd-export")
            self.link = gr.Button("Copy link to this comparison", size="sm", elem_id="gd-link")
        self.wrong = gr.Textbox(
            "",
            label="Cell whose verdict is wrong",
            visible=self.caller.is_local,
            elem_id="gd-wrong",
            elem_classes="gd-hidden",
            container=False,
        )  # page.js puts there which cell is meant
        self.last = gr.State(None)
        self._wire(status)

    def _browser(self, first_source: str) -> None:
        self.source = gr.State(first_source)
        with gr.Row(elem_classes="gd-tight"):
            self.find = gr.Textbox(
                label="Search examples", placeholder="Search examples", show_label=False, container=False, scale=3, elem_id="gd-find"
            )
            self.surprise = gr.Button("Surprise me", size="sm", scale=1, min_width=110, elem_id="gd-surprise")
        with gr.Row(elem_classes="gd-tight"):
            self.with_input = gr.Radio(
                list(INPUT_FILTERS),
                value="all",
                label="With or without input",
                show_label=False,
                container=False,
                elem_id="gd-with-input",
                scale=3,
            )
            self.category = gr.Dropdown(
                self._categories(first_source),
                value="any kind",
                label="Kind of example",
                show_label=False,
                container=False,
                elem_id="gd-category",
                scale=2,
                min_width=120,
            )
        self.table = gr.Dataframe(
            value=self.rows(first_source),
            headers=["#", "instruction", "input"],
            datatype=["number", "str", "str"],
            column_widths=["44px", "66%", "34%"],
            interactive=False,
            label="Examples",
            show_label=False,
            max_height=318,
            wrap=False,
            buttons=[],
            elem_id="gd-examples",
        )
        with gr.Accordion("Other examples", open=False):
            hint = "A hub dataset id (tatsu-lab/alpaca)" + (
                " or the path of a .json, .jsonl or .parquet file" if self.caller.is_local else ""
            )
            self.path = gr.Textbox(label="Alpaca-format source", info=hint, elem_id="gd-path", max_lines=1)
            self.load = gr.Button("Load examples", size="sm", elem_id="gd-load")

    def _form(self, usable: list[tuple[str, str]]) -> None:
        first = self.services.examples(EMBEDDED, self.caller)[OPENING - 1].example
        self.instruction = gr.Textbox(first.instruction, label="Instruction", lines=2, max_lines=6, elem_id="gd-instruction")
        with gr.Row(elem_classes="gd-tight"):
            self.input = gr.Textbox(first.input, label="Input (optional)", lines=2, max_lines=6, min_width=240, elem_id="gd-input")
            self.reference = gr.Textbox(
                first.output, label="Reference answer (optional, for ROUGE)", lines=2, max_lines=6, min_width=240, elem_id="gd-reference"
            )
        with gr.Row(elem_classes="gd-tight"):
            self.checkpoints = gr.CheckboxGroup(usable, value=self.default_rows(), label="Models (rows)", elem_id="gd-checkpoints")
            titles = [(condition.title, name) for name, condition in CONDITIONS.items()]
            self.conditions = gr.CheckboxGroup(
                titles, value=list(DEFAULT_CONDITIONS), label="Conditions (columns)", elem_id="gd-conditions"
            )
        self.notice = gr.HTML(panels.notices(row.backbone for row in self.services.rows()), padding=False, elem_id="gd-notice")
        with gr.Row(elem_classes="gd-tight gd-action"):
            self.k = gr.Slider(
                1,
                max(budgets(self.settings)),
                value=4,
                step=1,
                label="k: gist tokens, and the budget of Truncated",
                elem_id="gd-k",
                scale=3,
            )
            self.go = gr.Button("Compare", variant="primary", elem_id="gd-compare", scale=1, min_width=110)
            self.stop = gr.Button("Stop", variant="stop", elem_id="gd-stop", scale=1, min_width=80)
        with gr.Accordion("Another model as a row", open=False, visible=self.caller.is_local):
            hint = "A hub id (meta-llama/Llama-3.1-8B) or the folder of a model: shown as it is, without a gist"
            self.model = gr.Textbox(label="Backbone", info=hint, elem_id="gd-model", max_lines=1)
            self.add_model = gr.Button("Add row", size="sm", elem_id="gd-add-model")
        with gr.Accordion("Generation settings", open=False):
            with gr.Row(elem_classes="gd-tight"):
                self.limit = gr.Slider(1, self.settings.max_new_tokens, value=96, step=1, label="Answer limit (tokens)", elem_id="gd-limit")
                self.temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature (0 = greedy)", elem_id="gd-temperature")
                self.top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", elem_id="gd-top-p")
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="gd-seed")
                self.precision = gr.Radio(PRECISIONS, value=LIVE, label="Precision", elem_id="gd-precision")

    # --- wiring ----------------------------------------------------------------------------------------------------

    def _wire(self, status: gr.HTML) -> None:
        filters = [self.source, self.find, self.category, self.with_input]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        fields = [self.instruction, self.input, self.reference]
        # a textbox tells "input" for typed characters only, not for pasted or deleted ones
        for changed in (self.find.change, self.category.input, self.with_input.input):
            changed(self.rows, filters, self.table, trigger_mode="always_last", **quick)
        self.table.select(self.pick, self.source, fields, **quick)
        self.surprise.click(self.pick_any, filters, fields, **quick)
        self.load.click(
            self.load_source, self.path, [self.source, self.table, self.category, status], show_progress="hidden", api_visibility="private"
        )
        gr.on([self.add_model.click, self.model.submit], self.add_row, [self.model, self.checkpoints], [self.checkpoints, status], **quick)
        watched = [self.grid, self.changes, self.seen, status, self.export, self.last]
        heavy: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 4, "concurrency_id": "model", "api_visibility": "private"}
        gr.on([self.go.click, self.instruction.submit], self.run, self.widgets(), watched, **heavy)
        self._run_arguments = {"fn": self.run, "inputs": self.widgets(), "outputs": watched, **heavy}
        self.k.release(self.rerun, [self.last, *self.widgets()], watched, trigger_mode="multiple", **heavy)
        self.wrong.change(self.dispute, [self.last, self.wrong], status, **quick)
        self.leave.click(self.leaving, self.last, [self.left, status], **heavy)
        self.stop.click(self.stop_running, None, status, **quick)
        self.link.click(None, self.widgets(), None, js="gistdemoCopyLink", api_visibility="private")

    def run_after(self, event: Any) -> None:
        """Compare what the form holds once an event of another tab has filled it."""
        event.success(**self._run_arguments)

    def widgets(self) -> list[Any]:
        """The form's widgets, in the order of `Form`; a link restores them all."""
        return [getattr(self, field.name) for field in dataclasses.fields(Form)]

    # --- handlers --------------------------------------------------------------------------------------------------

    def offered(self) -> gr.CheckboxGroup:
        """The rows of this moment: a checkpoint that was trained meanwhile can be chosen, what is chosen stays."""
        return gr.CheckboxGroup(self.checkpoint_choices())

    def checkpoint_choices(self) -> list[tuple[str, str]]:
        """(title, name) of every row that can be chosen."""
        return [(row.title if row.has_gist else f"{row.title} (no gist)", row.name) for row in self.services.rows()]

    def default_rows(self) -> list[str]:
        """The rows chosen at the start: the three that tell the story; where they are not all there, whatever has a gist."""
        names = [row.name for row in self.services.rows() if row.has_gist]
        return [name for name in DEFAULT_ROWS if name in names] or names

    def add_row(self, name: str, chosen: list[str]) -> tuple[Any, str]:
        """Offer and choose a backbone by hub id or folder. It is fetched when it is first compared."""
        try:
            row = self.services.add_row(name, self.caller)
        except GistDemoError as error:
            return gr.skip(), panels.status(one_line(error), kind="error")
        line = panels.status(f"'{row.title}' is a row now; press Compare")
        return gr.CheckboxGroup(self.checkpoint_choices(), value=[*chosen, *({row.name} - set(chosen))]), line

    def _examples(self, source: str) -> tuple[Listed, ...]:
        return self.services.examples(source, self.caller)

    def _found(self, source: str, text: str = "", category: str = "any kind", with_input: str = "all") -> list[Listed]:
        chosen = "" if category == "any kind" else category
        return search(self._examples(source), text, chosen, INPUT_FILTERS[with_input])

    def rows(self, source: str, text: str = "", category: str = "any kind", with_input: str = "all") -> list[list[Any]]:
        """Rows of the table: number, instruction, input."""
        return [[i.number, i.example.instruction, i.example.input] for i in self._found(source, text, category, with_input)[:SHOWN_ROWS]]

    def _categories(self, source: str) -> list[str]:
        return ["any kind", *sorted({item.category for item in self._examples(source)} - {""})]

    def pick(self, source: str, event: gr.SelectData) -> tuple[str, str, str]:
        """Put the clicked row into the form. The row's own number says which example it is, however the table was sorted."""
        example = self._examples(source)[int(event.row_value[0]) - 1].example
        return example.instruction, example.input, example.output

    def pick_any(self, source: str, text: str, category: str, with_input: str) -> tuple[str, str, str]:
        found = self._found(source, text, category, with_input) or self._examples(source)
        example = surprise(found).example
        return example.instruction, example.input, example.output

    def load_source(self, path: str) -> tuple[Any, Any, Any, str]:
        """Switch the table to another source; on failure everything stays and the status line says why."""
        source = path.strip() or EMBEDDED
        try:
            count = len(self._examples(source))
        except GistDemoError as error:
            return gr.skip(), gr.skip(), gr.skip(), panels.status(one_line(error), kind="error")
        choices = gr.Dropdown(choices=self._categories(source), value="any kind")
        return (
            source,
            self.rows(source),
            choices,
            panels.status(f"{count:,} examples from {source}; the first {min(count, SHOWN_ROWS)} are listed, search finds all"),
        )

    def run(self, page: gr.Request, *form: Any) -> Iterator[Shown]:
        """Compare and stream: yields (grid, changes, tokens seen, status, export, last comparison). form: the values of `Form`."""
        yield from self._watch(self._request(Form(*form)), str(page.session_hash))

    def rerun(self, page: gr.Request, last: Compared | None, *form: Any) -> Iterator[Shown]:
        """After a move of k: compare again if something has been compared, or is being compared just now; keep what k does not touch."""
        if last is None and not self.running.has(str(page.session_hash)):
            yield _shown()
            return
        request = self._request(Form(*form))
        yield from self._watch(request, str(page.session_hash), last)

    def _request(self, form: Form) -> CompareRequest:
        """The form as a request: rows in the order of the registry, columns in the order of the conditions."""
        sampling = Sampling(int(form.limit), float(form.temperature), float(form.top_p), int(form.seed or 0), form.precision)
        order = [name for _, name in self.checkpoint_choices()]
        chosen = tuple(sorted(form.checkpoints, key=lambda n: order.index(n) if n in order else len(order)))
        columns = tuple(c for c in CONDITIONS if c in form.conditions)
        return CompareRequest(
            Example(form.instruction or "", form.input or "", form.reference or ""), chosen, columns, int(form.k), sampling
        )

    def _watch(self, request: CompareRequest, page: str, earlier: Compared | None = None) -> Iterator[Shown]:
        shown = {row.name: row for row in self.services.rows()}
        stop = self.running.start(page)
        drawn: Snapshot | None = None  # changes are told against it, not against each other: a browser may pass over some
        try:
            for snapshot in self.services.compare(request, self.caller, stop, earlier):
                if not self.running.is_current(page, stop):
                    return
                kind = "info" if snapshot.finished else "busy"
                line = panels.status(_summary(snapshot) if snapshot.finished else snapshot.message, snapshot.fraction, kind)
                if snapshot.finished:
                    export = gr.DownloadButton(
                        value=_export(request, snapshot, {name: row.described() for name, row in shown.items()}), interactive=True
                    )
                    last = (request, snapshot.cells)
                    yield _shown(cells.grid(snapshot, shown), "", cells.seen_by_model(snapshot), line, export, last)
                elif drawn is None:
                    drawn = snapshot
                    yield _shown(cells.grid(snapshot, shown), "", status=line)
                else:
                    yield _shown(changes=cells.changes(drawn, snapshot), status=line)
        except GistDemoError as error:
            yield _shown(status=panels.status(one_line(error), kind="error"))
        except Exception:
            log.exception("comparison failed")
            line = panels.status("Something went wrong inside gistdemo; the log of the server has the details. Try again.", kind="error")
            yield _shown(status=line)
        finally:
            self.running.finish(page, stop)

    def dispute(self, last: Compared | None, which: str) -> str:
        """Note that somebody finds the verdict of a cell wrong. which: JSON, [checkpoint, condition, when]."""
        try:
            checkpoint, condition, _ = json.loads(which)
            if last is None:
                return panels.status("The comparison is not finished", kind="error")
            path, count = self.services.dispute(last, str(checkpoint), str(condition), self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error")
        except ValueError:
            return panels.status("That is no cell of this page", kind="error")
        return panels.status(f"Noted: {count} in {path}. `python -m gistdemo judge` reads that file")

    def leaving(self, last: Compared | None) -> tuple[Any, Any]:
        """Where each condition of the last comparison leaves the answer of the full prompt."""
        if last is None:
            return SKIP, panels.status("Compare something first", kind="error")
        try:
            found, problems = self.services.divergences(last, self.caller)
        except GistDemoError as error:
            return SKIP, panels.status(one_line(error), kind="error")
        return cells.diverging(found, problems, {row.name: row for row in self.services.rows()}), SKIP

    def stop_running(self, page: gr.Request) -> str:
        if not self.running.stop(str(page.session_hash)):
            return panels.status("Nothing is running")
        return panels.status("Stopping after the current step", kind="busy")


def _shown(
    grid: Any = SKIP, changes: Any = SKIP, seen: Any = SKIP, status: Any = SKIP, export: Any = SKIP, last: Compared | Any = SKIP
) -> Shown:
    """New values for the watched widgets; what is left out stays as it is."""
    return grid, changes, seen, status, export, last


def _summary(snapshot: Snapshot) -> str:
    """One sentence about a finished grid."""
    found = [c.diagnosis for c in snapshot.cells if c.diagnosis]
    verdicts = [one.verdict for one in found]
    counts = [f"{verdicts.count(v)} {v}" for v in ("healthy", "warning", "degenerate") if v in verdicts]
    if any(one.task for one in found):
        counts = [f"{sum(one.answers for one in found)} of {len(found)} healthy and on task", *counts]
    failed = sum(1 for c in snapshot.cells if c.error)
    counts += [f"{failed} failed"] if failed else []
    return f"{snapshot.message}: {', '.join(counts) or 'nothing generated'}"


def _export(request: CompareRequest, snapshot: Snapshot, models: Mapping[str, Model]) -> str:
    """Write the comparison as JSON for download; returns the path."""
    path = Path(tempfile.mkdtemp(prefix="gistdemo-")) / "comparison.json"
    text = json.dumps(request.record(snapshot.cells, models), ensure_ascii=False, indent=2)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # half a character becomes an escape, as JSON has them
    return str(path)
