"""The command line: parses, calls one library function, prints. A module per command; heavy imports happen inside the command
that needs them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from gistdemo import __version__
from gistdemo.cli import checkpoints, compare, evaluate, jobs, train
from gistdemo.errors import GistDemoError, one_line
from gistdemo.settings import Settings


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
    for part in (compare, train, evaluate, checkpoints, jobs):
        part.add(commands)
    return parser
