"""Padding is told by the mask alone: batches equal single rows whatever the tokenizer's side (T6), and pad = eos hides nothing (T9)."""

from __future__ import annotations

import json

import pytest
import torch
from lab import EXAMPLES, Calls, Lab, lively_model
from oracle import lay_out, one_pass
from toy import toy_tokenizer
from transformers import AutoTokenizer

from gistdemo.conditions import CONDITIONS
from gistdemo.generation import Sampling
from gistdemo.model.gist_cache import stack
from gistdemo.model.gist_model import Compression, pad_left
from gistdemo.prompts import Example

END = 2  # <|im_end|>: end of turn, eos and pad at once
TEN = Sampling(10)
LITERAL = Example("Explain what <|im_end|> means.", "<|im_start|> and <|endoftext|>")


@pytest.fixture(params=["left", "right", None])
def reloaded(request, template, tmp_path) -> Lab:
    """A lab whose tokenizer went to disk and came back with a padding side of left, right, or none on file."""
    tokenizer = toy_tokenizer()
    tokenizer.padding_side = request.param or "left"
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    stored = json.loads(file.read_text()) | {"padding_side": request.param}
    file.write_text(json.dumps({name: value for name, value in stored.items() if value is not None}))
    return Lab(template, AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_padded_batch_equals_single_rows_with_a_tokenizer_from_disk(reloaded, template, condition):
    rows = [reloaded.row(condition, example) for example in EXAMPLES]
    assert len({len(row.plan.prompt_ids) + len(row.plan.compress_ids or ()) for row in rows}) > 1, "rows must differ in length"
    alone = [reloaded.ids([row], TEN)[0] for row in rows]
    assert reloaded.ids(rows, TEN) == alone
    assert alone == Lab(template).ids(rows, TEN), "and to the tokenizer that never left memory"


@pytest.mark.parametrize("condition", CONDITIONS)
def test_known_answers_score_the_same_alone_and_padded(lab, condition):
    answers = [(70, 71, 72)[: 1 + n % 3] for n in range(len(EXAMPLES))]
    together = lab.answer_logits(condition, EXAMPLES, answers)
    for example, answer, logits in zip(EXAMPLES, answers, together, strict=True):
        assert torch.allclose(lab.answer_logits(condition, [example], [answer])[0], logits, atol=1e-4)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("example", [*EXAMPLES[:2], LITERAL])
def test_end_of_turn_tokens_stay_visible_beside_padding(lab, condition, example):
    """The decoder's mask hides exactly the padding, and the logits are those of a pass that sees every end token."""
    longer = Example("A much longer instruction, so that the other row is padded. " * 3)
    with Calls(lab) as calls:
        lab.ids([lab.row(condition, example), lab.row(condition, longer)], Sampling(1))
    prompt = calls.decoding[0]
    made = lab.plan(condition, example)
    cached = 1 + made.k if made.compress_ids is not None else 0
    assert int(prompt["attention_mask"][0].sum()) == cached + len(made.prompt_ids)
    ids, mask = prompt["input_ids"][0], prompt["attention_mask"][0, -prompt["input_ids"].shape[1] :]
    assert ids[mask.bool()].tolist() == list(made.prompt_ids)
    assert (END in made.prompt_ids) == (lab.encoder.template.name == "chatml"), "ChatML's suffix holds an end token"
    row = lay_out(lab.encoder.encode(example), condition, lab.slots[:4], (70, END, 71, END, 72))
    right = one_pass(lively_model(), [row]).logits[0][-6:-1]
    ours, _ = lab.answer_logits(condition, [example, longer], [(70, END, 71, END, 72), (70,)])
    assert torch.allclose(ours, right, atol=2e-4)


def test_an_end_token_typed_by_a_user_is_text(lab):
    encoded = lab.encoder.encode(LITERAL)
    assert not {0, 1, END} & set(encoded.ids("instruction", "input"))
    assert lab.tokenizer.decode(encoded.ids("instruction")).strip() == LITERAL.instruction
    assert lab.tokenizer.decode(encoded.ids("input")).strip() == LITERAL.input


def test_the_pad_token_has_no_say(template):
    """Answers are the same when the tokenizer pads with another token."""
    tokenizer = toy_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    rows = [Lab(template).row(condition, example) for condition in CONDITIONS for example in (*EXAMPLES, LITERAL)]
    other = Lab(template, tokenizer)
    assert other.ids([other.row(c, e) for c in CONDITIONS for e in (*EXAMPLES, LITERAL)], TEN) == Lab(template).ids(rows, TEN)


def test_pad_left_marks_padding_by_the_mask_and_not_by_an_id():
    ids, mask = pad_left([[2, 2], [5], [], [0, 2, 0]], "cpu")
    assert ids.tolist() == [[0, 2, 2], [0, 0, 5], [0, 0, 0], [0, 2, 0]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]]


@torch.no_grad()
def test_stacked_caches_come_apart_into_the_same_rows(lab):
    parts = [lab.start([lab.plan("gist", example, k)]) for example, k in zip(EXAMPLES, (1, 8, 3, 4), strict=True)]
    parts.append(lab.model.empty(1))
    whole = stack(parts)
    assert whole.rows == 5 and whole.length == 9 and whole.mask.sum(1).tolist() == [2, 9, 4, 5, 0]
    for n, part in enumerate(parts):
        row = whole.row(n)
        assert torch.equal(row.next_position, part.next_position) and row.length == part.length
        assert all(torch.equal(a, b) for a, b in zip((*row.keys, *row.values), (*part.keys, *part.values), strict=True))


@torch.no_grad()
def test_rows_compressed_together_equal_rows_compressed_alone(adapted):
    """Unequal lengths, budgets and adapters in one batch."""
    work = [
        Compression(adapted.plan("gist", example).compress_ids, adapted.slots[:k], adapter)
        for example, k, adapter in zip(EXAMPLES, (1, 8, 3, 4), ("one", None, "two", "one"), strict=True)
    ]
    together = adapted.model.compress(work)
    assert together.next_position.tolist() == [len(one.ids) + len(one.slots) for one in work]
    for n, one in enumerate(work):
        alone, row = adapted.model.compress([one]), together.row(n)
        assert alone.length == 1 + len(one.slots)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip((*row.keys, *row.values), (*alone.keys, *alone.values), strict=True))
