"""Greedy answers of many rows in several conditions, kept in files that a kill cannot spoil, and judged once all are there.

DIR/rows.jsonl      one `Generated` per line, in the order of generation
DIR/timings.jsonl   line by line TIMES and share_seconds, an answer's part of the time that its batch took; apart from these files, the
                    same request gives the same bytes

Equal prompts (a truncation that cuts nothing, no instruction and no input, more gist tokens than words) are answered once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.pool import LoadedBackbone
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import WorkStopped
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.files import recover
from gistdemo.generation import RowReady, Sampling
from gistdemo.model.answering import EngineRow
from gistdemo.model.engine import Engine
from gistdemo.prompts import Example, PromptPlan
from gistdemo.results.answer import ROWS_FILE, Generated, Said

log = logging.getLogger(__name__)
BATCH = 256  # prompts that are kept together once all are answered; the engine takes them in as places become free
REPORT = 32  # answers between two reports
TIMINGS_FILE = "timings.jsonl"
TIMES = ("first_token_seconds", "tokens_per_second")


@dataclass(frozen=True)
class Subject:
    """A checkpoint or a backbone that is measured, under the name its answers carry."""

    name: str
    base: LoadedBackbone
    loaded: LoadedCheckpoint

    def can(self, condition: str) -> bool:
        """Whether it can answer under a condition: a backbone has no gist."""
        return self.loaded.manifest is not None or CONDITIONS[condition].gist_from is None


@dataclass(frozen=True)
class _Item:
    """One answer to have: condition, budget and number of the row, with its prompt."""

    condition: str
    k: int
    row: int
    plan: PromptPlan
    blind: bool


@dataclass(frozen=True)
class Batch:
    """Prompts that are answered together, each with the answers it stands for."""

    subject: Subject
    prompts: tuple[tuple[_Item, ...], ...]

    def keys(self) -> list[tuple[str, str, int, int]]:
        """What the records of this batch carry, in order."""
        return [(self.subject.name, item.condition, item.k, item.row) for items in self.prompts for item in items]


def batches(request: EvaluationRequest, examples: Sequence[Example], subjects: Sequence[Subject]) -> list[Batch]:
    """All work of a request, in an order that depends on nothing else: checkpoint by checkpoint, short prompts first."""
    made = []
    for subject in subjects:
        groups: dict[Any, list[_Item]] = {}
        for condition, k in (setting for setting in request.settings() if subject.can(setting[0])):
            for row, example in enumerate(examples):
                plan = subject.loaded.plan(example, CONDITIONS[condition], k)
                blind = subject.loaded.is_blind(plan, example, CONDITIONS[condition], k)
                slots = 0 if plan.compress_ids is None else plan.k
                key = (plan.compress_ids, plan.prompt_ids, slots, plan.anchored_tokens)
                groups.setdefault(key, []).append(_Item(condition, k, row, plan, blind))
        prompts = sorted((tuple(items) for items in groups.values()), key=lambda items: items[0].plan.prompt_tokens)
        made += [Batch(subject, tuple(prompts[n : n + BATCH])) for n in range(0, len(prompts), BATCH)]
    return made


def answer(
    work: Sequence[Batch],
    sampling: Sampling,
    folder: Path,
    report: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Generated]:
    """Generate what `folder` does not hold yet; return the answers of all batches, in order, with their timings.

    report: told how many prompts are answered, now and then. A kill loses the batch it falls into: rows of a batch share passes, so that
    the same batch, and it alone, gives the same bytes again.
    Raises: WorkStopped: should_stop, asked after every answer, said so. RuntimeError: a row could not be generated.
    """
    answers, ready = _on_file(work, folder)
    done = sum(len(batch.prompts) for batch in work[:ready])
    with (folder / ROWS_FILE).open("a", encoding="utf-8") as rows, (folder / TIMINGS_FILE).open("a", encoding="utf-8") as timings:
        for number, batch in enumerate(work[ready:], ready):

            def one_more(of_batch: int, before: int = done, number: int = number) -> None:
                if of_batch % REPORT == 0:
                    report(before + of_batch)
                if should_stop():
                    raise WorkStopped(
                        f"Stopped after {number} of {len(work)} batches of answers, which are kept. Resume goes on from there."
                    )

            began = time.perf_counter()
            fresh = list(_answered(batch, sampling, one_more))
            share = round((time.perf_counter() - began) / len(fresh), 4)
            times = [_times(one) | {"share_seconds": share} for one in fresh]
            for file, lines in ((timings, times), (rows, list(map(without_timings, fresh)))):
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            answers += fresh
            done += len(batch.prompts)
            report(done)
            log.info("answers: batch %d of %d", number + 1, len(work))
    return answers


def without_timings(answer: Mapping[str, object]) -> dict[str, object]:
    """The part of an answer that the same request gives again."""
    return {name: value for name, value in answer.items() if name not in TIMES}


def _times(answer: Mapping[str, object]) -> dict[str, object]:
    return {name: answer.get(name) for name in TIMES}


def _on_file(work: Sequence[Batch], folder: Path) -> tuple[list[Generated], int]:
    """The answers of the first batches that are whole, and how many batches that are. What follows them is cut off the files."""
    lines = zip(recover(folder / ROWS_FILE), recover(folder / TIMINGS_FILE), strict=False)
    found: list[Generated] = [row | {"blind": row.get("blind", False)} | _times(timing) for row, timing in lines]  # older jobs do not say
    kept, ready = 0, 0
    for batch in work:
        keys = batch.keys()
        if [(r["checkpoint"], r["condition"], r["k"], r["row"]) for r in found[kept : kept + len(keys)]] != keys:
            break
        kept, ready = kept + len(keys), ready + 1
    for name in (ROWS_FILE, TIMINGS_FILE):
        _cut(folder / name, kept)
    return found[:kept], ready


def _cut(path: Path, lines: int) -> None:
    """Keep the first lines of a file."""
    if path.exists():
        with path.open("r+b") as file:
            size = sum(len(line) for line in islice(file, lines))
            file.truncate(size)


def _answered(batch: Batch, sampling: Sampling, one_more: Callable[[int], None]) -> Iterator[Generated]:
    rows = [batch.subject.loaded.row(items[0].plan) for items in batch.prompts]
    for items, said in zip(batch.prompts, generate(batch.subject.base.engine, rows, sampling, one_more), strict=True):
        for item in items:
            yield {
                "checkpoint": batch.subject.name,
                "condition": item.condition,
                "k": item.k,
                "row": item.row,
                **said,
                "prompt_tokens": item.plan.prompt_tokens,
                "instruction_tokens": item.plan.instruction_tokens,
                "kept_tokens": item.plan.kept_tokens,
                "blind": item.blind,
            }


def generate(
    engine: Engine, rows: Sequence[EngineRow], sampling: Sampling, one_more: Callable[[int], None] = lambda done: None
) -> list[Said]:
    """Answers of one batch, with their times. one_more: told how many there are. Raises: RuntimeError: a row failed. What one_more raises."""
    said: list[Said] = [{"text": "", "finish_reason": None, "kv_bytes": 0, "tokens": 0} for _ in rows]
    seconds: list[list[float]] = [[] for _ in rows]
    waited, done = [0.0] * len(rows), 0
    with closing(engine.stream(rows, sampling)) as stream:
        for event in stream:
            one = said[event.row]
            if isinstance(event, RowReady):
                one["kv_bytes"], waited[event.row] = event.kv_bytes, event.waited
                continue
            if event.error:
                raise RuntimeError(event.error)
            one["text"] += event.text
            one["finish_reason"] = event.finish_reason
            if event.token_id is not None:
                seconds[event.row].append(event.seconds - waited[event.row])
                one["tokens"] = (one["tokens"] or 0) + (event.finish_reason != "eos")
            if event.finish_reason:
                done += 1
                one_more(done)
    for one, times in zip(said, seconds, strict=True):
        one["first_token_seconds"], one["tokens_per_second"] = _speed(times)
    return said


def _speed(times: Sequence[float]) -> tuple[float | None, float | None]:
    """Seconds from the answer's turn to its first token; later tokens per second."""
    lasted = times[-1] - times[0] if len(times) > 1 else 0.0
    return round(times[0], 4) if times else None, round((len(times) - 1) / lasted, 2) if lasted > 0 else None
