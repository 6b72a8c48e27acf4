"""Anchored slots: they start from stretches of the instruction and stand at its positions; everything after it stays where it was."""

from __future__ import annotations

import pytest
import torch
from lab import EXAMPLES, Lab
from lessons import lesson, objective

from gistdemo.conditions import CONDITIONS
from gistdemo.model.gist_model import Compression, gist_row
from gistdemo.prompts import Example, plan
from gistdemo.train.vocabulary import Part


def anchored(lab: Lab, example: Example, k: int, slots=None) -> Compression:
    made = plan(lab.encoder.encode(example), CONDITIONS["gist"], k, anchored=True)
    return gist_row(made, lab.slots if slots is None else slots, None)


@pytest.mark.parametrize(
    ("tokens", "k", "expected"), [(8, 4, [(0, 2), (2, 4), (4, 6), (6, 8)]), (5, 2, [(0, 2), (2, 5)]), (9, 1, [(0, 9)])]
)
def test_stretches_cover_the_instruction_once(tokens, k, expected):
    assert Compression(range(tokens + 3), torch.zeros(k, 4), None, tokens).stretches() == expected


def test_a_token_of_the_instruction_is_given_one_slot_at_most(lab):
    """More slots than tokens would be expansion: a second slot for a token only doubles its weight in attention."""
    example = EXAMPLES[1]
    encoded = lab.encoder.encode(example)
    words = encoded.count("instruction")
    made = plan(encoded, CONDITIONS["gist"], words + 3, anchored=True)
    assert (made.k, made.kept_tokens, made.anchored_tokens) == (words, words, words)
    assert made.prompt_tokens == 1 + words + len(made.prompt_ids)
    row = gist_row(made, torch.zeros(words + 3, lab.model.config.hidden_size), None)
    assert row.stretches() == [(n, n + 1) for n in range(words)]
    assert plan(encoded, CONDITIONS["gist"], words + 3).k == words + 3, "appended slots stand for nothing in particular"
    assert plan(encoded, CONDITIONS["blind"], words + 3, anchored=True).k == words + 3


def test_slots_stand_at_the_end_of_their_stretch_and_the_rest_stays_where_it_was(lab):
    """What is read after the gist has the positions it has in the full prompt; appended slots push it back by k."""
    example = EXAMPLES[3]
    row = anchored(lab, example, 4)
    words = lab.encoder.encode(example).count("instruction")
    assert row.anchored == words and row.next_position == len(row.ids)
    first = len(row.ids) - words
    assert row.positions()[len(row.ids) :] == [first + end - 1 for _, end in row.stretches()]
    assert Compression(row.ids, row.slots, None).next_position == len(row.ids) + 4


@torch.no_grad()
def test_with_a_slot_per_word_and_no_vectors_the_cache_repeats_the_instruction(lab):
    """In the first layer keys know neighbours by position only, so slots of zero vectors have exactly the words' keys and values."""
    example = EXAMPLES[3]
    words = lab.encoder.encode(example).count("instruction")
    row = anchored(lab, example, words, torch.zeros(words, lab.model.config.hidden_size))
    cache = lab.model.compress([row])
    ids = torch.tensor([list(row.ids)])
    from transformers import DynamicCache

    whole = DynamicCache(config=lab.model.config)
    lab.model.next_logits([None], ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], whole)
    for part, of in ((cache.keys[0], whole.layers[0].keys), (cache.values[0], whole.layers[0].values)):
        assert torch.allclose(part[:, :, 1:], of[:, :, -words:], atol=1e-5)


@torch.no_grad()
def test_rows_of_both_kinds_can_be_compressed_together(lab):
    rows = [
        anchored(lab, EXAMPLES[1], 4),
        Compression(anchored(lab, EXAMPLES[0], 2).ids, lab.slots[:2], None),
        anchored(lab, EXAMPLES[2], 8),
    ]
    together = lab.model.compress(rows)
    for n, row in enumerate(rows):
        alone, one = lab.model.compress([row]), together.row(n)
        assert torch.equal(alone.next_position, one.next_position)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip((*alone.keys, *alone.values), (*one.keys, *one.values), strict=True))


def test_a_blind_gist_has_nothing_to_start_from(lab):
    made = plan(lab.encoder.encode(EXAMPLES[1]), CONDITIONS["blind"], 4, anchored=True)
    assert gist_row(made, lab.slots, None).anchored == 0


@pytest.mark.parametrize("mode", ["compressor", "joint", "embeddings"])
def test_what_is_trained_is_what_is_generated_with(tmp_path, settings, mode):
    """The logits of a training step equal those of the engine's own first token, anchored or not."""
    for kind in (True, False):
        learner = objective(lesson(tmp_path / str(kind), mode, anchored=kind, ks=(4,)), settings)
        rows = learner.rows.train[:3]
        logits = learner.after_gist(rows, 4, Part()).logits
        first = logits[torch.tensor([0, len(rows[0].answer), len(rows[0].answer) + len(rows[1].answer)])]
        plans = [plan(row.encoded, CONDITIONS["gist"], 4, kind) for row in rows]
        lab = Lab(model=learner.ground.model)
        from gistdemo.model.answering import EngineRow

        engine_rows = [EngineRow(p, frozenset(), learner.slots.detach(), learner.compress_adapter, learner.decode_adapter) for p in plans]
        assert [ids[0] for ids in lab.ids(engine_rows)] == first.argmax(-1).tolist()
