"""The Checkpoints tab: what is there and how good it is; take one home as a zip, take one in, delete one."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import gradio as gr

from gistdemo.checkpoint.registry import list_checkpoints
from gistdemo.errors import GistDemoError, UsageError, one_line
from gistdemo.present import panels
from gistdemo.present.checkpoint_cards import checkpoints
from gistdemo.services import Caller, Services


class CheckpointsTab:
    """Builds the tab inside an open gr.Blocks and holds what its handlers need."""

    def __init__(self, services: Services, caller: Caller):
        self.services, self.settings, self.caller = services, services.settings, caller
        self._zips = Path(tempfile.mkdtemp(prefix="gistdemo-zips-"))  # one per checkpoint at most
        weakref.finalize(self, shutil.rmtree, self._zips, ignore_errors=True)  # it goes with the server

    def build(self, status: gr.HTML) -> None:
        """Lay the tab out. status: the page's status line."""
        self.listing = gr.HTML(self.shown(), padding=False, elem_id="gd-ck-list")
        with gr.Row(elem_classes="gd-tight gd-ck-actions"):
            self.chosen = gr.Dropdown(self.names(), value=None, label="Checkpoint", elem_id="gd-ck-chosen", scale=3)
            self.prepare = gr.Button("Prepare zip", size="sm", elem_id="gd-ck-zip", scale=1, min_width=110)
            self.download = gr.DownloadButton(
                "Download zip", size="sm", interactive=False, elem_id="gd-ck-download", scale=1, min_width=120
            )
            self.upload = gr.UploadButton("Import zip", file_types=[".zip"], size="sm", elem_id="gd-ck-import", scale=1, min_width=110)
        with gr.Row(elem_classes="gd-tight"):
            self.sure = gr.Checkbox(False, label="Yes, delete its files", container=False, elem_id="gd-ck-sure", scale=3)
            self.delete = gr.Button("Delete", size="sm", elem_id="gd-ck-delete", scale=1, min_width=110)
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        changed = [self.listing, self.chosen]
        self.prepare.click(self.packed, self.chosen, [self.download, status], **private)
        self.chosen.change(lambda: gr.DownloadButton(value=None, interactive=False), None, self.download, queue=False, **private)
        self.upload.upload(self.take_in, self.upload, status, **private).then(self.refresh, self.chosen, changed, **private)
        self.delete.click(self.remove, [self.chosen, self.sure], [status, self.sure], **private).then(
            self.refresh, self.chosen, changed, **private
        )

    def names(self) -> list[str]:
        return [entry.name for entry in list_checkpoints(self.settings.checkpoint_dirs)]

    def shown(self) -> str:
        return checkpoints(list_checkpoints(self.settings.checkpoint_dirs))

    def refresh(self, chosen: str | None) -> tuple[str, Any]:
        """Listing and choices of this moment."""
        names = self.names()
        return self.shown(), gr.Dropdown(names, value=chosen if chosen in names else None)

    def packed(self, name: str | None) -> tuple[Any, str]:
        """Make the zip of a checkpoint and offer it."""
        try:
            path = self.services.pack_checkpoint(self._entry(name).name, self._zips)
        except GistDemoError as error:
            return gr.skip(), panels.status(one_line(error), kind="error")
        size = path.stat().st_size / 1e6
        return gr.DownloadButton(value=str(path), interactive=True), panels.status(f"{path.name} is ready: {size:.1f} MB")

    def take_in(self, file: str) -> str:
        """Import a zip. What is wrong with it is said; nothing of it is kept then."""
        try:
            name = self.services.import_checkpoint(Path(file), self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error")
        return panels.status(f"Imported '{name}': Compare and Evaluate offer it now")

    def remove(self, name: str | None, sure: bool) -> tuple[str, bool]:
        """Delete a checkpoint made or imported here, once it is meant and nothing needs it."""
        if not sure:
            return panels.status("Tick 'Yes, delete its files' first: its files cannot be brought back", kind="error"), False
        try:
            entry = self._entry(name)
            self.services.delete_checkpoint(entry.name, self.caller)
        except GistDemoError as error:
            return panels.status(one_line(error), kind="error"), False
        return panels.status(f"Deleted '{entry.name}'"), False

    def _entry(self, name: str | None) -> Any:
        found = {entry.name: entry for entry in list_checkpoints(self.settings.checkpoint_dirs)}
        if name not in found:
            raise UsageError("No checkpoint is chosen. Choose one in the list beside the buttons.")
        return found[name]
