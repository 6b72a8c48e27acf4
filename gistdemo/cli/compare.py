"""`gistdemo compare`: one instruction under every condition, printed."""

from __future__ import annotations

import argparse
import json
import sys
from typing import get_args

from gistdemo.cli.output import Commands
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.generation import LIVE, Precision, Sampling
from gistdemo.grid import Cell, CompareRequest
from gistdemo.metrics import SCORES
from gistdemo.prompts import Example
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings


def add(commands: Commands) -> None:
    p = commands.add_parser("compare", help="answer one instruction under every condition, as the Compare tab does")
    p.add_argument("instruction", help="what the model should do")
    p.add_argument("--input", default="", help="text the instruction works on")
    p.add_argument("--reference", default="", help="a reference answer, for scores")
    p.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME",
        help="checkpoint, or a backbone as it is (embedded model, hub id, folder); repeat for several (default: all checkpoints)",
    )
    p.add_argument(
        "--conditions", default=",".join(DEFAULT_CONDITIONS), help=f"comma-separated, of {', '.join(CONDITIONS)} (default: %(default)s)"
    )
    p.add_argument("--k", type=int, default=4, help="gist tokens, and the budget of `truncated` (default: %(default)s)")
    p.add_argument("--max-new-tokens", type=int, default=128, help="answer limit (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    p.add_argument("--top-p", type=float, default=1.0, help="nucleus (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="seed of every row's own generator (default: %(default)s)")
    p.add_argument("--precision", choices=get_args(Precision), default=LIVE, help="of what a CPU computes (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the comparison as JSON")
    p.set_defaults(command=_compare)


def _compare(args: argparse.Namespace, settings: Settings) -> int:
    services = Services(settings)
    names = args.checkpoint or [row.name for row in services.rows() if row.has_gist]
    models = {name: services.row(name, LOCAL).described() for name in names}  # a wrong name is one message here, not one per cell
    request = CompareRequest(
        Example(args.instruction, args.input, args.reference),
        tuple(names),
        tuple(c.strip() for c in args.conditions.split(",") if c.strip()),
        args.k,
        Sampling(args.max_new_tokens, args.temperature, args.top_p, args.seed, args.precision),
    )
    cells: tuple[Cell, ...] = ()
    shown = ""
    for snapshot in services.compare(request, LOCAL):
        cells = snapshot.cells
        if snapshot.fraction is not None and snapshot.message != shown:
            shown = snapshot.message
            print(f"{snapshot.fraction:4.0%} {shown}", file=sys.stderr)
    if args.json:
        print(json.dumps(request.record(cells, models), ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(_cell_text(cell) for cell in cells))
    return 2 if all(cell.error for cell in cells) else 0


def _cell_text(cell: Cell) -> str:
    head = f"== {cell.checkpoint} / {cell.condition}"
    if cell.error:
        return f"{head}: error\n{cell.error}"
    if cell.note or cell.diagnosis is None or cell.kv_bytes is None:
        return f"{head}: nothing to show\n{cell.note or 'No token was generated.'}"
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
    numbers += [f"{SCORES[name].label} {score:.1f}" for name, score in cell.scores.items()]
    flags = [
        f"  {flag.severity}: {flag.name.replace('_', ' ')}: {flag.evidence}" for flag in (*cell.diagnosis.flags, *cell.diagnosis.facts)
    ]
    task = f", {cell.diagnosis.task.verdict}" if cell.diagnosis.task else ""
    return "\n".join([f"{head}: {cell.diagnosis.verdict}{task}", "  " + ", ".join(numbers), *flags, cell.text])
