"""Whether the answers of an evaluation are about what was asked. DIR/tasks.jsonl keeps what was judged, so that a kill loses one answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gistdemo.errors import WorkStopped
from gistdemo.files import recover
from gistdemo.judge.judge import Judge
from gistdemo.metrics import Task
from gistdemo.prompts import Example
from gistdemo.results.answer import Generated

log = logging.getLogger(__name__)
TASKS_FILE = "tasks.jsonl"
REPORT = 32  # answers between two words on how far it is


def judge_answers(
    judge: Judge,
    answers: Sequence[Generated],
    examples: Sequence[Example],
    folder: Path,
    report: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Task | None]:
    """The second judgement of every answer, those on file first; None where one cannot be judged.

    report: told how many are judged. Raises: WorkStopped: should_stop, asked after every answer, said so; what was judged is kept.
    """
    found: dict[int, Task | None] = {
        line["answer"]: Task(**line["task"]) if line["task"] else None for line in recover(folder / TASKS_FILE)
    }
    open_answers = sorted(
        (n for n in range(len(answers)) if n not in found), key=lambda n: (answers[n]["row"], n)
    )  # a row's prompts are read once
    with (folder / TASKS_FILE).open("a", encoding="utf-8") as file:
        for n in open_answers:
            began, answer = time.perf_counter(), answers[n]
            found[n] = task = judge.judge(examples[answer["row"]], answer["text"])
            line = {"answer": n, "task": vars(task) if task else None, "seconds": round(time.perf_counter() - began, 3)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            if len(found) % REPORT == 0:
                report(len(found))
            if should_stop() and len(found) < len(answers):
                raise WorkStopped(
                    f"Stopped after {len(found)} of {len(answers)} answers were judged, which is kept. Resume goes on from there."
                )
    return [found[n] for n in range(len(answers))]
