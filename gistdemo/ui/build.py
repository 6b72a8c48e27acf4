"""Puts the page together: header, tabs, queue. `app.py` launches what `build_app` returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.utils import get_upload_folder

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import budgets
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.data.examples import EMBEDDED
from gistdemo.errors import GistDemoError, one_line
from gistdemo.generation import Precision
from gistdemo.jobs.watch import Watch
from gistdemo.present import panels
from gistdemo.services import LOCAL, Services, visitor
from gistdemo.settings import Settings
from gistdemo.ui.checkpoints_tab import CheckpointsTab
from gistdemo.ui.compare_tab import CompareTab
from gistdemo.ui.evaluate_tab import EvaluateTab
from gistdemo.ui.train_tab import TrainTab
from gistdemo.ui.warm_up import WarmUp


def build_app(
    settings: Settings, first_source: str = EMBEDDED, local: bool = True, pool: ModelPool | None = None
) -> tuple[gr.Blocks, dict[str, Any]]:
    """Build the page.

    first_source: examples shown at the start. local: the server can be reached from this machine only, so who asks owns its files.
    pool: where models come from (default: a ModelPool of these settings).
    Returns the blocks and the arguments of `launch` that belong to the page (theme, css, scripts, icon).
    Raises: DataError: first_source cannot be read.
    """
    services = Services(settings, pool)
    first_source = services.source(first_source, LOCAL)  # named by who starts the server, so everybody may look at it
    services.examples(first_source, LOCAL)
    caller = LOCAL if local else visitor(Path(get_upload_folder()), Path(first_source))
    warm_up, watch = WarmUp(settings, services.pool), Watch(services.jobs)
    with gr.Blocks(title="gistdemo: full, gist and truncated prompts side by side", analytics_enabled=False) as page:
        with gr.Row(elem_classes="gd-header"):
            gr.HTML(panels.header(), padding=False)
            with gr.Column(min_width=260):
                status = gr.HTML(panels.status(warm_up.opening(), 0.0, "busy"), padding=False, elem_id="gd-status-line")
                models = gr.HTML("", padding=False, elem_id="gd-models")
        with gr.Tabs(elem_id="gd-tabs") as tabs:
            with gr.Tab("Compare", id="compare") as compare_tab:
                tab = CompareTab(services, caller)
                tab.build(status, first_source)
            with gr.Tab("Evaluate", id="evaluate") as evaluate_tab:
                evaluation = EvaluateTab(services, watch, caller)
                evaluation.build(status)
            with gr.Tab("Train", id="train"):
                training = TrainTab(services, watch, caller)
                training.build(status)
            with gr.Tab("Checkpoints", id="checkpoints") as checkpoints_tab:
                shelf = CheckpointsTab(services, caller)
                shelf.build(status)
            with gr.Tab("About", id="about"):
                gr.Markdown((settings.assets_dir / "about.md").read_text(encoding="utf-8"), elem_classes="gd-about")
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        checkpoints_tab.select(shelf.refresh, shelf.chosen, [shelf.listing, shelf.chosen], queue=False, **quick)
        gr.on([compare_tab.select, page.load], tab.offered, None, tab.checkpoints, queue=False, **quick)
        page.load(warm_up.watch, None, [status, models], concurrency_limit=None, **quick)
        _restore_from_link(page, tab, quick)
        evaluate_tab.select(evaluation.offered, None, evaluation.checkpoints, queue=False, **quick)
        training.on_load(page)
        evaluation.on_load(page)
        _open_in_compare(tabs, tab, evaluation, training)
    page.queue(max_size=64, default_concurrency_limit=4)
    warm_up.start()
    return page, page_arguments(settings.assets_dir)


def _open_in_compare(tabs: gr.Tabs, tab: CompareTab, evaluation: EvaluateTab, training: TrainTab) -> None:
    """Buttons of other tabs that fill the form of Compare, turn to it and run it."""
    form = [tab.instruction, tab.input, tab.reference, tab.checkpoints, tab.conditions, tab.k]
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def rows(names: list[str]) -> Any:
        return gr.CheckboxGroup(tab.checkpoint_choices(), value=names)

    def row_of_evaluation(chosen: str | None, number: float | None, checkpoint: str | None, k: str | None) -> list[Any]:
        found = evaluation.to_compare(chosen, number, checkpoint, k)
        if found is None:
            raise gr.Error("Click a row of the table first.", print_exception=False)
        texts = [found["example"][name] for name in ("instruction", "input", "output")]
        return [gr.Tabs(selected="compare"), *texts, rows(found["checkpoints"]), list(DEFAULT_CONDITIONS), found["k"]]

    def checkpoint_of_job(job_id: str | None) -> list[Any]:
        try:
            names = training.to_compare(job_id)
        except GistDemoError as error:
            raise gr.Error(one_line(error), print_exception=False) from error
        shown = [*DEFAULT_CONDITIONS, "none"]
        return [gr.Tabs(selected="compare"), *[gr.skip()] * 3, rows(names), shown, gr.skip()]

    asked = [evaluation.chosen, evaluation.clicked, evaluation.of_checkpoint, evaluation.of_k]
    tab.run_after(evaluation.open.click(row_of_evaluation, asked, [tabs, *form], **private))
    tab.run_after(training.try_out.click(checkpoint_of_job, training.job, [tabs, *form], **private))


def _restore_from_link(page: gr.Blocks, tab: CompareTab, quick: dict[str, Any]) -> None:
    """Fill the form from the query string that "Copy link" made."""

    def restore(request: gr.Request) -> list[Any]:
        return from_query(dict(request.query_params), tab)

    page.load(restore, None, tab.widgets(), queue=False, **quick)


def from_query(query: dict[str, str], tab: CompareTab) -> list[Any]:
    """Values for the form; what the link does not say, or says wrongly, stays as it is."""
    names = [name for _, name in tab.checkpoint_choices()]

    def number(name: str, kind: type, low: float, high: float) -> Any:
        try:
            value = kind(query[name])
        except (KeyError, ValueError):
            return gr.skip()
        return value if low <= value <= high else gr.skip()

    def several(name: str, allowed: list[str]) -> Any:
        chosen = [part for part in query.get(name, "").split(",") if part in allowed]
        return chosen or gr.skip()

    # a link with an instruction says everything about the example: its empty fields are empty
    texts = [query.get(name, "") if "instruction" in query else gr.skip() for name in ("instruction", "input", "reference")]
    limit = tab.settings.max_new_tokens
    precision = query["precision"] if query.get("precision") in get_args(Precision) else gr.skip()
    rest = [
        number("k", int, 1, max(budgets(tab.settings))),
        number("limit", int, 1, limit),
        number("temperature", float, 0, 2),
        number("top_p", float, 0.05, 1),
    ]
    return [*texts, several("checkpoints", names), several("conditions", list(CONDITIONS)), *rest, number("seed", int, 0, 2**31), precision]


def page_arguments(assets: Path) -> dict[str, Any]:
    """theme, css, js, head and icon for `launch`."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]
    theme = gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="stone", font=fonts, font_mono=mono, radius_size="sm", spacing_size="sm"
    )
    script = (assets / "page.js").read_text(encoding="utf-8")
    return {
        "theme": theme,
        "css_paths": [assets / "style.css"],
        "head": f"<script>{script}</script>",
        "favicon_path": assets / "icon.svg",
    }
