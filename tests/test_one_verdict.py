"""The same answer has the same verdict, flags and places in Compare, on the command line, in Evaluate, the row detail, the report and an import."""

from __future__ import annotations

import json
import re
import threading

import pytest
from measured import results
from scripted import LOOP, ScriptedPool, write_two_checkpoints

from gistdemo.cli import main
from gistdemo.compare import compare
from gistdemo.generation import Sampling
from gistdemo.grid import CompareRequest
from gistdemo.metrics import FLAGS, assess
from gistdemo.present.report import html_report
from gistdemo.present.tables import row_detail
from gistdemo.prompts import Example
from gistdemo.results.answer import judged
from gistdemo.results.imported import read_foreign
from gistdemo.settings import Settings

ASKED = Example("Describe the sea.", "", "The sea is wide and blue.")
ANSWERS = {
    "healthy": "The sea is wide and blue, and it is full of fish.",
    "degenerate": "Well, " + LOOP * 9,
    "warning": "The sea is caf\ufffd blue.",
}


def as_json(flags) -> list[dict]:
    return json.loads(json.dumps([flag.to_dict() for flag in flags]))


def record(text: str) -> dict:
    key = {"checkpoint": "instruct", "condition": "full", "k": 0, "row": 0, "text": text}
    return key | {
        "tokens": 9,
        "finish_reason": "limit",
        "blind": False,
        "prompt_tokens": 9,
        "instruction_tokens": 4,
        "kept_tokens": 4,
        "kv_bytes": 9,
    }


@pytest.mark.parametrize("verdict", ANSWERS)
def test_one_answer_has_one_verdict_everywhere(verdict, settings, tmp_path, monkeypatch, capsys):
    text = ANSWERS[verdict]
    expected = assess(text, ASKED)
    flags = as_json(expected.flags)
    assert expected.verdict == verdict and bool(flags) == (verdict != "healthy")

    pool = ScriptedPool(write_two_checkpoints(settings), {("instruct", "full"): text})
    request = CompareRequest(ASKED, ("instruct",), ("full",), 4, Sampling(500))
    *_, last = compare(request, pool, threading.Event())
    assert last.cells[0].text == text
    assert (last.cells[0].diagnosis.verdict, as_json(last.cells[0].diagnosis.flags)) == (verdict, flags)

    monkeypatch.setattr("gistdemo.services.services.ModelPool", lambda settings: pool)
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    options = ["--reference", ASKED.output, "--checkpoint", "instruct", "--conditions", "full", "--max-new-tokens", "500", "--json"]
    assert main(["compare", ASKED.instruction, *options]) == 0
    (printed,) = json.loads(capsys.readouterr().out)["answers"]
    assert (printed["verdict"], printed["findings"]) == (verdict, flags)

    (kept,) = judged([record(text)], [ASKED])
    assert (kept["verdict"], kept["findings"]) == (verdict, flags)

    example = {"instruction": ASKED.instruction, "input": "", "output": ASKED.output}
    detail = str(row_detail(0, example, [kept]))
    assert f"gd-b-{verdict}" in detail
    if flags:
        words = {kind.name: kind.words for kind in FLAGS}
        assert f'title="{words[flags[0]["name"]]}' in detail, "the place of the gravest is marked"

    report = str(html_report(results(), [kept], [example]))
    assert re.search(rf"[●▲■] {verdict}", report)

    samples = [{"prompts": {"full": f"Instruction: {ASKED.instruction}\nInput: \nOutput:"}, "reference": ASKED.output, "full_text": text}]
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "sample_outputs.json").write_text(json.dumps(samples), encoding="utf-8")
    (imported,) = read_foreign(folder, "other").answers
    assert (imported["verdict"], imported["findings"]) == (verdict, flags)
