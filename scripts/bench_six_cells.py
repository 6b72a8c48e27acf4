"""Time the grid's one batch against one model.generate call per cell, in the same process.

    python scripts/bench_six_cells.py [--rows instruct,instruct-embeddings] [--tokens 64] [--rounds 3]

Two shipped checkpoints on one backbone x full, gist, truncated, greedy, nothing ends early (no stop tokens), after a warm-up. The calls
one after another run on the backbone as it is, without adapter layers, so that they pay nothing for them; a compressor is on while its
gist is made, in a copy of its own. Prints seconds per round, the ratio of the medians, and how many answers both ways agree on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
from transformers import GenerationConfig

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import ModelRow, find_row
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.errors import GistDemoError, UsageError, one_line
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.model.engine import Engine, EngineRow
from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import Example
from gistdemo.settings import Settings

EXAMPLE = Example("Explain in two sentences why leaves change colour in autumn, and name one tree that does not do so.")
K = 4


def batched(engine: Engine, rows: list[EngineRow], tokens: int) -> list[list[int]]:
    """All cells in one batch, as the page runs them."""
    answers: list[list[int]] = [[] for _ in rows]
    for event in engine.stream(rows, Sampling(tokens)):
        if isinstance(event, TokenEvent):
            answers[event.row].append(event.token_id)
    return answers


@torch.inference_mode()
def one_call(plain: GistModel, compressing: GistModel, row: EngineRow, tokens: int) -> list[int]:
    """One cell through model.generate of the plain backbone; on the gist that `compressing` makes, where the condition has one."""
    ids = torch.tensor([row.plan.prompt_ids], device=plain.device)
    options = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    if row.plan.compress_ids is None:
        output = plain.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
    else:
        cache = compressing.compress([row.compression()])
        output = plain.model.generate(
            ids,
            attention_mask=torch.ones(1, cache.length + ids.shape[1], dtype=torch.long, device=plain.device),
            position_ids=torch.arange(ids.shape[1], device=plain.device)[None] + cache.next_position[:, None],
            past_key_values=cache.to_dynamic_cache(plain.config),
            generation_config=options,
        )
    return output[0, ids.shape[1] :].tolist()


def cells(pool: ModelPool, rows: list[ModelRow]) -> tuple[Engine, GistModel, list[EngineRow]]:
    """The engine of the rows' one backbone, its model, and a row of the engine for every cell."""
    made = []
    for row in rows:
        base, loaded = pool.row(row)
        planned = [loaded.row(loaded.plan(EXAMPLE, CONDITIONS[name], K)) for name in DEFAULT_CONDITIONS]
        if any(one.decode_adapter for one in planned):
            raise UsageError(f"'{row.name}' has weights of its own in both phases; choose checkpoints whose decoder is the backbone.")
        made += [replace(one, stop_ids=frozenset()) for one in planned]
    return base.engine, base.model, made


def main() -> None:
    transformers.logging.set_verbosity_error()  # about the end token that no vocabulary has
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="instruct,instruct-embeddings", help="two checkpoints on one backbone")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = Settings.from_env()
    rows = [find_row(name, settings) for name in args.rows.split(",")]
    if len({row.model_key for row in rows}) > 1:
        raise UsageError(f"{args.rows} stand on several backbones; choose checkpoints that share one.")
    engine, compressing, together = cells(ModelPool(settings), rows)
    plain = ModelPool(settings).backbone(rows[0].backbone).model  # read again: no adapter is ever attached to it

    def apart(tokens: int) -> list[list[int]]:
        return [one_call(plain, compressing, row, tokens) for row in together]

    batched(engine, together, 4)
    apart(4)
    ours, theirs = [], []
    for _ in range(args.rounds):
        began = time.perf_counter()
        first = batched(engine, together, args.tokens)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        second = apart(args.tokens)
        theirs.append(time.perf_counter() - began)
        print(f"one batch {ours[-1]:.2f} s, {len(together)} calls {theirs[-1]:.2f} s, ratio {theirs[-1] / ours[-1]:.2f}", flush=True)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    batch, calls = statistics.median(ours), statistics.median(theirs)
    print(f"median: one batch {batch:.2f} s, {len(together)} calls {calls:.2f} s, ratio {calls / batch:.2f}; {same} answers identical")


if __name__ == "__main__":
    try:
        main()
    except GistDemoError as error:
        sys.exit(f"error: {one_line(error)}")
