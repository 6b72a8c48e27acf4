"""The Evaluate tab: a form that queues evaluations, and a view of their results. Drawing is in `gistdemo.present`."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gistdemo.checkpoint.registry import budgets
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import EMBEDDED_FILE, read_rows, source_name
from gistdemo.data.examples import OWN_EXAMPLES
from gistdemo.errors import GistDemoError, one_line
from gistdemo.evaluate.request import DEFAULT_CONDITIONS, EvaluationRequest
from gistdemo.jobs.progress import Progress
from gistdemo.jobs.record import Job
from gistdemo.jobs.watch import Watch
from gistdemo.metrics import MAIN
from gistdemo.present import figures, job_cards, panels, tables
from gistdemo.present.answer_table import COLUMNS, ORDERS, Filter, answer_rows
from gistdemo.present.markdown import markdown_table
from gistdemo.present.markup import MARKS, TASK_MARKS
from gistdemo.present.report import html_report
from gistdemo.results.answer import Answer
from gistdemo.results.evaluation import RESULTS_FILE, Evaluation, export
from gistdemo.results.references import reference_table
from gistdemo.services import Caller, Services
from gistdemo.ui.judge_box import JudgeBox

log = logging.getLogger(__name__)
TICK_SECONDS = 2.0
SECONDS_PER_ANSWER = 0.3  # of 64 tokens, two cores (docs/LOG.md)
PICTURES: dict[str, Callable[[EvaluateTab, Evaluation, str | None, int], Any]] = {  # of an evaluation, a checkpoint and a k (0: none)
    MAIN.label: lambda tab, found, checkpoint, k: figures.score_bars(found.results, k or None),
    "Quality by k": lambda tab, found, checkpoint, k: figures.quality_by_k(found.results),
    "Recovery by k": lambda tab, found, checkpoint, k: figures.recovery_by_k(found.results),
    "On task": lambda tab, found, checkpoint, k: figures.task_shares(found.results, k or None),
    "Verdicts": lambda tab, found, checkpoint, k: figures.verdict_shares(found.results, k or None),
    "By length": lambda tab, found, checkpoint, k: figures.score_by_length(tab.answers(found)[0], checkpoint, k),
    "Gist against full": lambda tab, found, checkpoint, k: figures.gist_against_full(*tab.answers(found), checkpoint, k),
}
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Form:
    """What the form holds, as its widgets give it, in this order everywhere."""

    checkpoints: list[str]
    conditions: list[str]
    ks: list[str]
    data: str
    rows: float | None
    seed: float | None
    limit: float | None
    recovery: bool


class EvaluateTab:
    """Builds the tab inside an open gr.Blocks and holds what its handlers need."""

    def __init__(self, services: Services, watch: Watch, caller: Caller):
        self.services, self.settings, self.caller = services, services.settings, caller
        self.watch, self.jobs = watch, services.jobs
        self._reports = Path(tempfile.mkdtemp(prefix="gistdemo-reports-"))  # a folder per evaluation
        weakref.finalize(self, shutil.rmtree, self._reports, ignore_errors=True)  # it goes with the server
        self._read: tuple[Any, list[Answer], list[dict[str, str]]] = (None, [], [])

    # --- widgets ------------------------------------------------------------------------------------------------------

    def build(self, status: gr.HTML) -> None:
        """Lay the tab out. status: the page's status line."""
        with gr.Row(equal_height=False, elem_classes="gd-top"):
            with gr.Column(scale=4, min_width=320, elem_classes="gd-form"):
                self._form()
                JudgeBox(self.services).build(status)
            with gr.Column(scale=8, min_width=340):
                self._results()
        self.view = gr.Radio(list(tables.VIEWS), value="Overview", label="Columns", show_label=False, container=False, elem_id="gd-ev-view")
        self.figures = gr.HTML(self._figures(self._newest()), padding=False, elem_id="gd-ev-figures")
        self._rows()
        self.timer = gr.Timer(TICK_SECONDS)
        self.awaited = gr.State(None)  # id of the evaluation that this page saw waiting or running; shown once it is done
        self._wire(status)

    def _form(self) -> None:
        with_gist = [row.name for row in self.services.rows() if row.has_gist]
        self.checkpoints = gr.CheckboxGroup(self._names(), value=with_gist, label="Models", elem_id="gd-ev-checkpoints")
        titles = [(condition.title, name) for name, condition in CONDITIONS.items()]
        self.conditions = gr.CheckboxGroup(titles, value=list(DEFAULT_CONDITIONS), label="Conditions", elem_id="gd-ev-conditions")
        self.ks = gr.CheckboxGroup([str(k) for k in budgets(self.settings)], value=["4"], label="k", elem_id="gd-ev-ks")
        hint = "hub dataset id" + (", or path of a .json, .jsonl or .parquet file" if self.caller.is_local else "")
        self.data = gr.Textbox(
            OWN_EXAMPLES, label="Rows to measure on", info=f"'{OWN_EXAMPLES}', {hint}", max_lines=1, elem_id="gd-ev-data"
        )
        with gr.Row(elem_classes="gd-tight"):
            self.rows = gr.Number(40, label="Rows (0: all)", precision=0, minimum=0, min_width=100, elem_id="gd-ev-rows")
            self.limit = gr.Number(64, label="Answer limit", precision=0, minimum=1, min_width=90, elem_id="gd-ev-limit")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=70)
        self.recovery = gr.Checkbox(True, label="Recovery (NLL) as well", container=False)
        self.plan = gr.HTML("", padding=False, elem_id="gd-ev-plan")
        self.command = gr.Textbox("", label="The same on the command line", interactive=False, lines=2, max_lines=5, buttons=["copy"])
        self.start = gr.Button("Start evaluation", variant="primary", elem_id="gd-ev-start")
        self.card = gr.HTML("", padding=False, elem_id="gd-ev-job")
        with gr.Row(elem_classes="gd-tight"):
            self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id="gd-ev-stop")
            self.resume = gr.Button("Resume", size="sm", elem_id="gd-ev-resume")
        with gr.Accordion("Import results of others", open=False):
            gr.Markdown(
                "A .zip with any of `metrics.json`, `eval_results.json`, `sample_outputs.json`, a .csv with the columns `x`, `y_pred`, "
                "`y_true`, or a .jsonl of objects with `instruction`, `text`, `input`, `reference`. Our metrics run over them, and say what looks wrong."
            )
            kinds = [".zip", ".csv", ".jsonl"]
            self.upload = gr.UploadButton("Upload .zip, .csv or .jsonl", file_types=kinds, size="sm", elem_id="gd-ev-upload")
            self.path = gr.Textbox(
                label="or path of a folder, .zip, .csv or .jsonl", max_lines=1, visible=self.caller.is_local, elem_id="gd-ev-path"
            )
            self.load = gr.Button("Import", size="sm", visible=self.caller.is_local, elem_id="gd-ev-import")

    def _results(self) -> None:
        with gr.Row(elem_classes="gd-tight"):
            self.chosen = gr.Dropdown(self.choices(), value=self._newest(), label="Evaluation", elem_id="gd-ev-chosen", scale=4)
            self.prepare = gr.Button("Report and files", size="sm", elem_id="gd-ev-report", scale=1, min_width=130)
        self.files = gr.File(
            None, label="Report, tables, rows", file_count="multiple", interactive=False, visible=False, elem_id="gd-ev-files"
        )
        self.picture = gr.Radio(
            list(PICTURES), value=MAIN.label, label="Picture", show_label=False, container=False, elem_id="gd-ev-picture"
        )
        self.plot = gr.Plot(None, show_label=False, elem_id="gd-ev-plot")
        with gr.Accordion("Figures of others: the paper, and an earlier experiment", open=False):
            gr.HTML(tables.references(reference_table()), padding=False)
        with gr.Accordion("Leaderboard: all evaluations of this installation", open=False):
            self.board = gr.HTML(tables.leaderboard(self.services.evaluations()), padding=False, elem_id="gd-ev-board")

    def _rows(self) -> None:
        with gr.Row(elem_classes="gd-tight", elem_id="gd-ev-filters"):
            self.of_checkpoint = gr.Dropdown([], label="Checkpoint", elem_id="gd-ev-of", min_width=120)
            self.of_condition = gr.Dropdown([], label="Condition", elem_id="gd-ev-condition", min_width=110)
            self.of_k = gr.Dropdown([], label="k", elem_id="gd-ev-k", min_width=70)
            self.verdict = gr.Dropdown(["any verdict", *MARKS, *TASK_MARKS], value="any verdict", label="Verdict", min_width=110)
            self.order = gr.Dropdown(list(ORDERS), value=next(iter(ORDERS)), label="Order", elem_id="gd-ev-order", min_width=150)
            self.find = gr.Textbox(label="Search in texts and flags", max_lines=1, elem_id="gd-ev-find", min_width=160)
        heads, kinds, widths = (list(part) for part in zip(*COLUMNS, strict=True))
        self.table = gr.Dataframe(
            headers=heads,
            datatype=kinds,
            column_widths=widths,
            interactive=False,
            label="Answers",
            show_label=False,
            max_height=320,
            buttons=[],
            elem_id="gd-ev-table",
        )
        self.clicked = gr.Number(-1, precision=0, elem_id="gd-ev-clicked", elem_classes="gd-hidden", container=False)
        self.detail = gr.HTML(tables.no_row(None), padding=False, elem_id="gd-ev-detail")
        self.open = gr.Button("Open this row in Compare", size="sm", elem_id="gd-ev-open")

    # --- wiring -------------------------------------------------------------------------------------------------------

    def _wire(self, status: gr.HTML) -> None:
        form = self.widgets()
        gr.on([field.change for field in form], self.describe, form, [self.plan, self.command], trigger_mode="always_last", **QUICK)
        self.watched = [self.card, self.chosen, self.awaited]
        self.start.click(self.submit, form, status, **QUICK).then(self.tick, [self.chosen, self.awaited], self.watched, **QUICK)
        self.timer.tick(self.tick, [self.chosen, self.awaited], self.watched, **QUICK)
        self.stop.click(lambda: self.change("stop"), None, status, **QUICK)
        self.resume.click(lambda: self.change("resume"), None, status, **QUICK)
        self.filters = [self.of_checkpoint, self.of_condition, self.of_k]
        self.shown = [self.figures, self.board, self.files, *self.filters, self.detail]
        self.listed: list[Any] = [self.chosen, *self.filters, self.verdict, self.order, self.find]
        self.drawn: list[Any] = [self.chosen, self.picture, self.of_checkpoint, self.of_k]
        self._show_all(self.chosen.change(self.show, [self.chosen, self.view], self.shown, **QUICK))
        gr.on([f.change for f in self.listed[1:]], self.list_rows, self.listed, self.table, trigger_mode="always_last", **QUICK)
        gr.on([f.change for f in self.drawn[1:]], self.draw, self.drawn, self.plot, trigger_mode="always_last", **QUICK)
        self.view.change(self._figures, [self.chosen, self.view], self.figures, **QUICK)
        self.table.select(self.pick, None, self.clicked, **QUICK)
        self.clicked.change(self.detail_of, [self.chosen, self.clicked, *self.filters], self.detail, **QUICK)
        for one in self.filters:
            one.change(self.detail_of, [self.chosen, self.clicked, *self.filters], self.detail, **QUICK)
        self.prepare.click(self.prepared, self.chosen, [self.files, status], api_visibility="private")
        self.upload.upload(self.take_path, self.upload, [self.chosen, status], api_visibility="private", show_progress="hidden")
        self.load.click(self.take_path, self.path, [self.chosen, status], api_visibility="private", show_progress="hidden")

    def _show_all(self, shown: Any) -> None:
        """After `show` has set the filters: the rows and the picture that belong to them."""
        shown.then(self.list_rows, self.listed, self.table, **QUICK).then(self.draw, self.drawn, self.plot, **QUICK)

    def on_load(self, page: gr.Blocks) -> None:
        """A page that is opened or reloaded shows the newest evaluation."""
        page.load(self.describe, self.widgets(), [self.plan, self.command], **QUICK)
        opened = page.load(lambda: self.tick(None, None), None, self.watched, **QUICK)
        self._show_all(opened.then(self.show, [self.chosen, self.view], self.shown, **QUICK))

    # --- form ---------------------------------------------------------------------------------------------------------

    def widgets(self) -> list[Any]:
        """The form's widgets, in the order of `Form`."""
        return [getattr(self, field.name) for field in dataclasses.fields(Form)]

    def _names(self) -> list[str]:
        """Everything that can be measured: checkpoints, and embedded models as they are."""
        return [row.name for row in self.services.rows()]

    def offered(self) -> Any:
        """The models of this moment; what is chosen stays."""
        return gr.CheckboxGroup(self._names())

    def request(self, form: Form) -> EvaluationRequest:
        """What a form stands for. Raises UsageError: values that are not allowed."""
        order = self._names()
        return EvaluationRequest(
            tuple(sorted(form.checkpoints, key=lambda name: order.index(name) if name in order else len(order))),
            self.services.source(form.data, self.caller),
            int(form.rows or 0),
            int(form.seed or 0),
            tuple(name for name in CONDITIONS if name in form.conditions),
            tuple(sorted(int(k) for k in form.ks)),
            int(form.limit or 0),
            recovery=bool(form.recovery),
        )

    def describe(self, *form: Any) -> tuple[str, str]:
        """Estimate and command of the form as it stands."""
        try:
            request = self.request(Form(*form))
        except GistDemoError as error:
            return panels.note(one_line(error), "error"), ""
        shown = dataclasses.replace(request, data=EMBEDDED_FILE) if source_name(request.data) == EMBEDDED_FILE else request
        if not request.rows:
            return panels.note("All rows: how long it takes shows once it runs."), shown.command()
        answers = request.rows * len(request.settings()) * request.max_new_tokens / 64
        answers += 2 * request.rows * (1 + len(request.ks)) * request.recovery
        seconds = len(request.checkpoints) * answers * SECONDS_PER_ANSWER
        return panels.note(f"At most about {job_cards.duration(seconds)} on two cores; equal prompts are answered once."), shown.command()

    def submit(self, *form: Any) -> str:
        """Put the evaluation into the queue."""
        try:
            request = self.request(Form(*form))
            count = len(read_rows(request.data, need_output=False).examples) if "+" not in request.data else 0
            asked = min(request.rows or count, count) or request.rows
            data = OWN_EXAMPLES if source_name(request.data) == EMBEDDED_FILE else source_name(request.data)
            title = f"{', '.join(request.checkpoints)} on {asked} {data}"
            job = self.services.start_evaluation(request, title, self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error")
        return panels.status("Evaluation is in the queue: another job runs first" if job.state == "queued" else "Evaluation is starting")

    # --- its job ------------------------------------------------------------------------------------------------------

    def latest_job(self) -> Job | None:
        """The evaluation that runs, else the next one, else the one that ended last."""
        return next((job for job in self.jobs.list() if job.kind == "evaluate"), None)

    def tick(self, chosen: str | None, awaited: str | None) -> tuple[str, Any, str | None]:
        """The job's card; the list of evaluations, once what this page waited for is done; and what it waits for now."""
        job = self.latest_job()
        card = job_cards.watched(job, self.watch.progress(job)) if job else job_cards.watched(None, Progress())
        waiting = job.id if job and not job.is_final else None
        found = self.choices()
        known = [value for _, value in found]
        if awaited in known and awaited != waiting:
            return card, gr.Dropdown(found, value=awaited), waiting
        if chosen not in known:
            return card, gr.Dropdown(found, value=known[0] if known else None), waiting
        return card, gr.skip(), waiting

    def change(self, action: str) -> str:
        job = self.latest_job()
        if job is None:
            return panels.status("There is no evaluation", kind="error")
        try:
            self.services.change_job(action, job.id, self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error")
        return panels.status(
            "The evaluation stops after its batch; finished rows are kept" if action == "stop" else "The evaluation goes on"
        )

    # --- results ------------------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, str]]:
        return [(f"{e.title} ({str(e.results.get('created', ''))[:10]})", e.id) for e in self.services.evaluations()]

    def _newest(self) -> str | None:
        found = self.choices()
        return found[0][1] if found else None

    def evaluation(self, chosen: str | None) -> Evaluation | None:
        return next((e for e in self.services.evaluations() if e.id == chosen), None)

    def answers(self, evaluation: Evaluation) -> tuple[list[Answer], list[dict[str, str]]]:
        """Rows and examples, read once. Both are of one evaluation, whatever other visitors read meanwhile."""
        key = (evaluation.folder, (evaluation.folder / RESULTS_FILE).stat().st_mtime_ns)
        read = self._read
        if read[0] != key:
            read = self._read = (key, evaluation.rows(), evaluation.examples())
        return read[1], read[2]

    def _figures(self, chosen: str | None, view: str = "Overview") -> str:
        found = self.evaluation(chosen)
        return tables.figures(found.results, view) if found else panels.note("No evaluation yet. Start one on the left.")

    def show(self, chosen: str | None, view: str = "Overview") -> list[Any]:
        """Everything that depends on the evaluation alone."""
        found = self.evaluation(chosen)
        entries = found.results["answers"] if found else []
        names = list(dict.fromkeys(e["checkpoint"] for e in entries))
        conditions = [(CONDITIONS[c].title, c) for c in dict.fromkeys(e["condition"] for e in entries)]
        ks = [str(k) for k in dict.fromkeys(e["k"] for e in entries) if k]
        values = [value for _, value in conditions]
        return [
            self._figures(chosen, view),
            tables.leaderboard(self.services.evaluations()),
            gr.File(None, visible=False),
            gr.Dropdown(names, value=names[-1] if names else None),
            gr.Dropdown(conditions, value="gist" if "gist" in values else values[0] if values else None),
            gr.Dropdown(ks, value="4" if "4" in ks else ks[0] if ks else None),
            tables.no_row(found),
        ]

    def draw(self, chosen: str | None, picture: str, checkpoint: str | None, k: str | None) -> Any:
        found = self.evaluation(chosen)
        return PICTURES[picture](self, found, checkpoint, int(k or 0)) if found else None

    def list_rows(
        self,
        chosen: str | None,
        checkpoint: str | None,
        condition: str | None,
        k: str | None,
        verdict: str,
        order: str,
        text: str | None,
    ) -> list[list[Any]]:
        found = self.evaluation(chosen)
        if found is None or checkpoint is None or condition is None:
            return []
        wanted = Filter(checkpoint, condition, int(k or 0), "" if verdict == "any verdict" else verdict, order, text or "")
        return answer_rows(*self.answers(found), wanted)

    def pick(self, event: gr.SelectData) -> int:
        return int(event.row_value[0]) - 1

    def detail_of(self, chosen: str | None, number: float | None, checkpoint: str | None, condition: str | None, k: str | None) -> str:
        """The clicked example with the checkpoint's answers in every condition, at the chosen k."""
        found = self.evaluation(chosen)
        if found is None or number is None or number < 0:
            return tables.no_row(found)
        rows, examples = self.answers(found)
        mine = [r for r in rows if r["row"] == number and r["checkpoint"] == checkpoint and r["k"] in (0, int(k or 0))]
        return tables.row_detail(int(number), examples[int(number)], mine) if mine else tables.no_row(found)

    def to_compare(self, chosen: str | None, number: float | None, checkpoint: str | None, k: str | None) -> dict[str, Any] | None:
        """What Compare's form is to show for the clicked row; None where no row is clicked."""
        found = self.evaluation(chosen)
        if found is None:
            return None
        examples = self.answers(found)[1]
        if number is None or not 0 <= number < len(examples):
            return None
        known = self._names()
        names = [name for name in found.results["request"]["checkpoints"] if name in known]
        with_gist = [row.name for row in self.services.rows() if row.has_gist]
        return {"example": examples[int(number)], "checkpoints": names or with_gist, "k": int(k or 4)}

    def prepared(self, chosen: str | None) -> tuple[Any, str]:
        """Write the report and all tables of an evaluation."""
        found = self.evaluation(chosen)
        if found is None:
            return gr.skip(), panels.status("There is no evaluation to report", kind="error")
        folder = self._reports / found.id
        folder.mkdir(exist_ok=True)
        rows, examples = self.answers(found)
        written = {"report.html": html_report(found.results, rows, examples, reference_table()), "table.md": markdown_table(found.results)}
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
        paths = [folder / name for name in written] + (export(found, folder) if rows else [])
        # a copy: gradio serves files of temporary folders, not of the data folder
        paths.append(Path(shutil.copy(found.folder / RESULTS_FILE, folder)))
        return gr.File([str(path) for path in paths], visible=True), panels.status("Report, tables and rows are ready to download")

    def take_path(self, path: str) -> tuple[Any, str]:
        """Import results of others into an evaluation of this installation."""
        try:
            made = self.services.import_results(path or "", self.caller)
        except GistDemoError as error:
            return gr.skip(), panels.status(one_line(error), kind="error")
        return gr.Dropdown(self.choices(), value=made.id), panels.status(f"Imported: {made.results['rows']} rows of {made.title}")
