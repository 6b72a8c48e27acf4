"""How fast llama.cpp answers with the same GGUF files on this machine: what `python -m gistdemo bench` is held against.

    python scripts/bench_llamacpp.py smollm2-135m-instruct=FILE.gguf gemma-3-270m=FILE.gguf [--tokens 64] [--threads 2]

Greedy, prompts one after another, and batches of several sequences by its C interface; nothing ends early. Needs llama-cpp-python, which
the project does not: run it with an environment of its own.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import llama_cpp
import numpy as np

PROMPT = "Instruction: Explain in two sentences why leaves change colour in autumn, and name {} trees that do not do so.\nOutput:"
PROMPTS, ROUNDS, BATCHES = 6, 3, (1, 3, 6, 9)


def one_after_another(model: llama_cpp.Llama, tokens: int) -> float:
    """Seconds for PROMPTS answers."""
    began = time.perf_counter()
    for number in range(PROMPTS):
        made = model.generate(model.tokenize(PROMPT.format(number).encode()), temp=0.0, reset=True)
        for _ in range(tokens):
            next(made)
    return time.perf_counter() - began


class Batch:
    """Several sequences in one context."""

    def __init__(self, file: str, size: int, threads: int):
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max, settings.kv_unified = 4096, 1024, size, True
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(1024, 0, 1)

    def step(self, tokens: list[list[int]], places: list[int]) -> list[int]:
        """Read tokens of each sequence from its place on; the most likely next one of each."""
        n, last = 0, []
        for sequence, (given, place) in enumerate(zip(tokens, places, strict=True)):
            for at, token in enumerate(given):
                self.batch.token[n], self.batch.pos[n] = token, place + at
                self.batch.n_seq_id[n], self.batch.seq_id[n][0] = 1, sequence
                self.batch.logits[n] = at == len(given) - 1
                n += 1
            last.append(n - 1)
        self.batch.n_tokens = n
        if llama_cpp.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        logits = (llama_cpp.llama_get_logits_ith(self.context, at) for at in last)
        return [int(np.ctypeslib.as_array(found, (self.words,)).argmax()) for found in logits]


def in_one_batch(file: str, prompts: list[list[int]], tokens: int, threads: int) -> tuple[float, float]:
    """Seconds in all, and the median step in milliseconds."""
    batch = Batch(file, len(prompts), threads)
    began = time.perf_counter()
    words, places, steps = batch.step(prompts, [0] * len(prompts)), [len(p) for p in prompts], []
    for _ in range(tokens - 1):
        started = time.perf_counter()
        words = batch.step([[word] for word in words], places)
        places = [place + 1 for place in places]
        steps.append(time.perf_counter() - started)
    return time.perf_counter() - began, 1000 * median(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FILE.gguf")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for name, file in (given.split("=", 1) for given in args.models):
        model = llama_cpp.Llama(file, n_ctx=2048, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
        one_after_another(model, 2)
        seconds = median(one_after_another(model, args.tokens) for _ in range(ROUNDS))
        print(f"{name}: {PROMPTS} prompts one after another {seconds:.2f} s, {PROMPTS * args.tokens / seconds:.0f} tokens/s", flush=True)
        for size in BATCHES:
            prompts = [model.tokenize(PROMPT.format(number).encode()) for number in range(size)]
            runs = [in_one_batch(file, prompts, args.tokens, args.threads) for _ in range(ROUNDS)]
            seconds, step = median(run[0] for run in runs), median(run[1] for run in runs)
            print(
                f"{name}: one batch of {size} {seconds:.2f} s, {size * args.tokens / seconds:.0f} tokens/s, {step:.1f} ms a step",
                flush=True,
            )


if __name__ == "__main__":
    main()
