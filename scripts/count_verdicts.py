"""Count verdicts on the embedded examples, per checkpoint and condition.

    python scripts/count_verdicts.py [--rows 180] [--k 4] [--tokens 96] [--checkpoint NAME ...]

Greedy. Prints a Markdown table and the flags behind it; --show N prints the first N answers of every cell as well.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.data.examples import ExampleSources
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.metrics import diagnose
from gistdemo.prompts import plan
from gistdemo.settings import Settings

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=180)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--checkpoint", action="append")
    args = parser.parse_args()
    settings = Settings.from_env()
    pool = ModelPool(settings)
    examples = [item.example for item in ExampleSources(settings).load()]
    examples = examples[:: max(1, len(examples) // args.rows)][: args.rows]
    print(f"{len(examples)} embedded examples, k = {args.k}, greedy, {args.tokens} tokens\n")
    print("| checkpoint | condition | healthy | warning | degenerate | flags |\n| --- | --- | --- | --- | --- | --- |")
    for name in args.checkpoint or ("base-standin", "instruct"):
        base, loaded = pool.checkpoint(find_checkpoint(name, settings.checkpoint_dirs))
        for condition in DEFAULT_CONDITIONS:
            verdicts, flags = Counter(), Counter()
            for start in range(0, len(examples), BATCH):
                part = examples[start : start + BATCH]
                rows = [loaded.row(plan(loaded.encoder.encode(e), CONDITIONS[condition], args.k)) for e in part]
                texts, ids, ends = [""] * len(rows), [[] for _ in rows], [None] * len(rows)
                for event in base.engine.stream(rows, Sampling(args.tokens)):
                    if isinstance(event, TokenEvent):
                        texts[event.row] += event.text
                        ends[event.row] = event.finish_reason or ends[event.row]
                        if event.token_id is not None and event.finish_reason != "eos":
                            ids[event.row].append(event.token_id)
                for n, (example, text, tokens, end) in enumerate(zip(part, texts, ids, ends, strict=True)):
                    found = diagnose(text, tokens, example.instruction, example.input, end)
                    verdicts[found.verdict] += 1
                    flags.update({f"{f.code} {f.name}" for f in found.flags if f.severity != "info"})
                    if start + n < args.show:
                        print(f"    {example.instruction[:80]!r} -> {found.verdict} {text[:160]!r}", file=sys.stderr)
            counted = ", ".join(f"{flag} {count}" for flag, count in flags.most_common(4)) or "none"
            row = " | ".join(str(verdicts[v]) for v in ("healthy", "warning", "degenerate"))
            print(f"| {name} | {condition} | {row} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
