"""The command line: parses, calls one library function, prints. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gistdemo import __version__
from gistdemo.checkpoint.manifest import MODES
from gistdemo.checkpoint.registry import EVALUATION_FILE, find_checkpoint, list_checkpoints
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.errors import GistDemoError, TrainingError, UsageError, one_line
from gistdemo.jobs.progress import ProgressReader, tail
from gistdemo.jobs.queue import OUTPUT, Jobs
from gistdemo.jobs.record import Job
from gistdemo.settings import Settings
from gistdemo.train.config import DTYPES, WEIGHTS, TrainConfig
from gistdemo.train.presets import PRESETS, with_preset

SHOWN_K = 4  # where one budget has to stand for all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after an error (one line on stderr), or 130 when interrupted."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return args.command(args, Settings.from_env())
    except GistDemoError as error:
        print(f"gistdemo: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gistdemo: stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gistdemo", description="Compare full, gist and truncated prompts; train gist checkpoints."
    )
    parser.add_argument("--version", action="version", version=f"gistdemo {__version__}")
    parser.add_argument("--verbose", action="store_true", help="print the log, tracebacks included")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_checkpoints(commands)
    _add_jobs(commands)
    return parser


def _add_compare(commands) -> None:
    p = commands.add_parser("compare", help="answer one instruction under every condition, as the Compare tab does")
    p.add_argument("instruction", help="what the model should do")
    p.add_argument("--input", default="", help="text the instruction works on")
    p.add_argument("--reference", default="", help="a reference answer, for ROUGE")
    p.add_argument("--checkpoint", action="append", metavar="NAME", help="name or folder; repeat for several (default: all usable ones)")
    p.add_argument(
        "--conditions", default=",".join(DEFAULT_CONDITIONS), help=f"comma-separated, of {', '.join(CONDITIONS)} (default: %(default)s)"
    )
    p.add_argument("--k", type=int, default=4, help="gist tokens, and the budget of `truncated` (default: %(default)s)")
    p.add_argument("--max-new-tokens", type=int, default=128, help="answer limit (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    p.add_argument("--top-p", type=float, default=1.0, help="nucleus (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="seed of every row's own generator (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the cells as JSON")
    p.set_defaults(command=_compare)


def _compare(args, settings: Settings) -> int:
    from gistdemo.checkpoint.pool import ModelPool
    from gistdemo.compare import compare
    from gistdemo.generation import Sampling
    from gistdemo.grid import CompareRequest
    from gistdemo.prompts import Example

    names = args.checkpoint or [e.name for e in list_checkpoints(settings.checkpoint_dirs) if e.manifest and e.manifest.max_k]
    for name in names:
        find_checkpoint(name, settings.checkpoint_dirs)  # a wrong name is one message here, not one per cell
    request = CompareRequest(
        Example(args.instruction, args.input, args.reference),
        tuple(names),
        tuple(c.strip() for c in args.conditions.split(",") if c.strip()),
        args.k,
        Sampling(args.max_new_tokens, args.temperature, args.top_p, args.seed),
    )
    stop, last, shown = threading.Event(), None, ""
    for last in compare(request, ModelPool(settings), stop):
        if last.fraction is not None and last.message != shown:
            shown = last.message
            print(f"{last.fraction:4.0%} {shown}", file=sys.stderr)
    if args.json:
        print(json.dumps([cell.to_dict() for cell in last.cells], ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(_cell_text(cell) for cell in last.cells))
    return 2 if all(cell.error for cell in last.cells) else 0


def _cell_text(cell) -> str:
    head = f"== {cell.checkpoint} / {cell.condition}"
    if cell.error:
        return f"{head}: error\n{cell.error}"
    numbers = [
        f"prompt {cell.prompt_tokens} tokens",
        f"instruction {cell.instruction_tokens} -> {cell.kept_tokens}",
        f"KV {cell.kv_bytes / 1024:.0f} KiB",
    ]
    numbers.append(f"answer {cell.answer_tokens} tokens ({cell.finish_reason})")
    if cell.first_token_seconds is not None:
        numbers.append(f"first token {cell.first_token_seconds:.2f} s")
    if cell.tokens_per_second is not None:
        numbers.append(f"{cell.tokens_per_second:.1f} tokens/s")
    if cell.rouge:
        numbers.append("ROUGE-1/2/L " + " / ".join(f"{cell.rouge[n]:.1f}" for n in ("rouge1", "rouge2", "rougeL")))
    flags = [f"  {flag.severity}: {flag.name.replace('_', ' ')}: {flag.evidence}" for flag in cell.diagnosis.flags]
    return "\n".join([f"{head}: {cell.diagnosis.verdict}", "  " + ", ".join(numbers), *flags, cell.text])


def _add_train(commands) -> None:
    p = commands.add_parser(
        "train", help="train a gist checkpoint, or resume a run", description="Settings given by hand override those of a preset."
    )
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, metavar="DIR", help="run directory; if it holds a run of the same settings, that run is resumed")
    where.add_argument("--queue", action="store_true", help="put the run into the queue of background jobs instead (see `jobs`)")
    p.add_argument("--out", type=Path, metavar="DIR", help="checkpoint folder to write (default: DIR/checkpoint)")
    p.add_argument("--preset", choices=tuple(PRESETS), help="; ".join(f"{name}: {preset.purpose}" for name, preset in PRESETS.items()))
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        given: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
        if field.type == "bool":
            p.add_argument(flag, action=argparse.BooleanOptionalAction, **given)
        elif isinstance(field.default, tuple):
            item = type(field.default[0])
            p.add_argument(
                flag,
                type=lambda text, item=item: tuple(_item(part, item) for part in text.split(",")),
                metavar="A,B,..",
                **given,
            )
        else:
            kind = str if field.default is dataclasses.MISSING else type(field.default)
            choices = {"mode": MODES, "weights": WEIGHTS, "dtype": DTYPES}.get(field.name)
            metavar = None if choices else kind.__name__.upper()
            p.add_argument(flag, type=kind, choices=choices, metavar=metavar, **given)
    p.set_defaults(command=_train)


def _help(field: dataclasses.Field) -> str:
    text = field.metadata["help"].replace("%", "%%")
    if field.default is dataclasses.MISSING or field.default == "":
        return text
    value = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {value})"


def _item(text: str, kind: type):
    try:
        return kind(text.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {kind.__name__}") from error


def _train(args, settings: Settings) -> int:
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(args, f.name)}
    config = with_preset(args.preset or "", given)
    if args.queue:
        return _queue(settings, "train", dataclasses.asdict(config), config.name)
    try:
        args.run.mkdir(parents=True, exist_ok=True)
        log_file = logging.FileHandler(args.run / "log.txt", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"Run directory '{args.run}' cannot be written ({error.strerror}). Give another one with --run.") from error
    _log_to_stderr(log_file)
    from gistdemo.train.run import train

    print(train(config, args.run, settings, args.out))
    return 0


def _queue(settings: Settings, kind: str, values: dict[str, Any], title: str) -> int:
    jobs = Jobs(settings.runs_dir)
    job = jobs.submit(kind, values, title)
    jobs.tick()
    print(f"{job.id}\nWatch it with: python -m gistdemo jobs show {job.id}")
    return 0


def _log_to_stderr(*more: logging.Handler) -> None:
    """What a run says while it goes on, to stderr and to further places."""
    for handler in (*more, logging.StreamHandler()):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("gistdemo").addHandler(handler)
    logging.getLogger("gistdemo").setLevel(logging.INFO)
    logging.getLogger("gistdemo").propagate = False


def _add_eval(commands) -> None:
    p = commands.add_parser("eval", help="answer many rows under several conditions; score, flag and sum up")
    p.add_argument("--checkpoint", action="append", metavar="NAME", help="name or folder; repeat for several (default: all usable ones)")
    p.add_argument("--data", required=True, help="Alpaca file or hub dataset id; several joined by +")
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="folder of the results; an interrupted evaluation goes on there")
    where.add_argument("--queue", action="store_true", help="run as a background job; the Evaluate tab shows it")
    p.add_argument("--title", default="", help="name of the evaluation (default: from checkpoints and data)")
    p.add_argument("--rows", type=int, default=200, help="rows drawn with --seed; 0: all (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--conditions", default="full,gist,truncated,none", help=f"of {', '.join(CONDITIONS)}; '' for recovery alone (default: %(default)s)"
    )
    p.add_argument("--k", default="4", metavar="A,B,..", help="gist tokens, and the budget of `truncated` (default: %(default)s)")
    p.add_argument("--max-new-tokens", type=int, default=64)
    p.add_argument("--joined", action="store_true", help="compress instruction and input as one text")
    p.add_argument("--least-tokens", type=int, default=0, help="keep rows with at least so many tokens to compress")
    p.add_argument("--most-tokens", type=int, default=100_000, help="keep rows with at most so many tokens to compress")
    p.add_argument("--allow-trained", action="store_true", help="measure rows the checkpoint was trained on too; every figure says so")
    p.add_argument("--no-recovery", dest="recovery", action="store_false", help="generate and score only")
    p.add_argument("--keep", action="store_true", help="keep each checkpoint's figures beside it, as evaluation.json")
    p.set_defaults(command=_eval)


def _eval(args, settings: Settings) -> int:
    from gistdemo.evaluate.request import EvaluationRequest
    from gistdemo.evaluate.results import of_checkpoint, write_json

    try:
        ks = tuple(int(part) for part in args.k.split(","))
    except ValueError as error:
        raise UsageError(f"--k is '{args.k}'; whole numbers separated by commas are needed, such as 1,4.") from error
    usable = [e.name for e in list_checkpoints(settings.checkpoint_dirs) if e.manifest and e.manifest.max_k]
    request = EvaluationRequest(
        tuple(args.checkpoint or usable),
        args.data,
        args.rows,
        args.seed,
        tuple(part for part in args.conditions.split(",") if part),
        ks,
        args.max_new_tokens,
        args.joined,
        args.least_tokens,
        args.most_tokens,
        args.allow_trained,
        args.recovery,
    )
    if args.queue:
        return _queue(settings, "evaluate", dataclasses.asdict(request), args.title or f"{', '.join(request.checkpoints)}")
    from gistdemo.evaluate.run import evaluate

    results = evaluate(request, args.out, settings, args.title)
    for name in request.checkpoints if args.keep else ():
        entry = find_checkpoint(name, settings.checkpoint_dirs)
        write_json(entry.folder / EVALUATION_FILE, of_checkpoint(results, entry.manifest.name))
    _print_results(results, bool(request.conditions))
    return 0


def _print_results(results: dict[str, Any], answered: bool) -> None:
    from gistdemo.evaluate.summary import as_table

    seen = f", {results['rows_trained_on']} of them TRAINED ON" if results["rows_trained_on"] else ""
    names = ", ".join(results["request"]["checkpoints"])
    print(f"{names}: {results['rows']} rows of {results['request']['data']}{seen}\n\n{as_table(results['answers']) if answered else ''}")
    for name, targets in results["recovery"].items():
        for target, figures in targets.items():
            parts = [f"k={k} {_number(row['recovery'])} (swapped {_number(row['swapped'])})" for k, row in figures["by_k"].items()]
            print(f"\nrecovery of {name}, {target}, {figures['rows']} rows{seen}: {', '.join(parts)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _add_checkpoints(commands) -> None:
    p = commands.add_parser("checkpoints", help="list gist checkpoints with their health")
    p.add_argument("--json", action="store_true", help="print the manifests as JSON")
    p.set_defaults(command=_checkpoints)


def _checkpoints(args, settings: Settings) -> int:
    entries = list_checkpoints(settings.checkpoint_dirs)
    if args.json:
        records = [
            {"name": e.name, "problem": e.problem, "manifest": json.loads(e.manifest.to_json()) if e.manifest else None} for e in entries
        ]
        print(json.dumps(records, ensure_ascii=False, indent=2))
        return 0
    for entry in entries:
        if entry.manifest is None:
            print(f"{entry.name:<16} BROKEN  {entry.problem}")
            continue
        m = entry.manifest
        budget = f"k 1..{m.max_k}" if m.max_k else "no gist"
        print(
            f"{entry.name:<16} ok      {m.mode:<11} {budget:<8} on {m.backbone}{' (stand-in)' if m.stand_in else ''}"
            f"{_recovery_text(entry.recovery())}{_verdicts_text(entry.evaluation())}"
        )
    if not entries:
        print("No checkpoint found in " + ", ".join(str(folder) for folder in settings.checkpoint_dirs))
    return 0


def _recovery_text(recovery: dict) -> str:
    """One line per kind of answers: recovery of each k with its control, from the manifest; empty when there is none."""
    lines = ""
    for target in ("references", "own_answers"):
        try:
            by_k = recovery[target]["by_k"]
            parts = [
                f"k={k} {row['recovery']:.2f} (swapped {row['swapped']:.2f})" for k, row in by_k.items() if row["recovery"] is not None
            ]
        except (KeyError, TypeError, ValueError, AttributeError):  # a note of the trainer; another one may write others
            continue
        lines += f"\n{'':<25}recovery on {target.replace('_', ' ')}: {', '.join(parts)}" if parts else ""
    return lines


def _verdicts_text(evaluation: dict | None) -> str:
    """One line: share of degenerate answers per condition, from the evaluation kept beside a checkpoint; empty when there is none."""
    try:
        parts = [
            f"{e['condition']}{' k=' + str(e['k']) if e['k'] else ''} {100 * e['verdicts']['degenerate'] / e['n']:.0f} %"
            for e in (evaluation or {})["answers"]
            if e["k"] in (0, SHOWN_K)
        ]
        return f"\n{'':<25}degenerate of {evaluation['rows']} rows: {', '.join(parts)}"
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""


def _add_jobs(commands) -> None:
    p = commands.add_parser("jobs", help="background jobs: list, show, logs, stop, resume, delete")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all jobs: running, queued in order, ended")
    listing.add_argument("--json", action="store_true", help="print the records as JSON")
    listing.set_defaults(command=_jobs_list)
    for name, what in (("show", "state, progress and cause of one job"), ("stop", "let a job save its state and end; or leave the queue"),
                       ("resume", "put an ended job back into the queue"), ("delete", "remove an ended job and its files")):  # fmt: skip
        one = actions.add_parser(name, help=what)
        one.add_argument("id")
        one.set_defaults(command=_job_show if name == "show" else _job_change, action=name)
    logs = actions.add_parser("logs", help="the last lines a job printed")
    logs.add_argument("id")
    logs.add_argument("--lines", type=int, default=50)
    logs.set_defaults(command=_job_logs)
    run = actions.add_parser("run", help="run the job of a folder in this process (used by the queue itself)")
    run.add_argument("folder", type=Path)
    run.set_defaults(command=_job_run)


def _jobs_list(args, settings: Settings) -> int:
    jobs = Jobs(settings.runs_dir)
    jobs.tick()
    found = jobs.list()
    if args.json:
        print(json.dumps([dataclasses.asdict(job) for job in found], ensure_ascii=False, indent=2))
        return 0
    for job in found:
        print(f"{job.id:<44} {job.state:<10} {job.kind:<9} {_progress_text(jobs, job)}")
    if not found:
        print("No job yet. Start one with: python -m gistdemo train --queue --preset quick --name NAME --data FILE")
    return 0


def _job_show(args, settings: Settings) -> int:
    jobs = Jobs(settings.runs_dir)
    jobs.tick()
    job = jobs.get(args.id)
    print(f"{job.id}: {job.state}, {_progress_text(jobs, job)}")
    if job.cause:
        print(job.cause)
    for when, state in job.history:
        print(f"  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}  {state}")
    return 0


def _progress_text(jobs: Jobs, job: Job) -> str:
    progress = ProgressReader(jobs.folder(job.id)).read(job.settings.get("steps"))
    text = f"step {progress.steps_done} of {progress.steps or '?'}"
    left = progress.seconds_left()
    return f"{text}, about {left / 60:.0f} min left" if job.state == "running" and left is not None else text


def _job_change(args, settings: Settings) -> int:
    jobs = Jobs(settings.runs_dir)
    {"stop": jobs.stop, "resume": jobs.resume, "delete": jobs.delete}[args.action](args.id)
    jobs.tick()
    print(f"{args.id}: {'deleted' if args.action == 'delete' else jobs.get(args.id).state}")
    return 0


def _job_logs(args, settings: Settings) -> int:
    jobs = Jobs(settings.runs_dir)
    jobs.get(args.id)
    print(tail(jobs.folder(args.id) / OUTPUT, args.lines))
    return 0


def _job_run(args, settings: Settings) -> int:
    from gistdemo.jobs.runner import run_job

    _log_to_stderr()
    return run_job(args.folder, Jobs(args.folder.parent), settings)
