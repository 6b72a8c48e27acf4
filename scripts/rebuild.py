"""Make anew what is derived from the checkpoints: the evaluations that come with the app, docs/FIGURES.md, the tables of README and About.

    python scripts/rebuild.py --data DATA [--work WORK] [--only embedded-examples] [--checkpoint NAME]
                                measure, then write; an interrupted run goes on. NAME: measure this one, keep what is known of the others
    python scripts/rebuild.py --judge   judge the answers that come with the app anew, then write
    python scripts/rebuild.py   write from the evaluations that are there

This is the second half: `scripts/recipes/NAME.sh DATA` trains a checkpoint, this makes anew what is derived from all of them.
DATA: folder with Alpaca rows, train.jsonl and validation_unseen.jsonl. Of their evaluations only the figures are shipped; the answers to the
embedded examples come with the app. WORK (default: runs/rebuild) keeps what was answered so far.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import earlier_experiment

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import EVALUATION_FILE, find_row, list_checkpoints
from gistdemo.cli.output import log_to_stderr
from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.answers import TIMINGS_FILE, without_timings
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.evaluate.run import evaluate
from gistdemo.evaluate.tasks import judge_answers
from gistdemo.files import read, write_json, write_lines
from gistdemo.judge.judge import load_judge
from gistdemo.metrics import MAIN
from gistdemo.present.entries import mean_of
from gistdemo.present.markdown import markdown_table
from gistdemo.prompts import Example
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, judged
from gistdemo.results.evaluation import RESULTS_FILE, Results, find_evaluations, keep_beside, read_results
from gistdemo.results.summary import Entry, summarise
from gistdemo.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ("base", "instruct-embeddings", "base-joint", "instruct")
KS = (1, 2, 4, 8, 16)
ALL = tuple(CONDITIONS)
TARGETS = {"references": "reference answers", "own_answers": "its own full-prompt answers"}
FIGURES_HEAD = """# All figures

Written by `python scripts/rebuild.py` from `assets/evaluations/` and `checkpoints/`; do not edit. Each table names the command that measured it; DATA is a
folder with Alpaca rows. Machine: two CPU cores, fp32. What to read from them: README.md and the About tab.
"""
RECOVERY_NOTE = (
    "In brackets the control, another row's gist: near 0 it tells nothing about the row, below 0 it misleads, and a value as high as the recovery "
    "itself means that the vectors learnt how answers sound and hardly what was asked. Above 1: part of what was learnt is how such answers sound."
)


@dataclass(frozen=True)
class Shipped:
    """An evaluation that comes with the app. with_answers: rows and answers too, not only what they add up to."""

    id: str
    title: str
    request: EvaluationRequest
    with_answers: bool


def shipped(data: Path) -> tuple[Shipped, ...]:
    """What is measured. data: folder with Alpaca rows."""
    unseen, own = str(data / "validation_unseen.jsonl"), "assets/examples.jsonl"
    return (
        Shipped(
            "alpaca-unseen-200", "200 unseen Alpaca rows", EvaluationRequest(CHECKPOINTS, unseen, 200, 0, ALL, KS, recovery=False), False
        ),
        Shipped("embedded-examples", "The embedded examples", EvaluationRequest(CHECKPOINTS, own, 0, 0, ALL, (4,), recovery=False), True),
    )


def measure(one: Shipped, work: Path, settings: Settings, checkpoint: str | None) -> None:
    """Evaluate, or go on with it, and put the result where the app finds it and beside the checkpoints."""
    request = replace(one.request, checkpoints=(checkpoint,)) if checkpoint else one.request
    folder, place = work / "-".join((one.id, *([checkpoint] if checkpoint else []))), settings.assets_dir / "evaluations" / one.id
    results = evaluate(request, folder, settings, one.title)
    place.mkdir(parents=True, exist_ok=True)
    if checkpoint:
        put_in_place(folder, place, checkpoint, one.with_answers)
    else:
        for name in (RESULTS_FILE, *((ROWS_FILE, TIMINGS_FILE, EXAMPLES_FILE) if one.with_answers else ())):
            shutil.copy(folder / name, place / name)
    if not one.with_answers:
        for name in request.checkpoints:
            keep_beside(results, name, find_row(name, settings).entry.folder / EVALUATION_FILE)


def judge_shipped(settings: Settings, work: Path) -> None:
    """The second judgement of answers that come with the app, anew; the answers stay as they are."""
    place = settings.assets_dir / "evaluations" / "embedded-examples"
    before, judge = read_results(place), load_judge(ModelPool(settings), settings)
    if judge is None or not judge.is_at_hand():
        raise SystemExit("There is no judge here: scripts/calibrate_judge.py makes one.")
    examples, folder = [Example(**row) for row in before.examples()], work / "judged"
    folder.mkdir(parents=True, exist_ok=True)
    answers = [answer | timing for answer, timing in zip(before.rows(), read(place / TIMINGS_FILE), strict=True)]
    found = judged(answers, examples, judge_answers(judge, answers, examples, folder))
    order = {(e["checkpoint"], e["condition"], e["k"]): n for n, e in enumerate(before.results["answers"])}
    entries = sorted(summarise(found, examples), key=lambda e: order[e["checkpoint"], e["condition"], e["k"]])
    write_lines(place / ROWS_FILE, map(without_timings, found))
    write_json(place / RESULTS_FILE, {**before.results, "answers": entries})


def put_in_place(source: Path, place: Path, name: str, with_answers: bool) -> None:
    """Put what was measured of one checkpoint into the evaluation that is shipped, in place of what stood there."""
    before, fresh = read_results(place), read_results(source)
    if before.results["digest"] != fresh.results["digest"]:
        raise SystemExit(f"{place.name} was measured on other rows than these; measure all checkpoints.")
    entries = [e for e in before.results["answers"] if e["checkpoint"] != name] + fresh.results["answers"]
    entries.sort(key=lambda entry: CHECKPOINTS.index(entry["checkpoint"]))
    kept = {key: fresh.results[key] for key in ("format", "created", "versions")}
    if with_answers:
        old, new = (list(zip(e.rows(), read(e.folder / TIMINGS_FILE), strict=True)) for e in (before, fresh))
        found = [pair for pair in old if pair[0]["checkpoint"] != name] + new
        found.sort(key=lambda pair: CHECKPOINTS.index(pair[0]["checkpoint"]))
        write_lines(place / ROWS_FILE, (answer for answer, _ in found))
        write_lines(place / TIMINGS_FILE, (timing for _, timing in found))
    write_json(place / RESULTS_FILE, {**before.results, **kept, "answers": entries, "seconds": None})


# --- what is written ------------------------------------------------------------------------------------------------------


def figures_page(settings: Settings) -> str:
    """docs/FIGURES.md."""
    parts = [FIGURES_HEAD, "## Recovery at the end of training\n", *recovery_table(settings), "", RECOVERY_NOTE, ""]
    for evaluation in sorted(find_evaluations([settings.assets_dir / "evaluations"]), key=lambda e: e.id):
        parts += [f"## {evaluation.title}\n", markdown_table(evaluation.results)]
    return "\n".join(parts).rstrip() + "\n"


def recovery_table(settings: Settings) -> list[str]:
    """One line per checkpoint and kind of answers, as kept in its manifest."""
    lines = [f"| recovery | {' | '.join(f'k={k}' for k in KS)} |", "| --- |" + " --- |" * len(KS)]
    for entry in list_checkpoints((settings.shipped_checkpoints_dir,)):
        for target, title in TARGETS.items():
            by_k = entry.manifest.recovery[target]["by_k"]
            cells = [f"{by_k[str(k)]['recovery']:.2f} ({by_k[str(k)]['swapped']:.2f})" for k in KS]
            lines.append(f"| `{entry.name}`, {title} | {' | '.join(cells)} |")
    return lines


def figures_block(settings: Settings) -> str:
    """The tables of README and of the About tab."""
    unseen, examples = (
        read_results(settings.assets_dir / "evaluations" / name).results for name in ("alpaca-unseen-200", "embedded-examples")
    )
    return "\n".join(
        [
            f"{MAIN.label} on {unseen['rows']} Alpaca rows whose instructions were not trained on (greedy, 64 tokens at most, k = 4), and the share of "
            "degenerate answers; intervals, all k and recovery: the **Evaluate** and **Checkpoints** tabs, and `docs/FIGURES.md`.",
            "",
            *score_table(unseen, settings),
            "",
            *_command(unseen),
            f"Verdicts on all {examples['rows']} embedded examples, whose answers come with the app:",
            "",
            *verdict_table(examples),
        ]
    )


def score_table(results: Results, settings: Settings) -> list[str]:
    """`MAIN` score by checkpoint and condition at k = 4."""
    titles = {entry.name: entry.manifest.title for entry in list_checkpoints((settings.shipped_checkpoints_dir,))}
    rows: dict[str, dict[str, Entry]] = {}
    for entry in results["answers"]:
        if entry["k"] in (0, 4):
            rows.setdefault(entry["checkpoint"], {})[entry["condition"]] = entry
    shown = ("full", "gist", "truncated", "none", "blind")
    lines = [f"| n = {results['rows']} | {' | '.join(CONDITIONS[name].title.lower() for name in shown)} | degenerate, full / gist |"]
    lines.append("| --- |" + " --- |" * (len(shown) + 1))
    for name, found in rows.items():
        bad = " / ".join(_share(found[condition], "degenerate") for condition in ("full", "gist"))
        scores = " | ".join(mean_of(found[condition], MAIN.name).text for condition in shown)
        lines.append(f"| {titles.get(name, name)} | {scores} | {bad} |")
    return lines


def earlier_block(settings: Settings) -> str:
    """The earlier experiment's figures beside those of its settings run again (scripts/earlier_experiment.py)."""
    parent = settings.assets_dir / "evaluations"
    return "\n".join(earlier_experiment.table(sorted(parent.glob(f"{earlier_experiment.NAME}*"))))


def verdict_table(results: Results) -> list[str]:
    """Healthy and degenerate answers, and those on task, counted, by checkpoint and condition."""
    names = list(dict.fromkeys(entry["condition"] for entry in results["answers"]))
    lines = [
        f"| healthy / degenerate / **on task** of {results['rows']} | {' | '.join(CONDITIONS[name].title.lower() for name in names)} |"
    ]
    lines.append("| --- |" + " --- |" * len(names))
    for checkpoint in dict.fromkeys(entry["checkpoint"] for entry in results["answers"]):
        found = {e["condition"]: e for e in results["answers"] if e["checkpoint"] == checkpoint}
        lines.append(f"| `{checkpoint}` | {' | '.join(map(_counts, (found[name] for name in names)))} |")
    return lines


def _counts(entry: Entry) -> str:
    on_task = entry["tasks"].get("on task", 0) if entry["tasks"] else "-"
    return f"{entry['verdicts']['healthy']} / {entry['verdicts']['degenerate']} / **{on_task}**"


def _share(entry: Entry, verdict: str) -> str:
    return f"{100 * entry['verdicts'][verdict] / entry['n']:.1f} %"


def _command(results: Results) -> Sequence[str]:
    return ("```sh", results["command"].replace("--data validation", "--data DATA/validation"), "```", "")


def replace_block(path: Path, name: str, text: str) -> None:
    """Put a text between <!-- NAME --> and <!-- /NAME --> of a Markdown file."""
    before = path.read_text(encoding="utf-8")
    after, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: f"{m[1]}{text}\n{m[2]}", before, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{path.name} has {count} places <!-- {name} --> ... <!-- /{name} -->; exactly one is needed.")
    path.write_text(after, encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with Alpaca rows; without it nothing is measured")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "rebuild", help="folder that keeps what was answered so far")
    parser.add_argument("--only", help="measure this evaluation only")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, help="measure this checkpoint only")
    parser.add_argument("--judge", action="store_true", help="judge the shipped answers anew, whether they are about what was asked")
    args = parser.parse_args(None if arguments is None else list(arguments))
    log_to_stderr()
    settings = Settings.from_env()
    if args.judge:
        judge_shipped(settings, args.work)
    for one in shipped(args.data) if args.data else ():
        if args.only in (None, one.id):
            measure(one, args.work, settings, args.checkpoint)
    (ROOT / "docs" / "FIGURES.md").write_text(figures_page(settings), encoding="utf-8")
    for text in (ROOT / "README.md", settings.assets_dir / "about.md"):
        replace_block(text, "figures", figures_block(settings))
        replace_block(text, "earlier", earlier_block(settings))


if __name__ == "__main__":
    main()
