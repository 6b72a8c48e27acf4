"""Greedy answers of many rows in several conditions, scored and flagged one by one, kept in a file that a kill cannot spoil.

DIR/request.json   what was asked (a directory answers one request)      DIR/rows.jsonl   one JSON object per answer
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.pool import LoadedBackbone
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import instruction_mark, read_rows, rows_digest
from gistdemo.errors import DataError, PromptError, UsageError
from gistdemo.generation import RowReady, Sampling, TokenEvent
from gistdemo.json_lines import recover
from gistdemo.metrics import diagnose, rouge
from gistdemo.model.engine import Engine, EngineRow
from gistdemo.prompts import Example

log = logging.getLogger(__name__)
BATCH = 32
ROWS_FILE, REQUEST_FILE = "rows.jsonl", "request.json"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure. checkpoint: its name. data: an Alpaca source. rows: how many, drawn with `seed`; 0: all.

    conditions: to answer in; none where recovery alone is wanted.

    allow_trained: measure rows whose instruction the checkpoint was trained on as well, and say so.
    joined: compress instruction and input as one text. least_tokens, most_tokens: keep rows whose compressed text is that long.
    """

    checkpoint: str
    data: str
    rows: int = 200
    seed: int = 0
    conditions: tuple[str, ...] = ("full", "gist", "truncated", "none")
    ks: tuple[int, ...] = (4,)
    max_new_tokens: int = 64
    joined: bool = False
    least_tokens: int = 0
    most_tokens: int = 100_000
    allow_trained: bool = False

    def __post_init__(self) -> None:
        problems = []
        if unknown := [name for name in self.conditions if name not in CONDITIONS]:
            problems.append(f"condition '{unknown[0]}' is not known, allowed are {', '.join(CONDITIONS)}")
        if not self.ks or min(self.ks) < 1:
            problems.append(f"ks is {self.ks}; at least one k, from 1 on, is needed")
        if self.rows < 0 or self.max_new_tokens < 1:
            problems.append(f"rows is {self.rows} and max_new_tokens {self.max_new_tokens}; allowed are 0 or more, and 1 or more")
        if problems:
            raise UsageError("Evaluation: " + "; ".join(problems) + ".")

    def settings(self) -> list[tuple[str, int]]:
        """Every (condition, k) to generate; k is 0 where the condition does not depend on it."""
        return [(name, k) for name in self.conditions for k in (self.ks if CONDITIONS[name].depends_on_k else (0,))]


def evaluation_rows(request: EvaluationRequest, loaded: LoadedCheckpoint, marks: frozenset[str] = frozenset()) -> tuple[list[Example], int]:
    """The rows of a request, in the order of the source, and how many of them the checkpoint was trained on.

    marks: of the instructions it was trained on. Raises: DataError: the source cannot be read, no row is left, or rows were
    trained on and that is not allowed.
    """
    encoder, kept = loaded.encoder, []
    for part in request.data.split("+"):
        for original in read_rows(part, need_output=False).examples:
            example = encoder.joined(original) if request.joined else original
            try:
                tokens = encoder.encode(example).count("instruction")
            except PromptError as error:
                log.info("row left out: %s", error)
                continue
            if request.least_tokens <= tokens <= request.most_tokens:
                kept.append((example, instruction_mark(original) in marks))
    if not kept:
        raise DataError(f"'{request.data}' has no row of {request.least_tokens} to {request.most_tokens} tokens to compress.")
    if request.rows and request.rows < len(kept):
        kept = [kept[n] for n in sorted(random.Random(request.seed).sample(range(len(kept)), request.rows))]
    trained_on = sum(seen for _, seen in kept)
    if trained_on and not request.allow_trained:
        raise DataError(
            f"Checkpoint '{request.checkpoint}' was trained on the instructions of {trained_on} of {len(kept)} rows of '{request.data}'. "
            "Give rows it has not seen, or allow training rows; every figure then says so."
        )
    return [example for example, _ in kept], trained_on


def answer_rows(
    request: EvaluationRequest, examples: Sequence[Example], base: LoadedBackbone, loaded: LoadedCheckpoint, folder: Path
) -> list[dict[str, Any]]:
    """Generate what `folder` does not hold yet; return all records, ordered by condition, k and row.

    A record: row, condition, k, text, tokens, finish_reason, prompt_tokens, instruction_tokens, kept_tokens, rouge1, rouge2,
    rougeL (None without reference), verdict, flags (codes).
    Raises: UsageError: the folder holds another request. RuntimeError: a row could not be generated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, request, examples)
    path = folder / ROWS_FILE
    known = {(r["condition"], r["k"], r["row"]): r for r in recover(path)}
    work = [(name, k, n) for name, k in request.settings() for n in range(len(examples)) if (name, k, n) not in known]
    plans = {(name, k, n): loaded.plan(examples[n], CONDITIONS[name], k) for name, k, n in work}
    work.sort(key=lambda item: plans[item].prompt_tokens)  # rows of a batch of similar length
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(work), BATCH):
            at = work[start : start + BATCH]
            made = generate(base.engine, [loaded.row(plans[item]) for item in at], request.max_new_tokens)
            for item, record in zip(at, made, strict=True):
                name, k, n = item
                known[item] = {"row": n, "condition": name, "k": k} | record | judged(record, examples[n])
                known[item].pop("ids")
                file.write(json.dumps(known[item], ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            log.info("answers: %d of %d", min(start + BATCH, len(work)), len(work))
    return [known[name, k, n] for name, k in request.settings() for n in range(len(examples))]


def generate(engine: Engine, rows: Sequence[EngineRow], limit: int) -> list[dict[str, Any]]:
    """Greedy answers of one batch: text, ids, tokens, finish_reason and the sizes of each row's prompt.

    Raises: RuntimeError: a row failed.
    """
    texts, ids, ends, kv = [""] * len(rows), [[] for _ in rows], [None] * len(rows), [0] * len(rows)
    for event in engine.stream(rows, Sampling(limit)):
        if isinstance(event, RowReady):
            kv[event.row] = event.kv_bytes
        elif isinstance(event, TokenEvent):
            if event.error:
                raise RuntimeError(event.error)
            texts[event.row] += event.text
            ends[event.row] = event.finish_reason or ends[event.row]
            if event.token_id is not None and event.finish_reason != "eos":
                ids[event.row].append(event.token_id)
    return [
        {
            "text": texts[n],
            "ids": ids[n],
            "tokens": len(ids[n]),
            "finish_reason": ends[n],
            "prompt_tokens": row.plan.prompt_tokens,
            "instruction_tokens": row.plan.instruction_tokens,
            "kept_tokens": row.plan.kept_tokens,
            "kv_bytes": kv[n],
        }
        for n, row in enumerate(rows)
    ]


def judged(record: dict[str, Any], example: Example) -> dict[str, Any]:
    """rouge1, rouge2, rougeL (None without reference), verdict and flags (codes) of an answer made by `generate`."""
    found = diagnose(record["text"], record["ids"], example.instruction, example.input, record["finish_reason"])
    scores = rouge(record["text"], example.output) if example.output else dict.fromkeys(("rouge1", "rouge2", "rougeL"))
    flags = [flag.code for flag in found.flags if flag.severity != "info"]
    return scores | {"verdict": found.verdict, "flags": flags}


def _claim(folder: Path, request: EvaluationRequest, examples: Sequence[Example]) -> None:
    """Write the request with the digest of its rows, or check that the folder's is this one."""
    record = dataclasses.asdict(request) | {"digest": rows_digest(examples), "rows": len(examples)}
    text = json.dumps(record, indent=2) + "\n"
    path = folder / REQUEST_FILE
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"Folder '{folder.name}' holds the answers of another request. Give another folder.")
    path.write_text(text, encoding="utf-8")
