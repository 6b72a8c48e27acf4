"""Time an evaluation against one model.generate call per row and condition, and its cost per answer at two sizes, in one process.

    python scripts/bench_evaluation.py [--data assets/examples.jsonl] [--rows 16] [--tokens 64]

Checkpoint instruct, conditions full, gist, truncated (k = 4) and none, greedy, real stop tokens, after a warm-up. Both ways
answer the same prompts; equal prompts are answered once by ours and once per row by the calls, as a plain loop would.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import transformers
from bench_six_cells import one_call

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.answers import Subject, answer, batches
from gistdemo.evaluate.request import EvaluationRequest, evaluation_rows
from gistdemo.settings import Settings


def evaluated(request: EvaluationRequest, subject: Subject, rows: int) -> tuple[float, int]:
    """Seconds and prompts of an evaluation of the first rows, scoring and writing included."""
    examples = evaluation_rows(request, [subject.loaded.encoder])[0][:rows]
    work = batches(request, examples, [subject])
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer(work, request.max_new_tokens, Path(folder))
    return time.perf_counter() - began, sum(len(batch.prompts) for batch in work)


def main() -> None:
    transformers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="assets/examples.jsonl")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    settings = Settings.from_env()
    base, loaded = ModelPool(settings).checkpoint(find_checkpoint("instruct", settings.checkpoint_dirs))
    subject = Subject("instruct", base, loaded)
    request = EvaluationRequest(("instruct",), args.data, 4 * args.rows, max_new_tokens=args.tokens, recovery=False)
    evaluated(request, subject, 4)
    small, prompts = evaluated(request, subject, args.rows)
    large, more = evaluated(request, subject, 4 * args.rows)
    print(f"{args.rows} rows: {small:.1f} s, {1000 * small / prompts:.0f} ms per answer of {prompts}", flush=True)
    print(f"{4 * args.rows} rows: {large:.1f} s, {1000 * large / more:.0f} ms per answer of {more}", flush=True)
    examples = evaluation_rows(request, [loaded.encoder])[0][: args.rows]
    rows = [loaded.row(loaded.plan(e, CONDITIONS[name], k)) for name, k in request.settings() for e in examples]
    began = time.perf_counter()
    for row in rows:
        one_call(base.model, row, args.tokens)
    calls = time.perf_counter() - began
    print(f"{len(rows)} generate calls: {calls:.1f} s, {calls / small:.1f} times as long as the evaluation of the same rows")


if __name__ == "__main__":
    main()
