"""Time the grid's one batch against one model.generate call per cell, in the same process.

    python scripts/bench_six_cells.py [--tokens 64] [--rounds 3]

Two checkpoints x full, gist, truncated on the embedded backbone, greedy, nothing ends early (no stop tokens), after a warm-up.
For the calls one after another the stand-in's adapter is merged into the weights, so that they pay nothing for it.
Prints seconds per round, the ratio of the medians, and whether both ways gave the same tokens.
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
from peft import PeftModel
from transformers import GenerationConfig

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint
from gistdemo.conditions import CONDITIONS, DEFAULT_CONDITIONS
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.model.backbone import EMBEDDED, load
from gistdemo.model.engine import Engine, EngineRow
from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import Example
from gistdemo.settings import Settings

EXAMPLE = Example("Explain in two sentences why leaves change colour in autumn, and name one tree that does not do so.")


def batched(engine: Engine, rows: list[EngineRow], tokens: int) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in rows]
    for event in engine.stream(rows, Sampling(tokens)):
        if isinstance(event, TokenEvent):
            answers[event.row].append(event.token_id)
    return answers


@torch.inference_mode()
def one_call(model: GistModel, row: EngineRow, tokens: int) -> list[int]:
    """The cell through model.generate; on a gist cache where the condition has one."""
    ids = torch.tensor([row.plan.prompt_ids])
    stop = sorted(row.stop_ids) or -1
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=stop, pad_token_id=0)
    if row.plan.compress_ids is None:
        return model.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0, ids.shape[1] :].tolist()
    cache = model.compress([row.compression()])
    with model.adapters.using(None):
        output = model.model.generate(
            ids,
            attention_mask=torch.ones(1, cache.length + ids.shape[1], dtype=torch.long),
            position_ids=torch.arange(ids.shape[1])[None] + cache.next_position[:, None],
            past_key_values=cache.to_dynamic_cache(model.config),
            generation_config=settings,
        )
    return output[0, ids.shape[1] :].tolist()


def separate_models(settings: Settings, instruct_rows: list[EngineRow]) -> dict[str, GistModel]:
    """What six separate calls would use: the stand-in with its adapter merged, and the instruct model with its compressor."""
    merged = PeftModel.from_pretrained(
        load(EMBEDDED, settings).model, settings.shipped_checkpoints_dir / "base-standin" / "backbone_adapter"
    )
    instruct = GistModel(load(EMBEDDED, settings).model)
    name = next(row.compress_adapter for row in instruct_rows if row.compress_adapter)
    instruct.adapters.attach(name, settings.shipped_checkpoints_dir / "instruct" / "adapter")
    return {"base-standin": GistModel(merged.merge_and_unload().eval()), "instruct": instruct}


def main() -> None:
    transformers.logging.set_verbosity_error()  # about the end token that no vocabulary has
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = Settings.from_env()
    pool, groups = ModelPool(settings), {}
    for name in ("base-standin", "instruct"):
        base, loaded = pool.checkpoint(find_checkpoint(name, settings.checkpoint_dirs))
        rows = [loaded.row(loaded.plan(EXAMPLE, CONDITIONS[c], 4)) for c in DEFAULT_CONDITIONS]
        groups[name] = [replace(row, stop_ids=frozenset()) for row in rows]
    together = [row for rows in groups.values() for row in rows]
    models = separate_models(settings, groups["instruct"])
    apart = [(models["base-standin"], replace(row, compress_adapter=None)) for row in groups["base-standin"]]
    apart += [(models["instruct"], row) for row in groups["instruct"]]
    batched(base.engine, together, 4)
    for model, row in apart:
        one_call(model, row, 4)
    ours, theirs = [], []
    for _ in range(args.rounds):
        began = time.perf_counter()
        first = batched(base.engine, together, args.tokens)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        second = [one_call(model, row, args.tokens) for model, row in apart]
        theirs.append(time.perf_counter() - began)
        print(f"one batch {ours[-1]:.2f} s, six calls {theirs[-1]:.2f} s, ratio {theirs[-1] / ours[-1]:.2f}", flush=True)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    batch, calls = statistics.median(ours), statistics.median(theirs)
    print(f"median: one batch {batch:.2f} s, six calls {calls:.2f} s, ratio {calls / batch:.2f}; {same} of 6 answers identical")


if __name__ == "__main__":
    main()
