"""The backbone's own greedy full-prompt answers, generated once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from gistdemo.conditions import CONDITIONS
from gistdemo.errors import WorkStopped
from gistdemo.files import recover
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.model.answering import EngineRow
from gistdemo.model.engine import Engine
from gistdemo.prompts import EncodedPrompt, plan

log = logging.getLogger(__name__)
GENERATION_BATCH = 64  # prompts whose answers are kept together; the engine takes them in as places become free


def own_answers(
    engine: Engine,
    stop_ids: frozenset[int],
    prompts: Sequence[EncodedPrompt],
    decode_adapter: str | None,
    limit: int,
    backbone: str,
    cache_dir: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[tuple[int, ...]]:
    """Greedy answers of `prompts` (end token included where reached), at most `limit` tokens each, in the order given.

    backbone: digest of its weights. With the adapter, the precision, the stop tokens and the limit it names one cache file, in which answers
    stand by prompt. It is written as answers come, so that an interrupted run goes on where it was, and shared by runs on other rows.
    Raises: RuntimeError: a row failed. WorkStopped: should_stop, asked after every batch, said so.
    """
    rests_on = [backbone, decode_adapter, str(engine.model.dtype), sorted(stop_ids), limit]
    name = hashlib.sha256(json.dumps(rests_on).encode()).hexdigest()[:24]
    path = cache_dir / "teacher" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {address: tuple(answer) for address, answer in recover(path)}
    missing = {_address(p): p for p in prompts if _address(p) not in known}
    order = sorted(missing, key=lambda address: len(missing[address].ids()))
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(order), GENERATION_BATCH):
            at = order[start : start + GENERATION_BATCH]
            rows = [EngineRow(plan(missing[address], CONDITIONS["full"], 0), stop_ids, decode_adapter=decode_adapter) for address in at]
            answers: list[list[int]] = [[] for _ in at]
            for event in engine.stream(rows, Sampling(limit)):
                if isinstance(event, TokenEvent):
                    if event.error:
                        raise RuntimeError(event.error)
                    if event.token_id is not None:
                        answers[event.row].append(event.token_id)
            for address, answer in zip(at, answers, strict=True):
                known[address] = tuple(answer)
                file.write(json.dumps([address, answer]) + "\n")
            file.flush()
            os.fsync(file.fileno())
            if should_stop():
                raise WorkStopped("Stopped while the teacher was answering; its answers so far are kept. Resume goes on from there.")
            log.info("teacher answers: %d of %d", min(start + GENERATION_BATCH, len(order)), len(order))
    return [known[_address(p)] for p in prompts]


def _address(prompt: EncodedPrompt) -> str:
    return hashlib.sha256(json.dumps(prompt.ids()).encode()).hexdigest()[:24]
