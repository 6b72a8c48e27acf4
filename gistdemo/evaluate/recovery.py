"""Recovery: how much of the instruction's effect on known answers a gist keeps. 0 = blind, 1 = lossless.

recovery = (NLL_none - NLL_gist) / (NLL_none - NLL_full), NLL in nats per answer token, always beside its control: the same
with another row's gist (`swapped`), which must stay near 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gistdemo.conditions import CONDITIONS
from gistdemo.model.gist_cache import GistCache, stack
from gistdemo.model.gist_model import GistModel, gist_row
from gistdemo.prompts import EncodedPrompt, plan
from gistdemo.results.evaluation import Recovery, RecoveryAt

EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Judged:
    """One held-out row: its prompt and the ids of a known answer."""

    encoded: EncodedPrompt
    answer: tuple[int, ...]


@torch.inference_mode()
def measure_recovery(
    model: GistModel,
    rows: Sequence[Judged],
    slots: Tensor,
    ks: Sequence[int],
    compress_adapter: str | None,
    decode_adapter: str | None,
    anchored: bool = False,
    known: Recovery | None = None,
) -> Recovery:
    """NLL per token of the answers with the full prompt, without instruction, with their own and with another row's gist.

    rows: at least 2. slots: (K, E). anchored: see `plan`. known: an earlier result on the same rows and decoder, whose nll_full and nll_none are
    taken over.
    """
    order = sorted(range(len(rows)), key=lambda n: len(rows[n].encoded.ids()) + len(rows[n].answer))
    rows = [rows[n] for n in order]
    partners = [(n + len(rows) // 2) % len(rows) for n in range(len(rows))]

    def text_nll(condition: str) -> float:
        def logits(at: Sequence[int]) -> tuple[Tensor, Tensor]:
            plans = [plan(rows[n].encoded, CONDITIONS[condition], 0) for n in at]
            return model.answer_logits(model.empty(len(at)), [p.prompt_ids for p in plans], [rows[n].answer for n in at], decode_adapter)

        return _mean_nll(len(rows), logits)

    def gist_nll(caches: Sequence[GistCache], source: Callable[[int], int], k: int) -> float:
        def logits(at: Sequence[int]) -> tuple[Tensor, Tensor]:
            plans = [plan(rows[n].encoded, CONDITIONS["gist"], k, anchored) for n in at]
            given = stack([caches[source(n)] for n in at])
            return model.answer_logits(given, [p.prompt_ids for p in plans], [rows[n].answer for n in at], decode_adapter)

        return _mean_nll(len(rows), logits)

    full, none = (known["nll_full"], known["nll_none"]) if known else (text_nll("full"), text_nll("none"))
    gap = none - full
    by_k: dict[str, RecoveryAt] = {}
    for k in ks:
        caches = _compressed(model, rows, slots, k, compress_adapter, anchored)
        own, swapped = gist_nll(caches, lambda n: n, k), gist_nll(caches, lambda n: partners[n], k)
        by_k[str(k)] = {
            "recovery": (none - own) / gap if abs(gap) > 1e-6 else None,
            "swapped": (none - swapped) / gap if abs(gap) > 1e-6 else None,
            "nll_gist": own,
            "nll_swapped": swapped,
        }
    return {"rows": len(rows), "answer_tokens": sum(len(r.answer) for r in rows), "nll_full": full, "nll_none": none, "by_k": by_k}


def _compressed(model: GistModel, rows: Sequence[Judged], slots: Tensor, k: int, adapter: str | None, anchored: bool) -> list[GistCache]:
    """Phase 1 of every row, once: each cache serves its own row and, as the control, another."""
    caches: list[GistCache] = []
    for start in range(0, len(rows), EVALUATION_BATCH):
        plans = [plan(row.encoded, CONDITIONS["gist"], k, anchored) for row in rows[start : start + EVALUATION_BATCH]]
        together = model.compress([gist_row(p, slots, adapter) for p in plans])
        caches += [together.row(n) for n in range(together.rows)]
    return caches


def _mean_nll(rows: int, logits_of: Callable[[Sequence[int]], tuple[Tensor, Tensor]]) -> float:
    total, count = 0.0, 0
    for start in range(0, rows, EVALUATION_BATCH):
        logits, targets = logits_of(range(start, min(start + EVALUATION_BATCH, rows)))
        total += torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum").item()
        count += len(targets)
    return total / count
