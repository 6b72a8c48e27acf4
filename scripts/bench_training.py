"""Training speed: our two-phase step against a plain loop, and the time each takes to a recovery.

    python scripts/bench_training.py --data train.jsonl --validation validation.jsonl [--rounds 3] [--recovery 0.8] [--plain-limit 600]

The plain loop is what one would write first: one pass over the whole sequence [prompt | slots | rest | answer] with a 4-D mask
that hides the prompt from what follows the slots, every row padded to 256 positions, logits at all of them, float32, rows in
random order, slots appended. It trains the same weights (slots and the same LoRA) on the same loss and data. Both run in
turn, in one process. The second part runs the preset `quick` until its recovery at k = 4 reaches the goal; then the plain loop, until it
reaches it too or --plain-limit seconds of training have passed.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.recovery import measure_recovery
from gistdemo.memory import keep_freed_memory
from gistdemo.prompts import plan
from gistdemo.settings import Settings
from gistdemo.train.loop import Loop
from gistdemo.train.objectives import TRAINED, GistLearning
from gistdemo.train.presets import with_preset
from gistdemo.train.run import open_ground

WIDTH, K = 256, 4
SHORTEST = torch.finfo(torch.float32).min


class PlainLearning:
    """The plain loop's objective. Borrows rows and weights from a GistLearning of its own."""

    def __init__(self, config, settings):
        self.config = dataclasses.replace(config, dtype="float32", anchored=False, ks=(K,))
        ground = open_ground(self.config, settings)
        self.inner = GistLearning(self.config, ground, settings)
        self.model, self.slots = ground.model, self.inner.slots
        self.order = list(self.inner.rows.train)
        random.Random(0).shuffle(self.order)

    def groups(self):
        return self.inner.groups()

    def loss(self, step: int):
        size = self.config.batch_size
        rows = [self.order[n % len(self.order)] for n in range(step * size, (step + 1) * size)]
        plans = [plan(row.encoded, CONDITIONS["gist"], K) for row in rows]
        before = [list(p.compress_ids) for p in plans]
        logits, at = self._student(before, [[*p.prompt_ids, *r.answer] for p, r in zip(plans, rows, strict=True)], rows)
        targets = torch.tensor([i for row in rows for i in row.answer])
        with torch.no_grad():
            teacher = self._teacher(rows)
        hard = cross_entropy(logits[at], targets)
        soft = kl_div(log_softmax(logits[at], -1), log_softmax(teacher, -1), log_target=True, reduction="batchmean")
        return soft + self.config.cross_entropy_weight * hard, {"tokens": float(len(targets))}

    def _student(self, before, after, rows):
        embed = self.model.model.get_input_embeddings()
        mask = torch.full((len(rows), 1, WIDTH, WIDTH), SHORTEST)
        causal = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
        whole, at = [], torch.zeros(len(rows), WIDTH, dtype=torch.bool)
        for n, (first, second) in enumerate(zip(before, after, strict=True)):
            used, start = len(first) + K + len(second), len(first) + K
            allowed = causal.clone()
            allowed[start:, 1 : len(first)] = False  # all but the sink
            allowed[:, used:] = False
            mask[n, 0].masked_fill_(allowed, 0.0)
            words = torch.cat([embed(torch.tensor(first)), self.slots, embed(torch.tensor(second))])
            whole.append(pad(words, (0, 0, 0, WIDTH - used)))
            at[n, used - 1 - len(rows[n].answer) : used - 1] = True
        position = torch.arange(WIDTH).expand(len(rows), -1)
        with self.model.adapters.using(TRAINED):
            return self.model.model(
                inputs_embeds=torch.stack(whole), attention_mask=mask, position_ids=position, use_cache=False
            ).logits, at

    def _teacher(self, rows):
        ids, mask, at = (torch.zeros(len(rows), WIDTH, dtype=torch.long) for _ in range(3))
        for n, row in enumerate(rows):
            whole = [*row.encoded.ids(), *row.answer]
            ids[n, : len(whole)], mask[n, : len(whole)] = torch.tensor(whole), 1
            at[n, len(whole) - 1 - len(row.answer) : len(whole) - 1] = 1
        with self.model.adapters.using(None):
            return self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[at.bool()]

    def recovery(self) -> float:
        rows, slots = self.inner.rows.held, self.slots.detach()
        known = measure_recovery(self.model, rows, slots, (), None, None)
        return measure_recovery(self.model, rows, slots, (K,), TRAINED, TRAINED, known=known)["by_k"][str(K)]["recovery"]


def samples_per_second(loops, batch_size: int, rounds: int) -> None:
    """Alternate steps of both loops; the first of each does not count."""
    for loop in loops.values():
        loop._step(0)
    print("| round | " + " | ".join(f"{name} samples/s" for name in loops) + " | ratio |\n| --- | --- | --- | --- |")
    for round_ in range(rounds):
        speed = {}
        for name, loop in loops.items():
            steps = 6 if name == "ours" else 2
            began = time.perf_counter()
            for step in range(steps):
                loop._step(1 + round_ * steps + step)
            speed[name] = steps * batch_size / (time.perf_counter() - began)
        print(f"| {round_ + 1} | {speed['ours']:.2f} | {speed['plain']:.2f} | {speed['ours'] / speed['plain']:.2f} |", flush=True)


def time_to(goal: float, loop: Loop, judge, limit: float, every: int) -> tuple[float, float, int]:
    """Train until judged at the goal or out of time. Returns training seconds, the last recovery, steps."""
    seconds, step, found = 0.0, 0, 0.0
    while step < loop.config.steps and seconds < limit:
        began = time.perf_counter()
        loop._step(step)
        seconds += time.perf_counter() - began
        step += 1
        if step % every == 0 or seconds >= limit:
            found = judge()
            print(f"    step {step}, {seconds:.0f} s of training: recovery {found:.3f}", flush=True)
            if found >= goal:
                break
    return seconds, found, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recovery", type=float, default=0.8)
    parser.add_argument("--plain-limit", type=float, default=600.0)
    args = parser.parse_args()
    keep_freed_memory()
    settings = Settings.from_env()
    config = with_preset("quick", {"name": "bench", "data": args.data, "validation": args.validation})
    run_dir = Path("unused")  # single steps write nothing

    def fresh():
        ground = open_ground(config, settings)
        ours, plain = GistLearning(config, ground, settings), PlainLearning(config, settings)
        return ours, plain, {"ours": Loop(config, ours, run_dir), "plain": Loop(plain.config, plain, run_dir)}

    ours, plain, loops = fresh()
    print(f"batch {config.batch_size}, adapters on {','.join(config.targets)}, ours in {ours.ground.model.dtype}\n")
    samples_per_second(loops, config.batch_size, args.rounds)
    ours, plain, loops = fresh()
    print(f"\nTime to recovery {args.recovery} at k = {K}, {len(ours.rows.held)} held-out rows, reference answers:\n  preset quick")
    k = str(K)
    took, reached, steps = time_to(
        args.recovery, loops["ours"], lambda: ours.evaluate()["references"]["by_k"][k]["recovery"], 3600, config.evaluate_every
    )
    print(f"  plain loop, at most {args.plain_limit:.0f} s")
    plain_took, plain_reached, plain_steps = time_to(args.recovery, loops["plain"], plain.recovery, args.plain_limit, config.evaluate_every)
    more = "" if plain_reached >= args.recovery else "more than "
    print(
        f"\nquick: {reached:.2f} after {took:.0f} s ({steps} steps); plain: {plain_reached:.2f} after {plain_took:.0f} s ({plain_steps} steps)"
    )
    print(f"ratio: {more}{plain_took / took:.1f}")


if __name__ == "__main__":
    main()
