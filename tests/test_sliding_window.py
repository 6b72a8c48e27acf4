"""Models with sliding windows: what a layer sees is told by positions, never by where a key lies in the cache or who else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from lab import EXAMPLES, NEVER, Lab
from torch import Tensor
from torch.nn.functional import cross_entropy
from toy import toy_gemma, toy_model
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig

from gistdemo.conditions import CONDITIONS
from gistdemo.generation import Sampling
from gistdemo.model.answering import Answer, EngineRow
from gistdemo.model.attention import attention_of
from gistdemo.model.batch import Batch
from gistdemo.model.gist_model import Compression, GistModel, gist_row
from gistdemo.model.window import attention_masks, growing_cache, window_of
from gistdemo.prompts import CHATML, Example, plan

WIDE = 4096  # no test comes near it
ANSWER = (70, 71, 72, 73, 74)
CLOSE = 1e-4  # two orders of fp32 sums; logits here are of size 1 to 10
VISIBLE = 1e-2  # a difference that no rounding makes
TEXT_ONLY = ("full", "truncated", "none")
GISTS = [("gist", False), ("gist", True), ("blind", False)]  # condition, anchored


def gemma_lab(window: int) -> Lab:
    return Lab(CHATML, model=GistModel(toy_gemma(window)))


def row_of(lab: Lab, condition: str, example: Example, k: int = 4, anchored: bool = False, stop_ids: frozenset[int] = NEVER) -> EngineRow:
    return EngineRow(plan(lab.encoder.encode(example), CONDITIONS[condition], k, anchored), stop_ids, lab.slots[:k])


def watched(lab: Lab, rows: list[EngineRow], tokens: int = 12) -> tuple[list[list[int]], list[Tensor]]:
    """New ids of every row, and per row its logits (tokens, V). All rows run to their limit."""
    seen: dict[Any, list[Tensor]] = {}
    say = Batch._say

    def watching(self: Batch, answers: Sequence[Answer | None], logits: Tensor) -> Any:
        for answer, row in zip(answers, logits, strict=True):
            if answer:
                seen.setdefault(answer.row.key(), []).append(row)
        return say(self, answers, logits)

    with mock.patch.object(Batch, "_say", watching):
        ids = lab.ids(rows, Sampling(tokens))
    return ids, [torch.stack(seen[row.key()]) for row in rows]


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# --- the oracle: one sequence, one pass, masks drawn key by key -------------------------------------------------------------


def one_pass(model, row: EngineRow, answer=(), window: int | None = None) -> Tensor:
    """Logits (T, V) of prompt, slots and what follows as one sequence, from the description of the method alone.

    A query sees the keys before it, less the instruction (all but the first token) once the slots are past; a sliding layer, those
    of them that are less than a window behind it in position.
    """
    made = row.plan
    before, after = list(made.compress_ids or ()), [*made.prompt_ids, *answer]
    k, words = (made.k if made.compress_ids is not None else 0), made.anchored_tokens
    embed = model.get_input_embeddings()
    text, slots = embed(torch.tensor(before, dtype=torch.long)), row.slots[:k]
    ends = [(i + 1) * words // k for i in range(k)] if words else []
    if words:
        spoken = text[len(text) - words :]
        slots = slots + torch.stack([spoken[a:b].mean(0) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
    vectors = torch.cat([text, slots, embed(torch.tensor(after))])
    start = len(before) if words else len(before) + k
    places = [len(before) - words + end - 1 for end in ends] if words else list(range(len(before), start))
    positions = [*range(len(before)), *places, *range(start, start + len(after))]
    window = window or model.config.sliding_window
    masks = {
        kind: torch.full((1, 1, len(positions), len(positions)), torch.finfo(torch.float32).min) for kind in set(model.config.layer_types)
    }
    for q in range(len(positions)):
        for key in range(q + 1):
            if q >= len(before) + k and 0 < key < len(before):
                continue
            masks["full_attention"][0, 0, q, key] = 0
            if positions[q] - positions[key] < window:
                masks["sliding_attention"][0, 0, q, key] = 0
    return model(inputs_embeds=vectors[None], attention_mask=masks, position_ids=torch.tensor([positions]), use_cache=False).logits[0]


@torch.no_grad()
def greedy(model, row: EngineRow, tokens: int) -> list[int]:
    answer: list[int] = []
    for _ in range(tokens):
        answer.append(int(one_pass(model, row, answer)[-1].argmax()))
    return answer


def answered(lab: Lab, rows: list[EngineRow], answers) -> list[Tensor]:
    """Both phases on the training path, all rows in one batch: per row, the logits that predict its answer."""
    given = [gist_row(r.plan, r.slots, None) for r in rows]
    cache = lab.model.empty(len(rows)) if rows[0].plan.compress_ids is None else lab.model.compress(given)
    logits, _ = lab.model.answer_logits(cache, [r.plan.prompt_ids for r in rows], answers, None)
    return list(logits.split([len(a) for a in answers]))


@pytest.mark.parametrize("window", [8, 24, 60, WIDE])
@pytest.mark.parametrize(("condition", "anchored"), GISTS)
def test_two_phases_equal_one_pass_with_masks_by_position(condition, anchored, window):
    """A batch of unequal rows; windows that reach nothing of the prompt, some of it, and all."""
    lab = gemma_lab(window)
    rows = [row_of(lab, condition, example, 4, anchored) for example in EXAMPLES]
    assert all(bool(r.plan.anchored_tokens) == anchored for r in rows)
    answers = [ANSWER[: 2 + n] for n in range(len(rows))]
    with torch.no_grad():
        ours = answered(lab, rows, answers)
        theirs = [one_pass(lab.model.model, r, a)[-len(a) - 1 : -1] for r, a in zip(rows, answers, strict=True)]
    assert all(difference(a, b) < CLOSE for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("condition", "anchored"), GISTS)
def test_greedy_answers_equal_one_pass_while_the_window_slides_over_the_gist(condition, anchored):
    """The answer is longer than the window: sink and slots leave it one by one."""
    lab = gemma_lab(16)
    rows = [row_of(lab, condition, example, 4, anchored) for example in EXAMPLES]
    assert lab.ids(rows, Sampling(20)) == [greedy(lab.model.model, row, 20) for row in rows]


@torch.no_grad()
def test_another_window_would_show():
    """Guard of the tests above: the window's size matters, by one position as well."""
    model = toy_gemma(24)
    for condition, anchored in GISTS:
        row = row_of(gemma_lab(24), condition, EXAMPLES[1], 4, anchored)
        right = one_pass(model, row, ANSWER)[-1]
        assert all(difference(right, one_pass(model, row, ANSWER, other)[-1]) > VISIBLE for other in (23, 25, WIDE))


# --- batches -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [False, True])
def test_a_short_gist_beside_a_row_that_nearly_fills_the_window_stays_seen(anchored):
    """The long row fits its window to the token. Padded to its width, the short row's gist lies further back than the window."""
    tokens = 12
    probe = gemma_lab(WIDE)
    long = row_of(probe, "full", Example("Translate the whole of this into French, please. " * 3, "good day"))
    window = len(long.plan.prompt_ids) + tokens
    lab = gemma_lab(window)
    short = [row_of(lab, "gist", EXAMPLES[0], 4, anchored), row_of(lab, "gist", EXAMPLES[2], 8, anchored)]
    assert all(len(r.plan.compress_ids) + 8 + len(r.plan.prompt_ids) + tokens < window for r in short)
    together, logits = watched(lab, [short[0], long, short[1]], tokens)
    for row, ids, ours in zip([short[0], long, short[1]], together, logits, strict=True):
        alone, theirs = watched(lab, [row], tokens)
        assert ids == alone[0] and difference(ours, theirs[0]) < CLOSE
    assert together[0] == watched(probe, [short[0]], tokens)[0][0], "within its window a row answers as if there were none"
    assert together[1] == stock_answer(lab.model.model, long.plan.prompt_ids, tokens)


@pytest.mark.parametrize("window", [9, 30, WIDE])
def test_a_mixed_batch_equals_its_rows_one_by_one(window):
    lab = gemma_lab(window)
    rows = [row_of(lab, "gist", e, k, anchored) for e, k, anchored in zip(EXAMPLES, (1, 8, 3, 4), (True, False) * 2, strict=True)]
    rows += [row_of(lab, condition, e) for condition in ("full", "none", "blind") for e in EXAMPLES[:2]]
    together, logits = watched(lab, rows)
    for row, ids, ours in zip(rows, together, logits, strict=True):
        alone, theirs = watched(lab, [row])
        assert ids == alone[0] and difference(ours, theirs[0]) < CLOSE
    assert len({tuple(ids) for ids in together}) > len(rows) // 2, "answers must differ, or this test proves little"


@torch.no_grad()
def test_rows_compressed_together_equal_rows_compressed_alone():
    """Longer than the window: with a cache that is cut to it the sink of the long row, and of the padded ones, would be gone."""
    lab = gemma_lab(12)
    work = [
        gist_row(row_of(lab, "gist", e, k, a).plan, lab.slots, None)
        for e, k, a in zip(EXAMPLES, (1, 8, 3, 4), (True, False) * 2, strict=True)
    ]
    together = lab.model.compress(work)
    for n, one in enumerate(work):
        alone, row = lab.model.compress([one]), together.row(n)
        assert row.positions.tolist() == alone.positions.tolist() == [[0, *one.positions()[len(one.ids) :]]]
        assert all(difference(a, b) < CLOSE for a, b in zip((*row.keys, *row.values), (*alone.keys, *alone.values), strict=True))
    sink = lab.model.compress([Compression(work[1].ids[:1], lab.slots[:1], None)])
    assert all(difference(a[:, :, :1], b[:, :, :1]) < CLOSE for a, b in zip(together.row(1).keys, sink.keys, strict=True))


def test_rows_that_end_early_leave_the_others_their_positions():
    """Rows in front of, between and behind the others end at different steps; the window slides on over what the others keep."""
    lab = gemma_lab(14)
    rows = [row_of(lab, "gist", e, k, a) for e, k, a in zip(EXAMPLES, (2, 8, 3, 4), (True, False) * 2, strict=True)] + [
        row_of(lab, "full", EXAMPLES[0])
    ]
    free = [lab.ids([row], Sampling(24))[0] for row in rows]
    stops = [frozenset({free[0][1]}), NEVER, frozenset({free[2][4]}), NEVER, frozenset({free[4][7]})]
    until = [1 + next((n for n, t in enumerate(ids) if t in stop), 23) for ids, stop in zip(free, stops, strict=True)]
    assert lab.ids([replace(r, stop_ids=s) for r, s in zip(rows, stops, strict=True)], Sampling(24)) == [
        ids[:n] for ids, n in zip(free, until, strict=True)
    ]
    assert len(set(until)) > 2 and max(until) == 24


# --- text alone: the stock model's own answers ------------------------------------------------------------------------------


def stock_answer(model, prompt_ids, tokens: int) -> list[int]:
    prompt = torch.tensor([prompt_ids])
    config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=2)
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("condition", TEXT_ONLY)
@pytest.mark.parametrize("window", [6, 20, 50, WIDE])
def test_greedy_answers_without_gist_are_the_stock_models_own_generate(window, condition):
    """Within the window and far past it, in one batch."""
    lab = gemma_lab(window)
    rows = [row_of(lab, condition, example) for example in EXAMPLES]
    for row, ids in zip(rows, lab.ids(rows, Sampling(24)), strict=True):
        assert ids == stock_answer(lab.model.model, row.plan.prompt_ids, 24)


@pytest.mark.parametrize("past", [-1, 0, 1, 2])
def test_a_request_just_past_the_window_is_answered_as_the_stock_model_does(past):
    """Nothing is refused: logits of every step equal a pass over the whole text by the stock model, which masks by itself."""
    length, tokens = len(row_of(gemma_lab(WIDE), "full", EXAMPLES[1]).plan.prompt_ids), 12
    lab = gemma_lab(length + tokens - 1 - past)  # the last step reads length + tokens - 1 positions
    row = row_of(lab, "full", EXAMPLES[1])
    ids, logits = watched(lab, [row, row_of(lab, "gist", EXAMPLES[3])], tokens)
    model = lab.model.model
    with torch.no_grad():
        right = model(torch.tensor([[*row.plan.prompt_ids, *ids[0][:-1]]])).logits[0, -tokens:]
        unlimited = toy_gemma(WIDE)(torch.tensor([[*row.plan.prompt_ids, *ids[0][:-1]]])).logits[0, -tokens:]
    assert ids[0] == stock_answer(model, row.plan.prompt_ids, tokens)
    assert difference(logits[0], right) < CLOSE
    assert (difference(right, unlimited) > 1e-3) == (past > 0), "the first token has left the window, or not"


@torch.no_grad()
@pytest.mark.parametrize("window", [3, 17, WIDE])
def test_known_answers_after_plain_text_score_as_in_the_stock_model(window):
    """The training path, padded: the window is shorter than the text."""
    lab = gemma_lab(window)
    rows = [row_of(lab, "full", example) for example in EXAMPLES]
    for row, ours in zip(rows, answered(lab, rows, [ANSWER] * 4), strict=True):
        assert difference(ours, lab.model.model(torch.tensor([[*row.plan.prompt_ids, *ANSWER]])).logits[0, -6:-1]) < CLOSE


# --- training ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("window", [40, WIDE])
def test_gradients_of_the_slots_equal_those_of_one_pass(window, anchored):
    """With a window of 40 some rows' slots reach the answer through sliding layers, and some through the full ones alone."""
    lab = gemma_lab(window)
    slots = lab.slots[:4].clone().requires_grad_(True)
    rows = [replace(row_of(lab, "gist", example, 4, anchored), slots=slots) for example in EXAMPLES]
    target = torch.tensor(ANSWER)
    ours = torch.autograd.grad(sum(cross_entropy(logits, target) for logits in answered(lab, rows, [ANSWER] * 4)), slots)[0]
    loss = sum(cross_entropy(one_pass(lab.model.model, row, ANSWER)[-6:-1], target) for row in rows)
    theirs = torch.autograd.grad(loss, slots)[0]
    assert (theirs.abs().amax(1) > 1e-3).all(), "every slot matters, or this test proves little"
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)


# --- what else is particular about Gemma --------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_embedding_of_a_token_is_what_the_layers_receive():
    model, seen = GistModel(toy_gemma(16)), []
    hook = model.model.model.layers[0].register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0].clone()), with_kwargs=True)
    model.model(torch.tensor([[70, 5]]))
    hook.remove()
    assert torch.equal(model.embedding_of(70), seen[0][0, 0]) and torch.equal(model.embedding_of(5), seen[0][0, 1])
    assert torch.allclose(model.embedding_of(70), model.model.get_input_embeddings().weight[70] * 32**0.5)


@torch.no_grad()
def test_a_slot_that_is_a_tokens_embedding_has_that_tokens_keys_and_values():
    """Slots are not scaled again, and prompt tokens are scaled once: in every layer, as the prompt ends with the token itself."""
    lab = gemma_lab(WIDE)
    ids = lab.plan("gist", EXAMPLES[1]).compress_ids
    cache = lab.model.compress([Compression(ids, lab.model.embedding_of(70)[None], None)])
    whole = lab.model.model(torch.tensor([[*ids, 70]]), use_cache=True).past_key_values
    for ours, layer in zip(cache.keys, whole.layers, strict=True):
        assert difference(ours[:, :, -1], layer.keys[:, :, -1]) < CLOSE


def test_a_tied_head_and_heads_of_a_size_of_their_own_work_for_text_beside_gist():
    lab = gemma_lab(20)
    model = lab.model.model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.head_dim != model.config.hidden_size // model.config.num_attention_heads
    assert lab.model.empty(3).keys[0].shape == (3, 1, 0, 24)
    answers = lab.generate([row_of(lab, "gist", EXAMPLES[0], 4), row_of(lab, "full", EXAMPLES[0])], Sampling(3))
    per_place = 2 * 4 * 1 * 24 * 4  # keys and values, layers, key-value heads, head size, bytes
    assert [a.reason for a in answers] == ["limit"] * 2
    assert [a.kv_bytes for a in answers] == [per_place * row_of(lab, c, EXAMPLES[0], 4).plan.prompt_tokens for c in ("gist", "full")]


def test_eager_attention_gives_the_same_answers():
    lab = gemma_lab(20)
    rows = [row_of(lab, condition, example) for condition in CONDITIONS for example in EXAMPLES]
    before = lab.ids(rows)
    lab.model.model.set_attn_implementation("eager")
    assert lab.ids(rows) == before


# --- other models ------------------------------------------------------------------------------------------------------------

MIXED = ["full_attention", "sliding_attention", "full_attention"]
OTHERS = {
    "mistral": {"sliding_window": 20},
    "phi3": {"sliding_window": 20},
    "starcoder2": {"sliding_window": 20},
    "qwen3_moe": {
        "sliding_window": 20,
        "use_sliding_window": True,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "gemma2": {"sliding_window": 20, "layer_types": MIXED, "head_dim": 24, "query_pre_attn_scalar": 6},
    "cohere2": {"sliding_window": 20, "layer_types": MIXED},
    "exaone4": {"sliding_window": 20, "layer_types": MIXED},
    "gpt_oss": {"sliding_window": 20, "layer_types": MIXED, "head_dim": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {"sliding_window": 20, "use_sliding_window": True, "layer_types": MIXED},
    "qwen3": {"sliding_window": 20, "use_sliding_window": True, "layer_types": MIXED, "head_dim": 24},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_families_with_windows_answer_as_their_stock_model_and_batched_as_alone(kind):
    """Mistral, Phi, Starcoder and Qwen's experts slide in all layers and take one mask; the others take one per kind of layer."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model(kind, vocab_size=259, initializer_range=0.3, pad_token_id=2, **sizes, **OTHERS[kind])
    lab = Lab(
        CHATML,
        model=GistModel(AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval().requires_grad_(False)),
    )
    assert window_of(config) == 20
    rows = [row_of(lab, "full", EXAMPLES[1]), row_of(lab, "gist", EXAMPLES[0], 4), row_of(lab, "gist", EXAMPLES[3], 2, True)]
    together, logits = watched(lab, rows, 24)
    assert together[0] == stock_answer(lab.model.model, rows[0].plan.prompt_ids, 24)
    for row, ours in zip(rows, logits, strict=True):
        assert difference(ours, watched(lab, [row], 24)[1][0]) < CLOSE


# --- the masks themselves ------------------------------------------------------------------------------------------------------


def test_a_model_without_a_window_keeps_its_mask_and_its_cache():
    config = toy_model().config
    mask, positions = torch.ones(2, 5, dtype=torch.long), torch.arange(5).expand(2, 5)
    assert window_of(config) is None and attention_masks(config, mask, positions, 2, torch.float32) is mask
    assert [type(layer).__name__ for layer in growing_cache(config).layers] == ["DynamicLayer"] * 2


@pytest.mark.parametrize("more", [{"sliding_window": 4}, {"sliding_window": 4, "layer_types": ["full_attention"] * 2}])
def test_a_window_that_the_model_does_not_heed_is_none(more):
    """Llama takes any word of its config file for granted, and slides nowhere."""
    config = LlamaConfig(num_hidden_layers=2, **more)
    assert window_of(config) is None
    cache, keys = growing_cache(config), torch.zeros(1, 2, 9, 8)
    cache.update(keys, keys, 0)
    cache.update(keys, keys, 0)
    assert cache.layers[0].keys.shape[2] == 18, "every key is kept"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_by_hand(dtype):
    """Padding, the sink at position 0, an anchored slot at 4, then tokens at 6, 7 and 8; a window of 4."""
    config = toy_gemma(4).config
    mask, positions = torch.tensor([[0, 1, 1, 1, 1, 1]]), torch.tensor([[0, 0, 4, 6, 7, 8]])
    masks = attention_masks(config, mask, positions, 3, dtype)
    rows = {kind: ["".join("1" if v == 0 else "." for v in row) for row in masks[kind][0, 0].tolist()] for kind in masks}
    assert rows == {"full_attention": [".111..", ".1111.", ".11111"], "sliding_attention": ["..11..", "..111.", "...111"]}
    assert all(
        m.dtype == dtype and m.shape == (1, 1, 3, 6) and set(m.unique().tolist()) == {0.0, torch.finfo(dtype).min} for m in masks.values()
    )


def test_positions_of_the_new_tokens_alone_are_not_enough_where_layers_slide():
    with pytest.raises(RuntimeError, match="size of tensor"):
        attention_masks(toy_gemma(4).config, torch.ones(1, 6, dtype=torch.long), torch.tensor([[6, 7, 8]]), 3, torch.float32)
