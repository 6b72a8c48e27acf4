"""The earlier experiment, run again as it was meant: one command trains, evaluates and prints its figures beside ours.

    python scripts/earlier_experiment.py --data DATA/train.jsonl --validation DATA/validation_unseen.jsonl --out results/earlier [--keep]

Its settings (assets/recipes/earlier-experiment.json): one gist vector on a frozen model, 2,000 rows twice, learning rate 2e-5; then 200
rows under its three conditions, greedy, 128 tokens at most. OUT gets its three files (metrics.json, eval_results.json,
sample_outputs.json) beside ours. --backbone smollm2-135m-instruct is the next step that it announced. --keep puts the first two where
the app and scripts/rebuild.py find them; the third holds Alpaca rows and stays. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gistdemo.cli.output import log_to_stderr
from gistdemo.errors import GistDemoError, one_line
from gistdemo.evaluate.request import EvaluationRequest, model_name
from gistdemo.evaluate.run import evaluate
from gistdemo.files import read, write_json
from gistdemo.model.embedded import GEMMA
from gistdemo.results.evaluation import RESULTS_FILE, read_results
from gistdemo.results.references import EARLIER_LOSS, EARLIER_ROUGE, EARLIER_TOKENS
from gistdemo.settings import Settings
from gistdemo.train.presets import read_recipe, with_preset
from gistdemo.train.run import train

NAME, METRICS_FILE = "earlier-experiment", "metrics.json"
NOTE = "The checkpoint '{}' does not come with the app: scripts/recipes/earlier-experiment.sh makes it."


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="Alpaca rows to train on")
    p.add_argument("--validation", required=True, help="Alpaca rows to measure on")
    p.add_argument("--out", required=True, type=Path, help="folder of run, checkpoint and results")
    p.add_argument("--backbone", default="gemma-3-270m")
    p.add_argument("--rows", type=int, default=200)
    p.add_argument("--keep", action="store_true", help="keep the figures in assets/evaluations")
    args = p.parse_args()
    log_to_stderr()
    try:
        run(args)
        print("\n".join(table([args.out])))
    except GistDemoError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Train, evaluate, write the files."""
    settings = Settings.from_env()
    name = NAME if args.backbone == GEMMA.name else f"{NAME}-{model_name(args.backbone)}"
    given = {"name": name, "backbone": args.backbone, "data": args.data, "validation": args.validation}
    config = with_preset("", read_recipe(NAME, settings) | given)
    folder = args.out / name
    if not (folder / "manifest.json").is_file():
        train(config, args.out / "run", settings, folder)
    request = EvaluationRequest((str(folder),), args.validation, args.rows, 0, ("full", "gist", "truncated"), (1,), 128)
    evaluate(request, args.out, settings, f"The earlier experiment's settings on {config.backbone}")
    metrics = json.loads((args.out / "run" / METRICS_FILE).read_text(encoding="utf-8"))
    write_json(args.out / METRICS_FILE, metrics | {"epoch_losses": epoch_losses(args.out / "run" / "metrics.jsonl")})
    if args.keep:
        kept = settings.assets_dir / "evaluations" / name
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(args.out / METRICS_FILE, kept)
        write_json(kept / RESULTS_FILE, {**read_results(args.out).results, "notes": [NOTE.format(name)]})


def epoch_losses(path: Path) -> list[float]:
    """Mean training loss of the first and the second half of the steps: its two epochs."""
    losses = [line["loss"] for line in read(path) if "loss" in line]
    return [fmean(losses[: len(losses) // 2]), fmean(losses[len(losses) // 2 :])]


def table(folders: Sequence[Path]) -> list[str]:
    """Its figures beside ours, as a Markdown table: a column per folder with metrics.json and eval_results.json."""
    ours = [(read_results(folder).results, json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))) for folder in folders]
    found = [{entry["condition"]: entry for entry in results["answers"]} for results, _ in ours]
    lines = ["| | earlier experiment: Llama-3.1-8B |" + "".join(f" here: {metrics['model_id']} |" for _, metrics in ours)]
    lines.append("| --- |" + " --- |" * (1 + len(ours)))

    def line(name: str, theirs: str, mine: Iterable[str]) -> None:
        lines.append(f"| {' | '.join([name, theirs, *mine])} |")

    line("mean training loss, epoch 1 → 2", _arrow(EARLIER_LOSS, 3), (_arrow(metrics["epoch_losses"], 3) for _, metrics in ours))
    for condition, score in EARLIER_ROUGE.items():
        line(f"ROUGE-L (0 to 1), {condition}", f"{score:.4f}", (f"{e[condition]['scores']['rougeL']['mean'] / 100:.4f}" for e in found))
    line(
        "prompt tokens, full → gist",
        _arrow(EARLIER_TOKENS, 1),
        (_arrow([e[c]["prompt_tokens"] for c in ("full", "gist")], 1) for e in found),
    )
    for condition in EARLIER_ROUGE:
        line(
            f"degenerate, {condition}",
            "not counted",
            (f"{100 * e[condition]['verdicts']['degenerate'] / e[condition]['n']:.0f} %" for e in found),
        )
    blind = (f"{e['gist']['instruction_blind']} of {e['gist']['n']}" for e in found)
    line("gist answers that are equal although the instructions differ", "7 of 7 published without input", blind)
    recovery = (next(iter(results["recovery"].values()))["references"]["by_k"]["1"] for results, _ in ours)
    line("recovery of the gist (another row's)", "not measured", (f"{r['recovery']:.2f} ({r['swapped']:.2f})" for r in recovery))
    return lines


def _arrow(values: Sequence[float], digits: int) -> str:
    return " → ".join(f"{value:.{digits}f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
