"""A small evaluation made by hand, as `evaluate` would leave it: two checkpoints, four conditions, two budgets, six examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gistdemo.files import write_json
from gistdemo.prompts import Example
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, Answer, judged
from gistdemo.results.evaluation import RESULTS_FILE, Results, versions
from gistdemo.results.migrations import FORMAT
from gistdemo.results.summary import summarise

NASTY = "<script>alert(1)</script>"
EXAMPLES = [
    Example(f"Name animal number {n}. {NASTY if n == 0 else ''}".strip(), "in </script> French" if n == 1 else "", f"the animal {n}")
    for n in range(6)
]
SETTINGS = (("full", 0), ("gist", 1), ("gist", 4), ("truncated", 1), ("truncated", 4), ("none", 0))


def said(checkpoint: str, condition: str, k: int, row: int) -> str:
    if checkpoint == "looping":
        return "the same words " * 12
    return {"full": f"the animal {row}", "none": "no idea"}.get(condition, f"the animal {row}" if row % 2 or k == 4 else "an answer")


def rows() -> list[Answer]:
    made = []
    for checkpoint in ("looping", "healthy"):
        for condition, k in SETTINGS:
            for row in range(len(EXAMPLES)):
                text = said(checkpoint, condition, k, row)
                key = {
                    "checkpoint": checkpoint,
                    "condition": condition,
                    "k": k,
                    "row": row,
                    "text": text,
                    "tokens": 4,
                    "finish_reason": "eos",
                    "blind": False,
                }
                sizes = {"prompt_tokens": 20, "instruction_tokens": 6 + 10 * (row % 3), "kept_tokens": k or 6, "kv_bytes": 4096}
                made.append(key | sizes)
    return judged(made, EXAMPLES)


def results(**changes: Any) -> Results:
    by_k = {str(k): {"recovery": 0.5 + k / 10, "swapped": -0.1, "nll_gist": 1.0, "nll_swapped": 2.0} for k in (1, 4)}
    targets = {
        name: {"rows": 6, "answer_tokens": 30, "nll_full": 1.0, "nll_none": 2.0, "by_k": by_k} for name in ("references", "own_answers")
    }
    request = {"checkpoints": ["looping", "healthy"], "data": "animals.jsonl", "seed": 0, "ks": [1, 4], "rows": 6}
    return {
        "format": FORMAT,
        "title": f"Six animals {NASTY}",
        "source": "ours",
        "request": request,
        "command": "python -m gistdemo eval --checkpoint looping",
        "rows": 6,
        "rows_trained_on": 0,
        "digest": "sha256:0123456789abcdef",
        "answers": summarise(rows(), EXAMPLES),
        "recovery": {"healthy": targets},
        "versions": versions(),
        "created": "2026-11-23T05:00:00+00:00",
        "seconds": 1.0,
    } | changes


def examples() -> list[dict[str, str]]:
    return [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in EXAMPLES]


def write(folder: Path, **changes: Any) -> Path:
    """The evaluation as a folder."""
    folder.mkdir(parents=True)
    write_json(folder / RESULTS_FILE, results(**changes))
    for name, values in ((EXAMPLES_FILE, examples()), (ROWS_FILE, rows())):
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    return folder
