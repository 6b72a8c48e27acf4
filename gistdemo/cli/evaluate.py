"""`gistdemo eval`: many rows, several conditions, one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from gistdemo.checkpoint.registry import EVALUATION_FILE, find_row, list_rows
from gistdemo.cli.output import Commands, tell_queued
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import UsageError
from gistdemo.generation import Precision
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings

if TYPE_CHECKING:
    from gistdemo.results.evaluation import Results


def add(commands: Commands) -> None:
    p = commands.add_parser("eval", help="answer many rows under several conditions; score, flag and sum up")
    p.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME",
        help="checkpoint, or a backbone as it is (embedded model, hub id, folder); repeat for several (default: all checkpoints)",
    )
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
    p.add_argument("--no-judge", dest="judge", action="store_false", help="do not ask whether answers are about what was asked")
    p.add_argument("--precision", choices=get_args(Precision), default="exact", help="of the answers on a CPU (default: %(default)s)")
    p.add_argument("--keep", action="store_true", help="keep each checkpoint's figures beside it, as evaluation.json")
    p.set_defaults(command=_eval)


def _eval(args: argparse.Namespace, settings: Settings) -> int:
    from gistdemo.evaluate.request import EvaluationRequest
    from gistdemo.results.evaluation import keep_beside

    try:
        ks = tuple(int(part) for part in args.k.split(","))
    except ValueError as error:
        raise UsageError(f"--k is '{args.k}'; whole numbers separated by commas are needed, such as 1,4.") from error
    usable = [row.name for row in list_rows(settings) if row.has_gist]
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
        args.precision,
        args.judge,
    )
    services = Services(settings)
    if args.queue:
        return tell_queued(services.start_evaluation(request, args.title, LOCAL))
    results = services.evaluate(request, args.out, args.title, LOCAL)
    for name in request.checkpoints if args.keep else ():
        row = find_row(name, settings)
        if row.entry and row.manifest:
            keep_beside(results, row.manifest.name, row.entry.folder / EVALUATION_FILE)
    _print_results(results, bool(request.conditions))
    return 0


def _print_results(results: Results, answered: bool) -> None:
    from gistdemo.present.markdown import flags_table

    seen = f", {results['rows_trained_on']} of them TRAINED ON" if results["rows_trained_on"] else ""
    names = ", ".join(results["request"]["checkpoints"])
    print(f"{names}: {results['rows']} rows of {results['request']['data']}{seen}\n\n{flags_table(results) if answered else ''}")
    for name, targets in results["recovery"].items():
        for target, figures in targets.items():
            parts = [f"k={k} {_number(row['recovery'])} (swapped {_number(row['swapped'])})" for k, row in figures["by_k"].items()]
            print(f"\nrecovery of {name}, {target}, {figures['rows']} rows{seen}: {', '.join(parts)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
