"""`gistdemo bench`: how fast this machine answers."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from gistdemo.cli.output import Commands
from gistdemo.files import write_json
from gistdemo.settings import Settings


def add(commands: Commands) -> None:
    p = commands.add_parser("bench", help="time the engine against what one would do without it")
    p.add_argument("--quick", action="store_true", help="one round of 16 tokens, to see that it runs; its figures mean little")
    p.add_argument("--tokens", type=int, default=64, help="answer length (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=3, help="medians are of so many rounds (default: %(default)s)")
    p.add_argument("--only", default="", metavar="NAMES", help="of cells, visitors, long, evaluation, memory; separated by commas")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    p.add_argument("--page", type=Path, metavar="FILE", help="put the table into a Markdown file, such as docs/PERFORMANCE.md")
    p.set_defaults(command=_bench)


def _bench(args: argparse.Namespace, settings: Settings) -> int:
    from gistdemo.bench.figure import table
    from gistdemo.bench.run import machine, measure, put_into
    from gistdemo.memory import keep_freed_memory

    keep_freed_memory()
    tokens, rounds = (16, 1) if args.quick else (args.tokens, args.rounds)
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    figures = measure(settings, tokens, rounds, lambda text: print(text, file=sys.stderr, flush=True), only)
    heading = f"{machine()}; {tokens} tokens, greedy, median of {rounds}"
    print(f"{heading}\n\n{table(figures)}")
    if args.json:
        record = {
            "machine": machine(),
            "tokens": tokens,
            "rounds": rounds,
            "figures": [asdict(f) | {"reached": f.is_reached} for f in figures],
        }
        write_json(args.json, record)
    if args.page:
        put_into(args.page, heading, figures)
    return 0
