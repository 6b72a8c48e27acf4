"""Hold the flags against answers labelled by hand and against reference answers: what is caught, what is blamed wrongly.

    python scripts/calibrate_flags.py --answers base_answers.jsonl --labels base_labels.jsonl \\
        --references validation_seen.jsonl validation_unseen.jsonl train.jsonl

answers: one JSON object per line with n, instruction, input and text; labels: n and label ("degenerate",
"warning" or "healthy"); references: instruction, input and output. Thresholds were chosen on the answers with an even n, so the
figures to report are those of the odd ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gistdemo.metrics import diagnose

VERDICTS = ("degenerate", "warning", "healthy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=Path, help="JSON lines of generated answers")
    parser.add_argument("--labels", type=Path, help="JSON lines of n and label")
    parser.add_argument("--references", type=Path, nargs="*", default=[], help="JSON lines of instructions with good outputs")
    parser.add_argument("--wrong", choices=("even", "odd", "references"), help="also list what is judged wrongly there")
    asked = parser.parse_args()
    if asked.answers and asked.labels:
        labels = {row["n"]: row["label"] for row in read(asked.labels)}
        answers = [row for row in read(asked.answers) if row["n"] in labels]
        for half, rest in (("even", 0), ("odd", 1)):
            rows = [row for row in answers if row["n"] % 2 == rest]
            compare(half, rows, labels, list_wrong=asked.wrong == half)
    for path in asked.references:
        judge_references(path, list_wrong=asked.wrong == "references")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def compare(half: str, rows: list[dict[str, Any]], labels: dict[int, str], *, list_wrong: bool) -> None:
    """Print how verdicts and labels agree on one half, and the answers where they do not."""
    found = {row["n"]: verdict(row["text"], row) for row in rows}
    table = Counter((labels[n], said) for n, said in found.items())
    print(f"\n{half} n: {len(rows)} answers")
    print(f"  {'labelled':12}" + "".join(f"{said:>12}" for said in VERDICTS))
    for label in VERDICTS:
        print(f"  {label:12}" + "".join(f"{table[label, said]:12}" for said in VERDICTS))
    bad = sum(table["degenerate", said] for said in VERDICTS)
    print(
        f"  caught {table['degenerate', 'degenerate']} of {bad} ({share(table['degenerate', 'degenerate'], bad)}), "
        f"missed as warning {table['degenerate', 'warning']}, as healthy {table['degenerate', 'healthy']}; "
        f"healthy called degenerate {table['healthy', 'degenerate']}"
    )
    if list_wrong:
        show((labels[row["n"]], found[row["n"]], row["n"], row["instruction"], row["text"]) for row in rows)


def judge_references(path: Path, *, list_wrong: bool) -> None:
    """Print how many reference answers are called degenerate, and what a diagnosis costs."""
    rows = read(path)
    start = time.perf_counter()
    found = [verdict(row["output"], row) for row in rows]
    milliseconds = (time.perf_counter() - start) * 1000 / max(1, len(rows))
    counts = Counter(found)
    print(
        f"\n{path.name}: {len(rows)} references, degenerate {counts['degenerate']} ({share(counts['degenerate'], len(rows))}), "
        f"warning {counts['warning']} ({share(counts['warning'], len(rows))}); {milliseconds:.2f} ms each"
    )
    if list_wrong:
        wrong = ((row, said) for row, said in zip(rows, found, strict=True) if said == "degenerate")
        show(("healthy", said, -1, row["instruction"], row["output"]) for row, said in wrong)


def verdict(text: str, row: dict[str, Any]) -> str:
    return diagnose(text, row["instruction"], row["input"]).verdict


def show(rows: Iterable[tuple[str, str, int, str, str]]) -> None:
    for label, said, n, instruction, text in rows:
        if label != said:
            print(f"    n {n}: labelled {label}, judged {said}: {instruction[:70]!r} -> {text[:160]!r}")


def share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


if __name__ == "__main__":
    main()
