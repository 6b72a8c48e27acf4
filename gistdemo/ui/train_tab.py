"""The Train tab: a form that fills the queue, and a view of jobs that only reads. No job depends on this page being open."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from gistdemo.data.alpaca import EMBEDDED_FILE, source_name
from gistdemo.data.examples import OWN_EXAMPLES
from gistdemo.errors import GistDemoError, UsageError, one_line
from gistdemo.jobs.estimate import estimate
from gistdemo.jobs.progress import Progress, tail
from gistdemo.jobs.queue import OUTPUT
from gistdemo.jobs.record import Job
from gistdemo.jobs.watch import Watch
from gistdemo.model.embedded import SMOLLM2, chosen
from gistdemo.present import job_cards, panels, training_figures
from gistdemo.services import Caller, Services
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES
from gistdemo.train.presets import PRESETS, with_preset

TICK_SECONDS = 2.0
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Form:
    """What the form holds, as its widgets give it, in this order everywhere. more: any other settings, as JSON."""

    preset: str
    name: str
    data: str
    more: str
    mode: str
    backbone: str
    ks: str
    steps: int
    batch_size: int
    learning_rate: float
    gist_learning_rate: float
    seed: int

    def settings(self) -> dict[str, Any]:
        """The part that are settings of a run under their own names.

        Raises: UsageError: k are no numbers, or `more` is not a JSON object.
        """
        given = {name: getattr(self, name) for name in SETTINGS}
        try:
            given["ks"] = tuple(int(part) for part in str(self.ks).split(","))
            extra = json.loads(self.more or "{}")
        except ValueError as error:
            raise UsageError(
                f"k is '{self.ks}' and more settings are '{self.more[:80]}'; whole numbers and a JSON object are needed."
            ) from error
        if not isinstance(extra, dict):
            raise UsageError(f"More settings are '{self.more[:80]}'; a JSON object such as {{\"rank\": 16}} is needed.")
        return given | {key: tuple(value) if isinstance(value, list) else value for key, value in extra.items()}


FIELDS = tuple(field.name for field in dataclasses.fields(Form))
SETTINGS = FIELDS[FIELDS.index("more") + 1 :]  # what a preset fills in


class TrainTab:
    """Builds the tab inside an open gr.Blocks and holds what its handlers need."""

    def __init__(self, services: Services, watch: Watch, caller: Caller):
        self.services, self.settings, self.caller = services, services.settings, caller
        self.watch, self.jobs = watch, services.jobs

    # --- widgets ------------------------------------------------------------------------------------------------------

    def build(self, status: gr.HTML) -> None:
        """Lay the tab out. status: the page's status line."""
        with gr.Row(equal_height=False, elem_classes="gd-top"):
            with gr.Column(scale=5, min_width=340, elem_classes="gd-form"):
                self._form()
            with gr.Column(scale=7, min_width=340):
                self._view()
        self.timer = gr.Timer(TICK_SECONDS)
        self._wire(status)

    def _form(self) -> None:
        self.preset = gr.Radio(list(PRESETS), value="quick", label="Preset", info=PRESETS["quick"].purpose, elem_id="gd-preset")
        values = with_preset("quick", {"name": "x", "data": "x"})
        with gr.Row(elem_classes="gd-tight"):
            self.name = gr.Textbox("my-gist", label="Name", max_lines=1, elem_id="gd-name", min_width=110)
            self.backbone = gr.Dropdown(
                self._backbones(),
                value=SMOLLM2.name,
                label="Backbone (or hub id, or path)",
                allow_custom_value=True,
                elem_id="gd-backbone",
                scale=2,
            )
            self.mode = gr.Dropdown(list(MODES), value=values.mode, label="Mode", elem_id="gd-mode", min_width=160)
        with gr.Row(elem_classes="gd-tight"):
            hint = "hub dataset id" + (", or path of a .json, .jsonl or .parquet file" if self.caller.is_local else "")
            self.data = gr.Textbox(OWN_EXAMPLES, label="Training rows", info=f"'{OWN_EXAMPLES}', {hint}", max_lines=1, elem_id="gd-data")
            self.upload = gr.UploadButton(
                "Upload rows", file_types=[".json", ".jsonl", ".parquet"], size="sm", elem_id="gd-upload", scale=0
            )
        with gr.Row(elem_classes="gd-tight"):
            self.steps = gr.Number(values.steps, label="Steps", precision=0, minimum=1, elem_id="gd-steps", min_width=80)
            self.batch_size = gr.Number(values.batch_size, label="Batch", precision=0, minimum=1, min_width=70)
            self.ks = gr.Textbox(",".join(map(str, values.ks)), label="k (budgets)", max_lines=1, min_width=120)
        with gr.Row(elem_classes="gd-tight"):
            self.learning_rate = gr.Number(values.learning_rate, label="LoRA learning rate", min_width=110)
            self.gist_learning_rate = gr.Number(values.gist_learning_rate, label="Gist learning rate", min_width=110)
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
        with gr.Accordion("More settings", open=False):
            self.more = gr.Code(
                "{}", language="json", label="Any other setting of `python -m gistdemo train --help`, as JSON", lines=3, elem_id="gd-more"
            )
        self.plan = gr.HTML("", padding=False, elem_id="gd-plan")
        self.command = gr.Textbox(
            "", label="The same on the command line", interactive=False, lines=2, max_lines=6, buttons=["copy"], elem_id="gd-command"
        )
        with gr.Row(elem_classes="gd-tight"):
            self.start = gr.Button("Start training", variant="primary", elem_id="gd-start")
            self.check = gr.Button("Check data and estimate", size="sm", elem_id="gd-check")

    def _view(self) -> None:
        self.job = gr.Radio([], label="Jobs: running, waiting in order, ended", elem_id="gd-jobs")
        self.card = gr.HTML(job_cards.watched(None, Progress()), padding=False, elem_id="gd-job")
        with gr.Row(elem_classes="gd-tight"):
            self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id="gd-job-stop", min_width=60)
            self.resume = gr.Button("Resume", size="sm", elem_id="gd-job-resume", min_width=70)
            self.sooner = gr.Button("Move up", size="sm", elem_id="gd-job-sooner", min_width=70)
            self.reuse = gr.Button("Use its settings", size="sm", elem_id="gd-job-reuse", min_width=110)
            self.try_out = gr.Button("Compare with its backbone", size="sm", elem_id="gd-job-compare", min_width=170)
        with gr.Row(elem_classes="gd-tight"):
            self.log_scale = gr.Checkbox(False, label="Logarithmic loss", container=False, scale=2, min_width=140)
            self.sure = gr.Checkbox(False, label="Yes, delete its files", container=False, elem_id="gd-job-sure", scale=2, min_width=140)
            self.delete = gr.Button("Delete", size="sm", elem_id="gd-job-delete", scale=1, min_width=80)
        self.loss = gr.Plot(training_figures.loss_figure([]), label="Loss", show_label=False, elem_id="gd-loss")
        self.recovery = gr.Plot(training_figures.recovery_figure([]), label="Recovery", show_label=False, elem_id="gd-recovery")
        self.samples = gr.HTML(job_cards.samples([], None), padding=False, elem_id="gd-samples")
        with gr.Accordion("Output of the job", open=False):
            self.output = gr.Textbox("", show_label=False, lines=12, max_lines=12, interactive=False, elem_id="gd-output", autoscroll=True)
        self.drawn = gr.State("")

    # --- wiring -------------------------------------------------------------------------------------------------------

    def _wire(self, status: gr.HTML) -> None:
        form = self.widgets(FIELDS)
        self.view = [self.job, self.card, self.samples, self.output]
        self.asked = [self.job, self.log_scale, self.drawn]
        self.drawing = [self.loss, self.recovery, self.drawn]
        self.preset.input(self.take_preset, self.preset, self.widgets(("preset", *SETTINGS, "more")), **QUICK)
        gr.on([field.change for field in form], self.describe, form, [self.plan, self.command], trigger_mode="always_last", **QUICK)
        self.check.click(self.check_data, form, [self.plan, status], show_progress="hidden", api_visibility="private")
        self.upload.upload(lambda file: file, self.upload, self.data, **QUICK)
        gr.on([self.timer.tick, self.job.input], self.refresh, self.job, self.view, **QUICK)
        gr.on([self.timer.tick, self.job.input, self.log_scale.input], self.draw, self.asked, self.drawing, **QUICK)
        done = [self.start.click(self.submit, form, [self.job, status], **QUICK)]
        for button, action in ((self.stop, "stop"), (self.resume, "resume"), (self.sooner, "sooner")):
            done.append(button.click(lambda job, action=action: self.change(action, job), self.job, status, **QUICK))
        done.append(self.delete.click(self.remove, [self.job, self.sure], [status, self.sure], **QUICK))
        for event in done:
            event.then(self.refresh, self.job, self.view, **QUICK)
        self.reuse.click(self.settings_of, self.job, [*self.widgets(("name", "data", *SETTINGS, "more")), status], **QUICK)

    def widgets(self, names: Sequence[str]) -> list[Any]:
        """Widgets of the form by the names of its fields."""
        return [getattr(self, name) for name in names]

    def on_load(self, page: gr.Blocks) -> None:
        """A page that is opened or reloaded shows what goes on at once."""
        page.load(self.refresh, self.job, self.view, **QUICK)
        page.load(self.draw, self.asked, self.drawing, **QUICK)
        page.load(self.describe, self.widgets(FIELDS), [self.plan, self.command], **QUICK)

    def _backbones(self) -> list[str]:
        return [model.name for model in chosen(self.settings)]

    # --- form ---------------------------------------------------------------------------------------------------------

    def config(self, form: Form) -> TrainConfig:
        """The settings a form stands for.

        Raises: UsageError: values that are not allowed, all named at once.
        """
        source = self.services.source(form.data, self.caller)
        return with_preset(form.preset, {"name": form.name.strip(), "data": source} | form.settings())

    def take_preset(self, preset: str) -> list[Any]:
        config = with_preset(preset, {"name": "x", "data": "x"})
        values = [",".join(map(str, config.ks)) if name == "ks" else getattr(config, name) for name in SETTINGS]
        return [gr.Radio(info=PRESETS[preset].purpose), *values, "{}"]

    def describe(self, *form: Any) -> tuple[str, str]:
        """Estimate and command of the form as it stands."""
        try:
            config = self.config(Form(*form))
        except GistDemoError as error:
            return panels.note(one_line(error), "error"), ""
        found = estimate(config, self.jobs)
        text = (
            f"About {job_cards.duration(found.seconds)} ({found.basis})." if found.seconds is not None else f"{found.basis.capitalize()}."
        )
        text = f"{text} {found.memory_text()}".strip()
        return panels.note(text), config.command().replace(f"--run runs/{config.name}", "--queue")

    def check_data(self, *form: Any) -> tuple[str, str]:
        """Read the rows: how many can be used, how many were turned away and why, and how the first one looks."""
        try:
            config = self.config(Form(*form))
            rows = self.services.read_rows(config.data, self.caller)
        except GistDemoError as error:
            return panels.note(one_line(error), "error"), panels.status(one_line(error), kind="error")
        away = "; ".join(f"{count:,} x {reason}" for reason, count in rows.rejected.most_common()) or "none"
        first = rows.examples[0]
        text = f"{len(rows.examples):,} usable rows in {rows.name}; turned away: {away}. First: {first.instruction[:120]!r} → {first.output[:120]!r}"
        return panels.note(text) + self.describe(*form)[0], panels.status("Data checked")

    def submit(self, *form: Any) -> tuple[Any, str]:
        """Put the run into the queue. Refused where its name is taken, with the reason."""
        try:
            config = self.config(Form(*form))
            job = self.services.start_training(config, self.caller)
        except GistDemoError as error:
            return gr.skip(), panels.status(one_line(error), kind="error")
        waiting = len(self.jobs.queued())
        text = f"'{config.name}' is in the queue" if job.state == "queued" else f"'{config.name}' is starting"
        return gr.Radio(self.choices(), value=job.id), panels.status(f"{text}; {waiting} waiting" if waiting else text)

    # --- view ---------------------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, str]]:
        return [(job_cards.label(job, self.watch.progress(job)), job.id) for job in self.jobs.list()]

    def chosen(self, job_id: str | None) -> Job | None:
        """The job with that id; else the first of the list."""
        found = self.jobs.list()
        return next((job for job in found if job.id == job_id), found[0] if found else None)

    def refresh(self, job_id: str | None) -> tuple[Any, str, str, str]:
        job = self.chosen(job_id)
        if job is None:
            return gr.Radio([], value=None), job_cards.watched(None, Progress()), job_cards.samples([], None), ""
        progress = self.watch.progress(job)
        step = next((e["step"] for e in reversed(progress.evaluations) if e.get("samples")), None)
        shown = job_cards.samples(progress.samples(), step)
        return gr.Radio(self.choices(), value=job.id), job_cards.watched(job, progress), shown, tail(self.jobs.folder(job.id) / OUTPUT)

    def draw(self, job_id: str | None, log_scale: bool, drawn: str) -> tuple[Any, Any, str]:
        """Figures, drawn anew only when there is something new to see."""
        job = self.chosen(job_id)
        progress = self.watch.progress(job) if job else Progress()
        now = f"{job.id if job else ''}/{progress.steps_done}/{len(progress.evaluations)}/{log_scale}"
        if now == drawn:
            return gr.skip(), gr.skip(), drawn
        return training_figures.loss_figure(progress.points, log_scale), training_figures.recovery_figure(progress.evaluations), now

    def change(self, action: str, job_id: str | None) -> str:
        if job_id is None:
            return panels.status("No job is chosen", kind="error")
        try:
            job = self.services.change_job(action, job_id, self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error")
        said = {"stopping": "is asked to stop; it saves its state first", "queued": "is in the queue", "cancelled": "is out of the queue"}
        return panels.status(f"'{job.title}' {said.get(job.state, 'is ' + job.state)}", kind="busy" if job.state == "stopping" else "info")

    def to_compare(self, job_id: str | None) -> list[str]:
        """The rows that show a finished job's checkpoint beside its backbone.

        Where the decoder is the backbone's own, the checkpoint's column Full is the backbone; else the backbone is a row of its own.
        Raises: UsageError: the job has no checkpoint to compare.
        """
        job = self.chosen(job_id)
        found = {row.name: row.manifest for row in self.services.rows() if row.manifest}
        if job is None or job.kind != "train" or job.state != "done" or job.settings["name"] not in found:
            raise UsageError("This job has no checkpoint to compare (yet). Choose a training job that is done.")
        name = job.settings["name"]
        manifest = found[name]
        return [name, manifest.backbone] if manifest.has_backbone_adapter or manifest.has_weights else [name]

    def remove(self, job_id: str | None, sure: bool) -> tuple[str, bool]:
        if job_id is None or not sure:
            return panels.status("Tick 'Yes, delete its files' first: its files cannot be brought back", kind="error"), False
        try:
            self.services.delete_job(job_id, self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error"), False
        return panels.status("Deleted"), False

    def settings_of(self, job_id: str | None) -> list[Any]:
        """Fill the form from a job."""
        job = self.chosen(job_id)
        if job is None or job.kind != "train":
            return [*([gr.skip()] * (len(SETTINGS) + 3)), panels.status("No training job is chosen", kind="error")]
        values = job.settings
        data = OWN_EXAMPLES if source_name(values["data"]) == EMBEDDED_FILE else values["data"]
        form = [",".join(map(str, values["ks"])) if name == "ks" else values[name] for name in SETTINGS]
        known: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
        more = {
            name: value
            for name, value in values.items()
            if name not in (*SETTINGS, "name", "data") and value != (list(known[name]) if isinstance(known[name], tuple) else known[name])
        }
        return [f"{values['name']}-2", data, *form, json.dumps(more, indent=1), panels.status(f"Settings of '{job.title}'")]
