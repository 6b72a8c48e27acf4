"""The earlier experiment, run again as it was meant: one command trains, evaluates and prints its figures beside ours.

    python scripts/earlier_experiment.py --data DATA/train.jsonl --validation DATA/validation_unseen.jsonl --out results/earlier

Its settings (assets/recipes/earlier-experiment.json): one gist vector on a frozen model, 2,000 rows twice, learning rate 2e-5; then 200
rows under its three conditions, greedy, 128 tokens at most. OUT gets its three files (metrics.json, eval_results.json,
sample_outputs.json) beside ours. --backbone smollm2-135m-instruct is the next step that it announced. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gistdemo.cli.output import log_to_stderr
from gistdemo.errors import GistDemoError, one_line
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.evaluate.run import evaluate
from gistdemo.results.references import EARLIER_RUN
from gistdemo.settings import Settings
from gistdemo.train.presets import read_recipe, with_preset
from gistdemo.train.run import train


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="Alpaca rows to train on")
    p.add_argument("--validation", required=True, help="Alpaca rows to measure on")
    p.add_argument("--out", required=True, type=Path, help="folder of run, checkpoint and results")
    p.add_argument("--backbone", default="gemma-3-270m")
    p.add_argument("--rows", type=int, default=200)
    args = p.parse_args()
    log_to_stderr()
    try:
        print(table(run(args), args.out))
    except GistDemoError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> dict:
    """Train and evaluate; returns the results of the evaluation."""
    settings = Settings.from_env()
    name = "earlier-experiment" if args.backbone == "gemma-3-270m" else f"earlier-experiment-{args.backbone.rsplit('/', 1)[-1]}"
    given = {"name": name, "backbone": args.backbone, "data": args.data, "validation": args.validation}
    config = with_preset("", read_recipe("earlier-experiment", settings) | given)
    folder = args.out / name
    if not (folder / "manifest.json").is_file():
        train(config, args.out / "run", settings, folder)
    request = EvaluationRequest((str(folder),), args.validation, args.rows, 0, ("full", "gist", "truncated"), (1,), 128)
    results = evaluate(request, args.out, settings, f"The earlier experiment's settings on {args.backbone}")
    shutil.copy(args.out / "run" / "metrics.json", args.out / "metrics.json")
    return results


def epoch_losses(run: Path) -> list[float]:
    """Mean training loss of the first and the second half of the steps: its two epochs."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    return [fmean(losses[: len(losses) // 2]), fmean(losses[len(losses) // 2 :])]


def table(results: dict, out: Path) -> str:
    """Its figures beside ours, as a Markdown table."""
    ours = {entry["condition"]: entry for entry in results["answers"]}
    first, second = epoch_losses(out / "run")
    lines = ["| | earlier experiment | here |", "| --- | --- | --- |"]
    lines.append(
        f"| training loss, epoch 1 -> 2 | {EARLIER_RUN['loss'][0]:.3f} -> {EARLIER_RUN['loss'][1]:.3f} | {first:.3f} -> {second:.3f} |"
    )
    for condition in ("full", "gist", "truncated"):
        entry = ours[condition]
        verdicts = ", ".join(f"{100 * entry['verdicts'][v] / entry['n']:.0f} % {v}" for v in ("healthy", "degenerate"))
        lines.append(
            f"| ROUGE-L (0 to 1), {condition} | {EARLIER_RUN['rougeL'][condition]:.4f} | {entry['rougeL'] / 100:.4f} ({verdicts}) |"
        )
    shown = [f"{ours[c]['prompt_tokens']:.1f}" for c in ("full", "gist")]
    lines.append(f"| prompt tokens, full -> gist | {EARLIER_RUN['tokens'][0]} -> {EARLIER_RUN['tokens'][1]} | {shown[0]} -> {shown[1]} |")
    blind = {c: ours[c]["instruction_blind"] for c in ("full", "gist", "truncated")}
    same = ", ".join(f"{condition} {count}" for condition, count in blind.items())
    lines.append(f"| answers equal although instructions differ | 7 of 7 shown without input (gist) | {same} of {results['rows']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
