"""Bounds of the second judgement, and how often it errs on rows that neither bounds nor judge have seen.

    python scripts/calibrate_judge.py --calibrate DATA/validation_seen.jsonl --check DATA/validation_unseen.jsonl --held-out DATA/train.jsonl

Every row's reference answer, and as an answer to another question the reference of another row of more than three words. Bounds come from
--calibrate; --check and, of --held-out, the rows that no shipped checkpoint was trained on say how good they are. Writes assets/judge.json, and into
docs/METHOD.md the table and docs/judge.svg. --dry-run: bounds as they are, nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.data.alpaca import instruction_mark, read_marks, read_rows, rows_digest
from gistdemo.errors import PromptError
from gistdemo.files import write_json, write_text
from gistdemo.judge.calibration import Calibration, digest_of
from gistdemo.judge.judge import Judge
from gistdemo.memory import keep_freed_memory
from gistdemo.metrics.task import SHORT, TASK_VERDICTS, Bounds, Likelihoods, judge_task
from gistdemo.prompts import Example
from gistdemo.settings import PROJECT_DIR, Settings

CHECKPOINT, PRECISION, TOKENS, VOCABULARY, INPUT_CHARACTERS = "base-joint", "fast", 23, 32_768, 1200
INSTRUCTIONS, PROMPTS = (35, 109, 117, 136, 153), (1, 107, 145, 153, 161)  # numbers of embedded examples
LEAST_WORDS = 4  # of an answer to another question: shorter ones answer many
REFERENCES_OFF, SWAPPED_ON = 0.01, 0.025  # shares that the bounds leave on the wrong side of --calibrate
INSTRUCTION_OFF, INSTRUCTION_UNSURE = 0.01, 0.05  # of references with input


@dataclass(frozen=True)
class Pair:
    """What the judge finds of a row's own reference, and of another row's."""

    has_input: bool
    own: Likelihoods
    other: Likelihoods


def measure(judge: Judge, examples: list[Example], name: str, work: Path) -> list[Pair]:
    """work: folder that keeps what was measured with these prompts."""
    key = hashlib.sha256(repr((replace(judge.calibration, bounds=()), rows_digest(examples))).encode()).hexdigest()[:16]
    kept = work / f"{key}.json"
    if kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return [Pair(one["has_input"], Likelihoods(**one["own"]), Likelihoods(**one["other"])) for one in found]
    drawn, pairs = random.Random(0), []
    long = [e for e in examples if len(e.output.split()) >= LEAST_WORDS]
    for number, example in enumerate(examples):
        other = next(e for e in iter(lambda: drawn.choice(long), None) if e.instruction != example.instruction)
        try:
            pairs.append(Pair(bool(example.input), *(judge.reader.likelihoods(example, text) for text in (example.output, other.output))))
        except PromptError as error:
            print(f"{name}, row {number + 1} left out: {error}")
        if number % 100 == 99:
            print(f"{name}: {number + 1} of {len(examples)}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    write_json(kept, [asdict(pair) for pair in pairs])
    return pairs


def bounds_of(pairs: list[Pair]) -> tuple[Bounds, Bounds]:
    """Of answers long enough to be off task; rounded, for more digits would say nothing."""
    own, other = ([p.contrasts for pair in pairs if (p := getattr(pair, which)).tokens > SHORT] for which in ("own", "other"))
    instructions = [contrasts[1] for contrasts in own if len(contrasts) > 1]

    def at(values: list[float], share: float) -> float:
        return round(float(np.quantile(values, share)), 1)

    prompts = Bounds(at([c[0] for c in own], REFERENCES_OFF), at([c[0] for c in other], 1 - SWAPPED_ON))
    return prompts, Bounds(at(instructions, INSTRUCTION_OFF), at(instructions, INSTRUCTION_UNSURE))


def area(pairs: list[Pair]) -> float:
    """Area under the curve: how often a row's own reference has a higher contrast to other prompts than another row's."""
    own, other = (np.array([getattr(pair, which).contrasts[0] for pair in pairs]) for which in ("own", "other"))
    return float((own[:, None] > other[None]).mean() + (own[:, None] == other[None]).mean() / 2)


def table(sets: dict[str, list[Pair]], calibration: Calibration) -> str:
    heads = [
        "rows",
        "n",
        *(f"references {v}" for v in TASK_VERDICTS),
        *(f"another row's {v}" for v in TASK_VERDICTS),
        "area under the curve",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, pairs in sets.items():
        shares = []
        for which in ("own", "other"):
            found = [judge_task(getattr(pair, which), calibration.bounds, "").verdict for pair in pairs]
            shares += [f"{100 * found.count(v) / len(found):.1f} %" for v in TASK_VERDICTS]
        lines.append(f"| {name} | {len(pairs)} | {' | '.join(shares)} | {area(pairs):.3f} |")
    return "\n".join(lines)


def draw(sets: dict[str, list[Pair]], bounds: Bounds, path: Path) -> None:
    """How contrasts to other prompts are spread, a panel per set, as SVG."""
    width, height, left, shown = 300, 150, 40, (-8.0, 14.0)
    edges = np.linspace(*shown, 45)
    parts = []

    def x(value: float) -> float:
        return left + (value - shown[0]) / (shown[1] - shown[0]) * width

    for n, (name, pairs) in enumerate(sets.items()):
        top = 40 + n * (height + 50)
        parts.append(f'<text x="{left}" y="{top - 8}" font-weight="600">{name}</text>')
        for which, colour, words in (("own", "#2a9d74", "its own reference"), ("other", "#c0262e", "another row's")):
            counts, _ = np.histogram(np.clip([getattr(p, which).contrasts[0] for p in pairs], *shown), edges)
            points = " ".join(f"{x(edges[i]):.1f},{top + height - height * c / max(1, counts.max()):.1f}" for i, c in enumerate(counts))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"><title>{words}</title></polyline>')
        for value, words in ((bounds.off, "off"), (bounds.on, "on")):
            parts.append(
                f'<line x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{top + height}" stroke="#8d8778" stroke-dasharray="4"/>'
            )
            parts.append(
                f'<text x="{x(value):.1f}" y="{top + 10}" text-anchor="{"end" if words == "off" else "start"}" fill="#8d8778">{words}</text>'
            )
        ticks = "".join(f'<text x="{x(v):.1f}" y="{top + height + 14}" text-anchor="middle">{v}</text>' for v in range(-8, 15, 4))
        parts.append(f'<line x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top + height}" stroke="#8d8778"/>{ticks}')
    legend = '<text x="40" y="14"><tspan fill="#2a9d74">own reference</tspan> <tspan fill="#c0262e">another row\'s</tspan></text>'
    tall = 40 + len(sets) * (height + 50)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 60} {tall}" font-family="sans-serif" font-size="11">'
    write_text(path, f'{svg}<rect width="100%" height="100%" fill="#fffdf8"/>{legend}{"".join(parts)}</svg>\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--check", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--rows", type=int, default=0, help="of each file; 0: all")
    parser.add_argument(
        "--work", type=Path, default=PROJECT_DIR / "runs" / "judge", help="folder that keeps likelihoods, so that bounds can be tried"
    )
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    settings = Settings.from_env()
    embedded = read_rows(str(settings.examples_file)).examples
    manifest = find_row(CHECKPOINT, settings).manifest
    assert manifest, CHECKPOINT
    calibration = Calibration(
        checkpoint=CHECKPOINT,
        digest=digest_of(manifest),
        precision=PRECISION,
        tokens=TOKENS,
        vocabulary=VOCABULARY,
        input_characters=INPUT_CHARACTERS,
        instructions=tuple(embedded[n - 1].instruction for n in INSTRUCTIONS),
        prompts=tuple(replace(embedded[n - 1], output="") for n in PROMPTS),
        bounds=Calibration.read(settings.assets_dir).bounds if args.dry_run else (Bounds(0.0, 0.0), Bounds(0.0, 0.0)),
    )
    kept_out = read_marks(PROJECT_DIR / "assets" / "recipes" / "held-out.txt")
    sources = {"calibration": args.calibrate, "unseen": args.check, "held out, no input": args.held_out}
    examples = {name: [e for e in read_rows(path).examples if e.output.strip()] for name, path in sources.items()}
    examples["held out, no input"] = [e for e in examples["held out, no input"] if instruction_mark(e) in kept_out and not e.input]
    if args.rows:
        examples = {name: found[: args.rows] for name, found in examples.items()}
    judge = Judge(ModelPool(settings), settings, calibration)
    sets = {name: measure(judge, found, name, args.work) for name, found in examples.items()}
    if not args.dry_run:
        calibration = replace(calibration, bounds=bounds_of(sets["calibration"]))
    digests = ", ".join(f"{name} {rows_digest(found)[7:19]}" for name, found in examples.items())
    prompts, instructions = calibration.bounds
    words = f"Bounds: other prompts {prompts.off} and {prompts.on}, other instructions {instructions.off} and {instructions.on}. Rows: {digests}."
    text = f"{words}\n\n{table(sets, calibration)}"
    print(text)
    if args.dry_run:
        return
    calibration.write(settings.assets_dir)
    draw(sets, prompts, PROJECT_DIR / "docs" / "judge.svg")
    method = PROJECT_DIR / "docs" / "METHOD.md"
    before = method.read_text(encoding="utf-8")
    write_text(method, re.sub(r"(<!-- judge -->\n).*?(<!-- /judge -->)", lambda m: f"{m[1]}{text}\n{m[2]}", before, flags=re.DOTALL))


if __name__ == "__main__":
    main()
