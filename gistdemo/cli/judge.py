"""`gistdemo judge`: outputs of any model, judged as the page judges its own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gistdemo.cli.output import Commands
from gistdemo.metrics import MAIN, TASK_VERDICTS, VERDICTS
from gistdemo.results.answer import Answer
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings

SHOWN = 60  # characters of an answer in the table


def add(commands: Commands) -> None:
    p = commands.add_parser("judge", help="judge outputs of any model: health, whether they are about what was asked, ROUGE")
    p.add_argument(
        "file",
        type=Path,
        help=".jsonl of objects objects with instruction, text, input, reference; or a .csv, .zip or folder that Evaluate imports",
    )
    p.add_argument(
        "--judge", metavar="NAME", help="checkpoint or backbone that tells what is on task; bounds were calibrated for the default"
    )
    p.add_argument("--no-judge", action="store_true", help="text health and ROUGE only; loads no model")
    p.add_argument("--json", action="store_true", help="print a JSON object per answer instead of a table")
    p.set_defaults(command=_judge)


def _judge(args: argparse.Namespace, settings: Settings) -> int:
    services = Services(settings)
    if args.no_judge:
        services.judge = None
    elif args.judge and services.judge:
        services.judge = services.judge.of(args.judge)
    foreign, answers = services.judge_outputs(args.file, LOCAL)
    for answer in answers:
        example = foreign.examples[answer["row"]]
        asked = {"instruction": example.instruction, "input": example.input, "reference": example.output}
        print(json.dumps(asked | answer, ensure_ascii=False) if args.json else _line(answer))
    print(_summary(answers), file=sys.stderr if args.json else sys.stdout)
    return 0


def _line(answer: Answer) -> str:
    task = answer["task"]
    rank = f"{task['rank']}/{task['of']}" if task and task["rank"] else "-"
    gain = f"{task['gain']:+.2f}" if task and task["gain"] is not None else "-"
    score = f"{answer['scores'][MAIN.name]:5.1f}" if answer["scores"] else "    -"
    verdicts = f"{answer['verdict'] or '-':10} {task['verdict'] if task else 'not judged':10} {gain:>6} {rank:>5} {score}"
    text = " ".join(answer["text"].split())
    return f"{answer['row'] + 1:5} {verdicts} {','.join(answer['flags']) or '-':8} {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}"


def _summary(answers: list[Answer]) -> str:
    tasks = [answer["task"]["verdict"] for answer in answers if answer["task"]]
    both = sum(a["verdict"] == "healthy" and bool(a["task"]) and a["task"]["verdict"] == "on task" for a in answers if a["task"])
    health = ", ".join(f"{count} {name}" for name in VERDICTS if (count := sum(a["verdict"] == name for a in answers)))
    on_task = ", ".join(f"{tasks.count(name)} {name}" for name in TASK_VERDICTS if name in tasks) or "none judged for being on task"
    return f"{len(answers)} answers: {health}; {on_task}" + (f"; {both} healthy and on task" if tasks else "")
