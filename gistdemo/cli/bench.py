"""`gistdemo bench`: how fast this machine answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gistdemo.cli.output import Commands
from gistdemo.files import write_json
from gistdemo.settings import Settings


def add(commands: Commands) -> None:
    p = commands.add_parser("bench", help="time the grid against one generate call per cell")
    p.add_argument("--quick", action="store_true", help="one round of 16 tokens, to see that it runs; its figures mean little")
    p.add_argument("--tokens", type=int, default=64, help="answer length (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=3, help="medians are of so many rounds (default: %(default)s)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    p.set_defaults(command=_bench)


def _bench(args: argparse.Namespace, settings: Settings) -> int:
    from gistdemo.bench import machine, measure, table
    from gistdemo.memory import keep_freed_memory

    keep_freed_memory()
    tokens, rounds = (16, 1) if args.quick else (args.tokens, args.rounds)
    lines = measure(settings, tokens, rounds, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{machine()}; {tokens} tokens, greedy, median of {rounds}\n\n{table(lines)}")
    if args.json:
        record = {"machine": machine(), "tokens": tokens, "rounds": rounds, "lines": [line.record() for line in lines]}
        write_json(args.json, record)
    return 0
