"""A box to paste any text into: what the page says of its own answers is said of it as well."""

from __future__ import annotations

from typing import Any

import gradio as gr

from gistdemo.errors import GistDemoError, one_line
from gistdemo.present import cells, panels
from gistdemo.prompts import Example
from gistdemo.services import Services


class JudgeBox:
    """Builds itself inside an open gr.Blocks."""

    def __init__(self, services: Services):
        self.services = services

    def build(self, status: gr.HTML) -> None:
        """status: the page's status line."""
        with gr.Accordion("Judge any text", open=False, elem_id="gd-judge"):
            asked = gr.Textbox(label="Instruction", lines=1, max_lines=4, elem_id="gd-judge-asked")
            given = gr.Textbox(label="Input (optional)", lines=1, max_lines=4, elem_id="gd-judge-given")
            text = gr.Textbox(label="Text that is to answer it", lines=3, max_lines=12, elem_id="gd-judge-text")
            start = gr.Button("Judge", size="sm", elem_id="gd-judge-start")
            found = gr.HTML("", padding=False, elem_id="gd-judge-found")
        start.click(self.judge, [asked, given, text], [found, status], show_progress="hidden", api_visibility="private")

    def judge(self, instruction: str, given: str, text: str) -> tuple[Any, Any]:
        """Everything that can be said of a text as an answer to an instruction."""
        if not (instruction or "").strip():
            return gr.skip(), panels.status("Type the instruction that the text is to answer", kind="error")
        try:
            found = self.services.judge_text(Example(instruction, given or "", ""), text or "")
        except GistDemoError as error:
            return gr.skip(), panels.status(one_line(error), kind="error")
        return cells.judged(text or "", found), gr.skip()
