"""What a generation is: only new tokens (T7), the stock model's own where all is text, the budget of each condition (T8, T16),
settings that come from the request alone (T14), and no influence between requests (T15)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lab import EXAMPLES, Lab, lively_model
from transformers import GenerationConfig

from gistdemo.conditions import CONDITIONS
from gistdemo.errors import UsageError
from gistdemo.generation import Sampling

TEXT_ONLY = ("full", "truncated", "none")


# --- new tokens only (T7) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 13])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_answer_has_exactly_the_limit_or_ends_with_a_stop_token(lab, condition, limit):
    free = lab.ids([lab.row(condition, example) for example in EXAMPLES], Sampling(13))
    stop = frozenset({free[0][4], free[1][0]})
    answers = lab.generate([lab.row(condition, example, stop_ids=stop) for example in EXAMPLES], Sampling(limit))
    for answer, ids in zip(answers, free, strict=True):
        ends = next((n for n, token in enumerate(ids[:limit]) if token in stop), None)
        assert answer.ids == ids[: limit if ends is None else ends + 1]
        assert answer.reason == ("limit" if ends is None else "eos")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_text_is_that_of_the_new_tokens_and_holds_no_tail_of_the_prompt(lab, condition):
    tail = lab.tokenizer.decode(lab.plan(condition, EXAMPLES[0]).prompt_ids[-6:])
    for answer in lab.generate([lab.row(condition, example) for example in EXAMPLES]):
        assert answer.text == lab.tokenizer.decode(answer.ids)
        assert tail not in answer.text and tail.strip() not in answer.text


def test_a_stop_token_is_reported_and_adds_no_text(lab):
    free = lab.ids([lab.row("full", EXAMPLES[0])])[0]
    answer = lab.generate([lab.row("full", EXAMPLES[0], stop_ids=frozenset({free[3]}))])[0]
    assert answer.ids == free[: free.index(free[3]) + 1]
    assert answer.text == lab.tokenizer.decode(answer.ids[:-1])


@pytest.mark.parametrize("condition", TEXT_ONLY)
def test_greedy_answers_without_gist_are_the_stock_models_own_generate(lab, condition):
    stock = lively_model()
    config = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=sorted(lab.encoder.stop_ids), pad_token_id=2)
    rows = [lab.row(condition, example, stop_ids=lab.encoder.stop_ids) for example in EXAMPLES]
    for row, ids in zip(rows, lab.ids(rows, Sampling(24)), strict=True):
        prompt = torch.tensor([row.plan.prompt_ids])
        whole = stock.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        assert ids == whole[0, prompt.shape[1] :].tolist()


# --- budgets (T8, T16) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("k", [1, 4, 16])
def test_truncated_keeps_the_first_k_instruction_tokens_and_one_suffix(lab, k, example):
    encoded = lab.encoder.encode(example)
    made = lab.plan("truncated", example, k)
    words = encoded.ids("instruction")
    shown = [ids for kind, fate, ids in made.pieces if kind == "instruction" and fate == "shown"]
    dropped = [i for kind, fate, ids in made.pieces if kind == "instruction" and fate == "dropped" for i in ids]
    assert shown == [words[:k]] and (*shown[0], *dropped) == words and made.kept_tokens == min(k, len(words))
    assert len(made.prompt_ids) == len(encoded.ids()) - len(words) + min(k, len(words))
    text = lab.tokenizer.decode(made.prompt_ids)
    suffix = lab.encoder.template.suffix
    assert text.count(suffix) == 1 and text.endswith(suffix)


@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_counts_say_what_was_compressed_and_what_the_decoder_attends_to(lab, condition, k):
    """Instruction tokens alone are compressed to k; template and input are never counted into the ratio."""
    for example in EXAMPLES:
        encoded, made = lab.encoder.encode(example), lab.plan(condition, example, k)
        words = encoded.count("instruction")
        others = len(encoded.ids()) - words
        kept = {"full": words, "gist": k, "truncated": min(k, words), "none": 0, "blind": k}[condition]
        assert (made.instruction_tokens, made.kept_tokens) == (words, kept)
        template_before = encoded.segments[1].ids
        seen = others + kept if made.compress_ids is None else others - len(template_before) + k
        assert made.prompt_tokens == seen
        cache, _ = lab.prefilled(condition, example, (), k)
        assert cache.get_seq_length() == seen, "the count is the length of the real cache"
        given = "".join(lab.tokenizer.decode(ids) for kind, fate, ids in made.pieces if kind == "input")
        assert given.strip() == example.input


# --- settings and requests -----------------------------------------------------------------------------------------------


def test_the_models_own_generation_config_has_no_effect(lab):
    """Sampling settings that came with a model are ignored (T14)."""
    rows = [lab.row(condition, example) for condition in CONDITIONS for example in EXAMPLES]
    before = lab.ids(rows)
    lab.model.model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.5, top_k=3, repetition_penalty=3.0, max_new_tokens=2, eos_token_id=before[0][0]
    )
    torch.manual_seed(99)
    assert lab.ids(rows) == before


def test_the_global_random_state_has_no_effect_and_is_not_moved(lab):
    rows, warm = [lab.row("gist", example) for example in EXAMPLES], Sampling(12, temperature=1.5, seed=3)
    torch.manual_seed(1)
    first, state = lab.ids(rows, warm), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert lab.ids(rows, warm) == first
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_parallel_requests_equal_serial_ones(adapted: Lab):
    """Four threads with different conditions, adapters, budgets and settings on one model (T15)."""
    requests = [
        ([adapted.row("gist", EXAMPLES[0], 4, "one"), adapted.row("full", EXAMPLES[0])], Sampling(16)),
        ([adapted.row("gist", EXAMPLES[1], 2, "two", "two"), adapted.row("gist", EXAMPLES[2], 8, "one", "two")], Sampling(16)),
        ([adapted.row("truncated", EXAMPLES[3]), adapted.row("none", EXAMPLES[1], decode_adapter="one")], Sampling(16, 0.9, 0.8, 5)),
        ([adapted.row("full", example) for example in EXAMPLES], Sampling(16)),
    ]
    serial = [adapted.ids(rows, sampling) for rows, sampling in requests]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            work = [pool.submit(adapted.ids, rows, sampling) for rows, sampling in requests]
            assert [one.result() for one in work] == serial


def test_parallel_prompts_are_encoded_as_serial_ones(lab):
    serial = [lab.encoder.encode(example) for example in EXAMPLES]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lab.encoder.encode, EXAMPLES * 16)) == serial * 16


def test_every_setting_that_is_not_allowed_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        Sampling(0, -1.0, 0.0, -5).check(512)
    text = str(caught.value)
    assert all(part in text for part in ("answer limit is 0; allowed are 1 to 512", "temperature is -1.0", "top-p is 0.0", "seed is -5"))
    Sampling(512, 5.0, 1.0, 0).check(512)
    with pytest.raises(UsageError, match="answer limit is 513"):
        Sampling(513).check(512)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(UsageError, match=r"temperature.*top-p"):
        Sampling(8, bad, bad).check(512)
