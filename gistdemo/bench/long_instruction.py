"""An instruction of a thousand tokens, asked again and again: what gist tokens are for.

Three ways to answer it: the full prompt read each time; its keys and values kept, and what follows the instruction read on top; a gist of it
kept, and the same. All three decode with the engine's own steps, one question at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from gistdemo.bench.figure import Figure
from gistdemo.bench.ground import Ground
from gistdemo.checkpoint.registry import find_row
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import read_rows
from gistdemo.model.gist_cache import GistCache
from gistdemo.model.gist_model import GistModel, gist_row
from gistdemo.prompts import Example

TOKENS, SLOTS, ASKED = 1000, 8, 20


@dataclass(frozen=True)
class Way:
    """One way to answer. kept: what is there before a question comes. read: the ids that are read for it."""

    name: str
    kept: GistCache
    read: tuple[int, ...]


@torch.inference_mode()
def measure(ground: Ground) -> Iterator[Figure]:
    _, loaded = ground.pool.row(find_row("instruct", ground.settings))
    example = Example(instruction_of(loaded, TOKENS, ground))
    ways = ways_of(loaded, example)
    firsts: dict[str, list[float]] = {way.name: [] for way in ways}
    wholes: dict[str, list[float]] = {way.name: [] for way in ways}
    asked = min(ASKED, 2 + ground.rounds * 6)
    for number in range(asked):
        for way in ways:
            first, whole = answer(loaded.model, way, ground.tokens)
            firsts[way.name].append(first)
            wholes[way.name].append(whole)
        if number % 5 == 4:
            ground.tell(f"long instruction: asked {number + 1} of {asked} times")
    full, cached, gist = ways
    compressing = seconds_to_compress(loaded, example)
    for name, found, aim in (("first token", firsts, 3.0), (f"answer of {ground.tokens} tokens", wholes, 1.4)):
        took = "; ".join(f"{way.name} {1000 * median(found[way.name]):.0f} ms" for way in ways)
        what = f"{TOKENS:,}-token instruction, k = {SLOTS}: {name}"
        yield Figure(what, "the full prompt, times as fast", median(found[full.name]) / median(found[gist.name]), aim, details=took)
        yield Figure(what, "the full prompt's cache kept, times as fast", median(found[cached.name]) / median(found[gist.name]))
    sizes = f"{cached.kept.bytes / 2**20:.1f} MiB; gist {gist.kept.bytes / 2**20:.2f} MiB; compressing once {1000 * compressing:.0f} ms"
    yield Figure("its keys and values kept", "the gist's, times as large", cached.kept.bytes / gist.kept.bytes, 60.0, details=sizes)
    work = [flops(loaded.model, way.kept.length, len(way.read)) for way in ways]
    words = "; ".join(f"{way.name} {n / 1e9:.1f} GFLOP" for way, n in zip(ways, work, strict=True))
    yield Figure("reading what is asked: arithmetic of the full prompt", "the gist's, times as much", work[0] / work[2], details=words)


def instruction_of(loaded: LoadedCheckpoint, tokens: int, ground: Ground) -> str:
    """Sentences of the embedded examples, as many as make an instruction of about so many tokens."""
    text = "Answer in one sentence what all of these have in common."
    for example in read_rows(str(ground.settings.examples_file)).examples:
        longer = f"{text} {example.instruction}"
        if loaded.encoder.encode(Example(longer)).count("instruction") > tokens:
            break
        text = longer
    return text


def ways_of(loaded: LoadedCheckpoint, example: Example) -> tuple[Way, Way, Way]:
    """Full prompt, full prompt with its cache kept, gist kept."""
    model = loaded.model
    whole, compressed = (loaded.plan(example, CONDITIONS[name], SLOTS) for name in ("full", "gist"))
    after = compressed.prompt_ids
    prefix = model.read([None], [model.empty(1)], [whole.prompt_ids[: -len(after)]], True)[1].held()
    gist = model.compress([gist_row(compressed, loaded.slots, loaded.compress_adapter)])
    return Way("full prompt", model.empty(1), whole.prompt_ids), Way("cache kept", prefix, after), Way("gist kept", gist, after)


def answer(model: GistModel, way: Way, tokens: int) -> tuple[float, float]:
    """Seconds to the first token and to the last."""
    began = time.perf_counter()
    logits, decoding = model.read([None], [way.kept], [way.read], True)
    token = logits.argmax(-1)
    first = time.perf_counter() - began
    for _ in range(tokens - 1):
        token = decoding.next_logits(token, True).argmax(-1)
    return first, time.perf_counter() - began


def seconds_to_compress(loaded: LoadedCheckpoint, example: Example) -> float:
    row = gist_row(loaded.plan(example, CONDITIONS["gist"], SLOTS), loaded.slots, loaded.compress_adapter)
    began = time.perf_counter()
    loaded.model.compress([row])
    return time.perf_counter() - began


def flops(model: GistModel, before: int, read: int) -> float:
    """Of a forward pass over `read` tokens with `before` of them cached: two per weight and token, and attention; one row of logits."""
    config = model.config
    embedding = model.model.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for n, p in model.model.base_model.named_parameters() if "lora_" not in n) - embedding
    heads: Sequence[int] = (
        config.num_attention_heads,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )
    attended = read * before + read * (read + 1) / 2
    return float(2 * weights * read + 2 * embedding + 4 * config.num_hidden_layers * heads[0] * heads[1] * attended)
