"""The ends of the recovery scale: a cache that holds the whole instruction is 1, one that never saw it is 0, whatever the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lab import EXAMPLES, Lab
from transformers import DynamicCache

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate import recovery
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.model.gist_cache import GistCache
from gistdemo.prompts import EncodedPrompt, plan


@torch.no_grad()
def cache_of(lab: Lab, ids: tuple[int, ...]) -> GistCache:
    """Keys and values of all ids as one row, nothing compressed."""
    whole, row = DynamicCache(config=lab.model.config), torch.tensor([ids])
    lab.model.next_logits([None], row, torch.ones_like(row), torch.arange(len(ids))[None], whole)
    keys, values = (tuple(getattr(layer, name) for layer in whole.layers) for name in ("keys", "values"))
    return GistCache(keys, values, torch.ones_like(row), torch.tensor([len(ids)]))


def measured(lab: Lab, monkeypatch, seen: Callable[[EncodedPrompt], tuple[int, ...]]) -> dict:
    """Recovery where the gist of a row is the plain cache of what `seen` lets it see."""
    examples = [e for e in EXAMPLES if e.output and not e.input] or EXAMPLES
    rows = [Judged(lab.encoder.encode(e), lab.encoder.answer_ids(e.output or "yes", 8)) for e in examples]

    def caches(model, rows, *_):
        return [cache_of(lab, seen(row.encoded)) for row in rows]

    monkeypatch.setattr(recovery, "_compressed", caches)
    return measure_recovery(lab.model, rows, lab.slots, (4,), None, None)["by_k"]["4"]


def test_the_whole_instruction_as_gist_recovers_everything(lab, monkeypatch):
    found = measured(lab, monkeypatch, lambda encoded: plan(encoded, CONDITIONS["gist"], 4).compress_ids)
    assert found["recovery"] == pytest.approx(1, abs=1e-3)


def test_a_gist_that_never_saw_the_instruction_recovers_nothing_and_so_does_any_other(lab, monkeypatch):
    found = measured(lab, monkeypatch, lambda encoded: plan(encoded, CONDITIONS["blind"], 4).compress_ids)
    assert found["recovery"] == pytest.approx(0, abs=1e-3) == found["swapped"]
