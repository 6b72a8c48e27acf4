"""The backbone's own greedy full-prompt answers, generated once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from gistdemo.conditions import CONDITIONS
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.model.engine import Engine, EngineRow
from gistdemo.prompts import EncodedPrompt, plan

log = logging.getLogger(__name__)
GENERATION_BATCH = 32


def own_answers(
    engine: Engine,
    stop_ids: frozenset[int],
    prompts: Sequence[EncodedPrompt],
    decode_adapter: str | None,
    limit: int,
    key: str,
    cache_dir: Path,
) -> list[tuple[int, ...]]:
    """Greedy answers of `prompts` (end token included where reached), at most `limit` tokens each, in the order given.

    key: names weights and template; with the prompts and the limit it addresses one cache file, written as answers come,
    so that an interrupted run goes on where it was. Answers of rows that failed raise RuntimeError.
    """
    name = hashlib.sha256(json.dumps([key, limit, [list(p.ids()) for p in prompts]]).encode()).hexdigest()[:24]
    path = cache_dir / "teacher" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _read(path)
    order = sorted((n for n in range(len(prompts)) if n not in known), key=lambda n: len(prompts[n].ids()))
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(order), GENERATION_BATCH):
            at = order[start : start + GENERATION_BATCH]
            rows = [EngineRow(plan(prompts[n], CONDITIONS["full"], 0), stop_ids, decode_adapter=decode_adapter) for n in at]
            answers: list[list[int]] = [[] for _ in at]
            for event in engine.stream(rows, Sampling(limit)):
                if isinstance(event, TokenEvent):
                    if event.error:
                        raise RuntimeError(event.error)
                    answers[event.row].append(event.token_id)
            for n, answer in zip(at, answers, strict=True):
                known[n] = tuple(answer)
                file.write(json.dumps([n, answer]) + "\n")
            file.flush()
            os.fsync(file.fileno())
            log.info("teacher answers: %d of %d", len(known), len(prompts))
    return [known[n] for n in range(len(prompts))]


def _read(path: Path) -> dict[int, tuple[int, ...]]:
    """Answers already on file; a half-written last line is ignored."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            n, answer = json.loads(line)
        except ValueError:
            continue
        known[n] = tuple(answer)
    return known
