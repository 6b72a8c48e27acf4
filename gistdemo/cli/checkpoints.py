"""`gistdemo checkpoints`: list them with their health; export, import, delete one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.registry import list_checkpoints
from gistdemo.cli.output import Commands
from gistdemo.errors import UsageError
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings
from gistdemo.train.modes import MODES

SHOWN_K = 4  # where one budget has to stand for all
MODE_WIDTH = max(map(len, MODES))


def add(commands: Commands) -> None:
    p = commands.add_parser("checkpoints", help="list gist checkpoints with their health")
    p.add_argument("--json", action="store_true", help="print the manifests as JSON")
    p.set_defaults(command=_checkpoints)
    actions = p.add_subparsers(metavar="ACTION", title="actions (none: list)")
    export = actions.add_parser("export", help="write a checkpoint as NAME.zip")
    export.add_argument("name")
    export.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="folder to write into (default: here)")
    export.set_defaults(command=_export)
    taking = actions.add_parser("import", help="take a checkpoint in from a zip")
    taking.add_argument("file", type=Path)
    taking.set_defaults(command=_import)
    deleting = actions.add_parser("delete", help="remove a checkpoint that was made or imported here")
    deleting.add_argument("name")
    deleting.set_defaults(command=_delete)


def _checkpoints(args: argparse.Namespace, settings: Settings) -> int:
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
        budget = f"k 1..{m.max_k}"
        print(
            f"{entry.name:<16} ok      {m.mode:<{MODE_WIDTH}} {budget:<8} on {m.backbone}"
            f"{_recovery_text(entry.recovery())}{_verdicts_text(entry.evaluation())}"
        )
    if not entries:
        print("No checkpoint found in " + ", ".join(str(folder) for folder in settings.checkpoint_dirs))
    return 0


def _export(args: argparse.Namespace, settings: Settings) -> int:
    if not args.out.is_dir():
        raise UsageError(f"'{args.out}' is not a folder. Give one that exists with --out.")
    print(Services(settings).pack_checkpoint(args.name, args.out))
    return 0


def _import(args: argparse.Namespace, settings: Settings) -> int:
    print(Services(settings).import_checkpoint(args.file, LOCAL))
    return 0


def _delete(args: argparse.Namespace, settings: Settings) -> int:
    Services(settings).delete_checkpoint(args.name, LOCAL)
    print(f"{args.name}: deleted")
    return 0


def _recovery_text(recovery: dict[str, Any]) -> str:
    """One line per kind of answers: recovery of each k with its control, from the manifest; empty when there is none."""
    lines = ""
    for target in ("references", "own_answers"):
        try:
            by_k = recovery[target]["by_k"]
            parts = [
                f"k={k} {row['recovery']:.2f} (swapped {row['swapped']:.2f})" for k, row in by_k.items() if row["recovery"] is not None
            ]
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):  # a note of the trainer; others may write others
            continue
        lines += f"\n{'':<25}recovery on {target.replace('_', ' ')}: {', '.join(parts)}" if parts else ""
    return lines


def _verdicts_text(evaluation: dict[str, Any] | None) -> str:
    """One line: share of degenerate answers per condition, from the evaluation kept beside a checkpoint; empty when there is none."""
    if evaluation is None:
        return ""
    try:
        parts = [
            f"{e['condition']}{' k=' + str(e['k']) if e['k'] else ''} {100 * e['verdicts']['degenerate'] / e['n']:.0f} %"
            for e in evaluation["answers"]
            if e["k"] in (0, SHOWN_K)
        ]
        return f"\n{'':<25}degenerate of {evaluation['rows']} rows: {', '.join(parts)}"
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return ""
