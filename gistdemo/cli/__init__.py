"""The command line: parses, calls one library function, prints. A module per command; heavy imports happen inside the command
that needs them.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gistdemo import __version__
from gistdemo.cli import app, bench, checkpoints, compare, evaluate, jobs, judge, train
from gistdemo.errors import GistDemoError, one_line
from gistdemo.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after an error (one line on stderr), or 130 when interrupted."""
    if platform.system() == "Windows":  # no fork, no POSIX signals, no `resource`
        print("gistdemo: Windows is not supported; allowed are Linux and macOS. Run gistdemo inside WSL 2.", file=sys.stderr)
        return 2
    args = build_parser().parse_args(arguments)
    level = logging.DEBUG if args.verbose else args.log_level
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run: Callable[[argparse.Namespace, Settings], int] = args.command
    try:
        return run(args, Settings.from_env())
    except GistDemoError as error:
        print(f"gistdemo: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gistdemo: stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. What it returns for one has `command`, a function of the arguments and the settings."""
    installed = Path(sys.argv[0]).stem == "gistdemo"
    parser = argparse.ArgumentParser(
        prog="gistdemo" if installed else "python -m gistdemo",
        description="Compare full, gist and truncated prompts; train gist checkpoints.",
    )
    parser.add_argument("--version", action="version", version=f"gistdemo {__version__}")
    parser.add_argument("--verbose", action="store_true", help="print the log, tracebacks included")
    parser.set_defaults(log_level=logging.WARNING)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for part in (app, compare, train, evaluate, judge, checkpoints, jobs, bench):
        part.add(commands)
    return parser
