"""Compress and decode equal one pass over the whole sequence with a mask: keys, values, logits and greedy tokens (T4), positions (T5)."""

from __future__ import annotations

import pytest
import torch
from lab import EXAMPLES, Calls, Lab, lively_model
from oracle import OneRow, greedy, lay_out, merged, one_pass
from transformers import DynamicCache

from gistdemo.conditions import CONDITIONS
from gistdemo.generation import Sampling

ANSWER = (70, 71, 72, 73, 74)
GISTS = ("gist", "blind")
CLOSE = 2e-4  # largest difference allowed between two orders of fp32 sums; values here are of size 1 to 30


def whole(lab: Lab, condition: str, example, k: int, answer=ANSWER) -> OneRow:
    return lay_out(lab.encoder.encode(example), condition, lab.slots[:k], answer)


def largest_difference(ours, theirs) -> float:
    assert len(ours) == len(theirs) and all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def decoder_columns(row: OneRow) -> list[int]:
    """What the decoder may keep of the one-pass sequence: sink and slots and what follows; everything where nothing is compressed."""
    first = row.first_slot
    return [0, *range(first, row.length)] if len(row.slots) else list(range(row.length))


@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_logits_of_a_known_answer_equal_one_pass(adapted, condition, k, adapter):
    """The training path, batched over prompts of unequal length; the adapter is on in both phases or in none."""
    model = merged(adapted.model, *([adapter] if adapter else []))
    answers = [ANSWER[: 2 + n] for n in range(len(EXAMPLES))]
    ours = adapted.answer_logits(condition, EXAMPLES, answers, k, adapter, adapter)
    rows = [whole(adapted, condition, example, k, answer) for example, answer in zip(EXAMPLES, answers, strict=True)]
    theirs = [logits[-len(answer) - 1 : -1] for logits, answer in zip(one_pass(model, rows).logits, answers, strict=True)]
    assert largest_difference(ours, theirs) < CLOSE


@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_cached_key_and_value_equals_one_pass(adapted, condition, adapter):
    model = merged(adapted.model, *([adapter] if adapter else []))
    for example in EXAMPLES:
        cache, last = adapted.prefilled(condition, example, ANSWER, 4, adapter, adapter)
        row = whole(adapted, condition, example, 4)
        reference, columns = one_pass(model, [row]), decoder_columns(row)
        assert largest_difference([layer.keys[0] for layer in cache.layers], [t[:, columns] for t in reference.keys[0]]) < CLOSE
        assert largest_difference([layer.values[0] for layer in cache.layers], [t[:, columns] for t in reference.values[0]]) < CLOSE
        assert largest_difference([last], [reference.logits[0][-1]]) < CLOSE


@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_24_greedy_tokens_equal_one_pass_recomputed_for_every_token(adapted, condition, adapter):
    model = merged(adapted.model, *([adapter] if adapter else []))
    ours = adapted.ids([adapted.row(condition, e, 4, adapter, adapter) for e in EXAMPLES], Sampling(24))
    theirs = [greedy(model, whole(adapted, condition, e, 4, ()), 24) for e in EXAMPLES]
    assert all(a == b for a, b in zip(ours, theirs, strict=True)) and all(len(a) == 24 for a in ours)
    if condition not in ("none", "blind"):
        assert len({tuple(a) for a in ours}) == len(EXAMPLES), "four prompts must not agree, or this test proves little"


@pytest.mark.parametrize("decode_adapter", [None, "two"])
@pytest.mark.parametrize("condition", GISTS)
def test_an_adapter_that_is_on_in_phase_1_only_equals_two_models_by_hand(adapted, condition, decode_adapter):
    """A compressor: phase 1 on weights with the adapter multiplied in, its keys and values handed to another model."""
    compressor = merged(adapted.model, "one")
    decoder = merged(adapted.model, *([decode_adapter] if decode_adapter else []))
    for example in EXAMPLES:
        ours = adapted.answer_logits(condition, [example], [ANSWER], 4, "one", decode_adapter)
        assert largest_difference(ours, [by_hand(compressor, decoder, whole(adapted, condition, example, 4))]) < CLOSE
        other = adapted.answer_logits(condition, [example], [ANSWER], 4, decode_adapter, decode_adapter)
        assert largest_difference(ours, other) > 0.05, "the adapter has no effect, or this test proves little"


@torch.no_grad()
def by_hand(compressor, decoder, row: OneRow) -> torch.Tensor:
    """Logits that predict ANSWER: phase 1 with one model, then its sink and slots as the cache of the other."""
    prompt = OneRow(row.before, row.slots, ())
    phase1, columns = one_pass(compressor, [prompt]), decoder_columns(prompt)
    cache = DynamicCache(config=decoder.config)
    for layer, (keys, values) in enumerate(zip(phase1.keys[0], phase1.values[0], strict=True)):
        cache.update(keys[None, :, columns], values[None, :, columns], layer)
    position = torch.arange(prompt.length, row.length)[None]
    logits = decoder(torch.tensor([row.after]), past_key_values=cache, position_ids=position).logits[0]
    return logits[-len(ANSWER) - 1 : -1]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_positions_go_on_where_the_prompt_was_cut_and_rise_by_one(lab, condition):
    """The first suffix token sits at gist_start + k, every later token one further, in every row of a batch (T5)."""
    k = 3
    with Calls(lab) as calls:
        lab.ids([lab.row(condition, example, k) for example in EXAMPLES], Sampling(6))
    prompt, *steps = calls.decoding
    assert len(steps) == 5
    rows = [whole(lab, condition, example, k, ()) for example in EXAMPLES]
    alike = [
        n for n, row in enumerate(rows) if condition in ("none", "blind") and row.after == rows[0].after and n
    ]  # answered with the first
    for n, row in enumerate(row for n, row in enumerate(rows) if n not in alike):
        ids = len(row.after) if condition in GISTS else row.length
        first = row.first_slot + k if condition in GISTS else 0
        assert prompt["position_ids"][n, -ids:].tolist() == list(range(first, first + ids))
        assert [int(step["position_ids"][n, 0]) for step in steps] == list(range(first + ids, first + ids + 5))


def test_positions_stay_right_when_a_shorter_row_ends_first(lab):
    rows = [lab.row("gist", example, 4) for example in EXAMPLES]
    alone = [lab.ids([row])[0] for row in rows]
    short = lab.row("gist", EXAMPLES[0], 4, stop_ids=frozenset(alone[0][2:3]))
    ended, *others = lab.ids([short, *rows[1:]])
    assert ended == alone[0][: alone[0].index(alone[0][2]) + 1] and others == alone[1:]


def test_ignoring_the_positions_of_a_cut_prompt_would_show(lab):
    """Guard of the two tests above: counting on from the cache length instead gives clearly other logits."""
    example = EXAMPLES[1]
    made = lab.plan("gist", example)
    with torch.no_grad():
        cache = lab.start([made])
        naive = lively_model()(torch.tensor([made.prompt_ids]), past_key_values=cache.to_dynamic_cache(lab.model.config)).logits[0, -1]
    _, right = lab.prefilled("gist", example)
    assert (naive - right).abs().max() > 0.1
