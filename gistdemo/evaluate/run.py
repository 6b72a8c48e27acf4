"""One evaluation of a checkpoint: rows, answers, recovery, and the files they leave.

DIR/summary.json     what `summarise` and `judge` found, with versions and times
DIR/eval_results.json, DIR/sample_outputs.json   the same in the names of an earlier experiment (see `earlier_format`)
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gistdemo import __version__
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint
from gistdemo.checkpoint.store import LoadedCheckpoint, trained_marks
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import rows_digest, source_name
from gistdemo.errors import UsageError
from gistdemo.evaluate import earlier_format
from gistdemo.evaluate.answers import EvaluationRequest, answer_rows, evaluation_rows
from gistdemo.evaluate.judge import judge
from gistdemo.evaluate.recovery import Judged
from gistdemo.evaluate.summary import summarise
from gistdemo.prompts import Example
from gistdemo.settings import Settings

log = logging.getLogger(__name__)
RECOVERY_TOKENS = 48  # answers are judged by their first tokens, as in training: there the instruction matters most


def evaluate(request: EvaluationRequest, folder: Path, settings: Settings, recovery: bool = True) -> dict[str, Any]:
    """Measure, write the files into `folder` and return the summary. Goes on where an interrupted evaluation stopped.

    Raises: CheckpointError, BackboneError, DataError: what is measured cannot be had. UsageError: the folder holds another request.
    """
    began = time.perf_counter()
    entry = find_checkpoint(request.checkpoint, settings.checkpoint_dirs)
    base, loaded = ModelPool(settings).checkpoint(entry)
    needs_gist = recovery or any(CONDITIONS[name].gist_from for name in request.conditions)
    if needs_gist and max(request.ks) > loaded.manifest.max_k:
        raise UsageError(
            f"Checkpoint '{request.checkpoint}' has {loaded.manifest.max_k} gist tokens but k = {max(request.ks)} was asked for. "
            "Ask for fewer, or for conditions full, truncated and none without recovery."
        )
    examples, trained_on = evaluation_rows(request, loaded, trained_marks(entry.folder))
    records = answer_rows(request, examples, base, loaded, folder)
    entries = summarise(records, examples)
    summary: dict[str, Any] = {
        "request": dataclasses.asdict(request) | {"checkpoint": loaded.manifest.name, "data": source_name(request.data)},
        "rows": len(examples),
        "rows_trained_on": trained_on,
        "digest": rows_digest(examples),
        "answers": entries,
        "version": __version__,
        "torch": torch.__version__,
    }
    if recovery:
        encoder = loaded.encoder
        held = [Judged(encoder.encode(e), encoder.answer_ids(e.output, RECOVERY_TOKENS)) for e in examples if e.output]
        summary["recovery"] = judge(base, loaded, {"": held}, request.ks, RECOVERY_TOKENS, settings) if len(held) > 1 else {}
    summary["seconds"] = round(time.perf_counter() - began, 1)
    k = request.ks[0]
    shown = [name for name in earlier_format.NAMES if name in request.conditions]
    prompts = [_prompt_texts(loaded, example, shown, k, base.tokenizer) for example in examples[: earlier_format.SAMPLES]]
    _write(folder / "summary.json", summary)
    _write(folder / "eval_results.json", earlier_format.eval_results(loaded.manifest.name, k, entries, summary["seconds"]))
    _write(folder / "sample_outputs.json", earlier_format.sample_outputs(records, examples, prompts, k))
    return summary


def _prompt_texts(loaded: LoadedCheckpoint, example: Example, conditions: Sequence[str], k: int, tokenizer: Any) -> dict[str, str]:
    """What the decoder reads in each condition; gist slots, which have no text, as <GIST>."""
    texts = {}
    for name in conditions:
        made = loaded.plan(example, CONDITIONS[name], k)
        text = tokenizer.decode(list(made.prompt_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        texts[name] = ("" if made.compress_ids is None else "<GIST>" * made.k) + text
    return texts


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
