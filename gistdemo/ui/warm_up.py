"""Fetches and loads the embedded models in the background, one after another, so that the first comparison need not wait.

The first one is the instruct model, and the checkpoints that come with gistdemo are put on theirs. Those made or taken in here wait until
they are asked for: what is wrong with one of them must not meet every start. A model that fails or takes long holds up none of the
others: its rows say so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import ModelRow, list_checkpoints
from gistdemo.errors import GistDemoError, one_line
from gistdemo.generation import LIVE
from gistdemo.model.embedded import EmbeddedModel, chosen, is_ready
from gistdemo.model.fetching import Progress
from gistdemo.present import panels
from gistdemo.settings import Settings

log = logging.getLogger(__name__)
READY = "Ready: pick an example and press Compare"


class WarmUp:
    """state: of each model, by name: (message, fraction done or None, "busy", "ready" or "failed")."""

    def __init__(self, settings: Settings, pool: ModelPool):
        self.settings, self.pool = settings, pool
        self.models = chosen(settings)
        self.state: dict[str, tuple[str, float | None, str]] = {m.name: (f"{m.title}: waiting", None, "busy") for m in self.models}
        self.done = not self.models

    def start(self) -> None:
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    def opening(self) -> str:
        """What the page says first: how much is fetched on a first start."""
        missing = [model for model in self.models if not is_ready(model, self.settings)]
        if not missing:
            return "Getting ready"
        sizes = " + ".join(f"{model.title} {model.download_bytes / 1e6:.0f} MB" for model in missing)
        return f"First start: {sum(model.download_bytes for model in missing) / 1e6:.0f} MB are fetched once ({sizes})"

    def _run(self) -> None:
        for model in self.models:
            self._warm(model)
        self.done = True

    def _warm(self, model: EmbeddedModel) -> None:
        def report(message: str, fraction: float) -> None:
            self.state[model.name] = (message, fraction, "busy")

        try:
            base, _ = self.pool.row(ModelRow(model.name, model.name), report)
            base.engine.prepare(LIVE)
            for entry in list_checkpoints([self.settings.shipped_checkpoints_dir]):
                if entry.manifest and entry.manifest.backbone == model.name:
                    self._attach(ModelRow(entry.name, model.name, entry), report)
            self.state[model.name] = (f"{model.title} is ready", None, "ready")
        except GistDemoError as error:
            self.state[model.name] = (one_line(error), None, "failed")
        except Exception:
            log.exception("warm-up failed")
            text = f"{model.title} could not be loaded; the log of the server has the details"
            self.state[model.name] = (text, None, "failed")

    def _attach(self, row: ModelRow, report: Progress) -> None:
        """Load a row on a model that is there. One that does not fit says so in its own cells."""
        try:
            self.pool.row(row, report)
        except GistDemoError as error:
            log.warning("warm-up: %s", one_line(error))

    def watch(self) -> Iterator[tuple[Any, str]]:
        """(status line, line about the models) until all models are in memory; ends by itself.

        The status line is left alone from the moment the first model is ready: comparisons write there too.
        """
        said, shown = None, None
        while True:
            done, states = self.done, list(self.state.values())
            line = self._status(states)
            rest = panels.models([state for state in states if state[2] != "ready"] if "Ready" in line else [])
            if (line, rest) != (said, shown):
                yield (line if line != said else gr.skip()), rest
                said, shown = line, rest
            if done:
                return
            time.sleep(0.3)

    def _status(self, states: list[tuple[str, float | None, str]]) -> str:
        if not states or any(state[2] == "ready" for state in states):
            return panels.status(READY)
        busy = next((state for state in states if state[2] == "busy"), None)
        message, fraction, _ = busy or states[0]
        opening = self.opening() if fraction is None and busy else message
        return panels.status(opening, fraction or (0.0 if busy else None), "busy" if busy else "error")
