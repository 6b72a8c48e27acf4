"""What must not reach an answer: later answer tokens (T1), the instruction past its gist (T2, T18); and what must: the gist (T3)."""

from __future__ import annotations

import pytest
import torch
from lab import EXAMPLES, Calls

from gistdemo.conditions import CONDITIONS
from gistdemo.prompts import Example

ANSWER = (70, 71, 72, 73, 74, 75)
SAME_LENGTH = (Example("Name a colour.", "red or blue"), Example("Give a number.", "red or blue"))
EVERY_ADAPTER = [(None, None), ("one", None), ("one", "one"), ("one", "two")]
BLIND_TO_IT = ("none", "blind")


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


# --- the future (T1) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adapter", "decode_adapter"), EVERY_ADAPTER)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_answer_token_moves_the_logits_after_it_and_none_before_it(adapted, condition, adapter, decode_adapter):
    """The training path. Row i of the logits predicts token i, so it may know the tokens before i only."""

    def logits(answer):
        return adapted.answer_logits(condition, EXAMPLES[:2], [answer, ANSWER[:4]], 4, adapter, decode_adapter)

    before, neighbour = logits(ANSWER)
    for j in range(len(ANSWER)):
        after, neighbour_after = logits((*ANSWER[:j], 200, *ANSWER[j + 1 :]))
        assert difference(before[: j + 1], after[: j + 1]) < 1e-5
        assert j + 1 == len(ANSWER) or difference(before[j + 1], after[j + 1]) > 1e-2
        assert difference(neighbour, neighbour_after) < 1e-5, "another row of the batch must not move at all"


@pytest.mark.parametrize("condition", ("gist", "blind"))
def test_slots_see_no_later_slot_so_that_one_gist_serves_every_budget(adapted, condition):
    """g_1..g_k of a longer gist are the gist of budget k: slots only see slots before them."""
    prompt = adapted.plan(condition, EXAMPLES[1], 8)
    shorter = adapted.plan(condition, EXAMPLES[1], 3)
    with torch.no_grad():
        long, short = adapted.start([prompt], "one"), adapted.start([shorter], "one")
    for a, b in zip((*long.keys, *long.values), (*short.keys, *short.values), strict=True):
        assert difference(a[:, :, :4], b) < 1e-5


# --- the instruction (T2, T3, T18) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adapter", "decode_adapter"), EVERY_ADAPTER)
def test_with_the_gist_held_fixed_another_instruction_changes_nothing(adapted, adapter, decode_adapter):
    plans = [adapted.plan("gist", example) for example in SAME_LENGTH]
    with torch.no_grad():
        caches = [adapted.start([p], adapter) for p in plans]
        kept, mixed, other = (
            adapted.model.answer_logits(caches[c], [plans[p].prompt_ids], [ANSWER], decode_adapter)[0] for c, p in ((0, 0), (0, 1), (1, 1))
        )
    assert torch.equal(kept, mixed)
    assert difference(kept, other) > 1e-2


@pytest.mark.parametrize("condition", ("gist", "blind"))
def test_the_decoder_is_given_sink_slots_and_what_follows_and_nothing_else(lab, condition):
    with Calls(lab) as calls:
        lab.ids([lab.row(condition, EXAMPLES[1], 4)])
    prompt, *steps = calls.decoding
    encoded = lab.encoder.encode(EXAMPLES[1])
    at = [s.kind for s in encoded.segments].index("instruction")
    after = [i for s in encoded.segments[at + 1 :] for i in s.ids]
    assert prompt["cached"] == 1 + 4 and prompt["input_ids"].tolist() == [after]
    assert [step["cached"] for step in steps] == [5 + len(after) + n for n in range(11)]
    assert all(step["input_ids"].shape == (1, 1) for step in steps)


@pytest.mark.parametrize("adapter", [None, "one"])
def test_two_instructions_give_two_gists_and_two_answers(adapted, adapter):
    with torch.no_grad():
        first, second = (adapted.start([adapted.plan("gist", example)], adapter) for example in SAME_LENGTH)
    above = zip((*first.keys[1:], *first.values[1:]), (*second.keys[1:], *second.values[1:]), strict=True)  # layer 0 sees single tokens
    assert all(difference(a[:, :, 1:], b[:, :, 1:]) > 1e-2 for a, b in above)
    answers = adapted.ids([adapted.row("gist", example, 4, adapter) for example in SAME_LENGTH])
    assert answers[0] != answers[1]


@pytest.mark.parametrize("condition", BLIND_TO_IT)
def test_none_and_blind_answer_the_same_whatever_the_instruction(adapted, condition):
    examples = [Example(text, "red or blue") for text in ("Name a colour.", "Add.", "Write about the night and the rain.")]
    answers = adapted.ids([adapted.row(condition, example, 4, "one") for example in examples])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name not in BLIND_TO_IT])
def test_the_other_conditions_do_depend_on_the_instruction(adapted, condition):
    answers = adapted.ids([adapted.row(condition, example, 4, "one") for example in SAME_LENGTH])
    assert answers[0] != answers[1]


@pytest.mark.parametrize(("adapter", "decode_adapter"), EVERY_ADAPTER)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_sink_is_the_same_for_every_instruction(adapted, condition, adapter, decode_adapter):
    """Keys and values of the first token carry nothing of the instruction (T18)."""
    caches = [adapted.prefilled(condition, example, (), 4, adapter, decode_adapter)[0] for example in EXAMPLES]
    for layer in range(adapted.model.config.num_hidden_layers):
        first = caches[0].layers[layer]
        for other in (cache.layers[layer] for cache in caches[1:]):
            assert difference(first.keys[:, :, 0], other.keys[:, :, 0]) < 1e-6
            assert difference(first.values[:, :, 0], other.values[:, :, 0]) < 1e-6


# --- the mask ------------------------------------------------------------------------------------------------------------


def test_the_model_is_never_given_a_4_d_mask(adapted):
    """A 4-D mask replaces causality and padding, and eager attention misreads a bool one (T17): padding masks (B, T) only."""
    with Calls(adapted) as calls:
        adapted.ids([adapted.row(condition, e, 4, "one") for condition in CONDITIONS for e in EXAMPLES])
        for condition in CONDITIONS:
            adapted.answer_logits(condition, EXAMPLES, [ANSWER] * len(EXAMPLES), 4, "one")
    assert len(calls.seen) > 12
    assert {call["attention_mask"].dim() for call in calls.seen} == {2}


def test_eager_attention_gives_the_same_answers(lab):
    rows = [lab.row(condition, example) for condition in CONDITIONS for example in EXAMPLES]
    before = lab.ids(rows)
    lab.model.model.set_attn_implementation("eager")
    assert lab.ids(rows) == before
