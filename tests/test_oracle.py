"""The oracle itself: its mask is the drawn one, it is the stock model where nothing is hidden, and which forms of mask a model takes."""

from __future__ import annotations

import torch
from lab import EXAMPLES, Lab, lively_model
from oracle import OneRow, additive, lay_out, may_attend, one_pass

DRAWN = """
1000000
1100000
1110000
1111000
1111100
1001110
1001111
"""


def sequence(lab: Lab, condition: str, example=EXAMPLES[1]) -> OneRow:
    return lay_out(lab.encoder.encode(example), condition, lab.slots[:4], (40, 41, 42))


def picture(allowed: torch.Tensor) -> str:
    return "\n" + "".join("".join(str(int(x)) for x in line) + "\n" for line in allowed)


def test_the_mask_is_the_drawn_one():
    row = OneRow((9, 8, 7), torch.zeros(2, 4), (6, 5))
    assert picture(may_attend(row, 7)) == DRAWN


def test_padding_on_the_left_moves_the_mask_and_is_hidden():
    row = OneRow((9, 8, 7), torch.zeros(2, 4), (6, 5))
    padded = may_attend(row, 9)
    assert torch.equal(padded[2:, 2:], may_attend(row, 7)) and not padded[:, :2].any() and not padded[:2].any()


def test_without_slots_it_is_the_stock_model(lab):
    row = sequence(lab, "full")
    model = lively_model()
    with torch.no_grad():
        stock = model(torch.tensor([[*row.before, *row.after]])).logits[0]
    assert torch.allclose(one_pass(model, [row]).logits[0], stock, atol=1e-4)


def test_rows_of_a_batch_equal_single_rows(lab):
    rows = [sequence(lab, "gist", example) for example in EXAMPLES]
    model = lively_model()
    together = one_pass(model, rows).logits
    assert all(torch.allclose(one_pass(model, [row]).logits[0], got, atol=1e-4) for row, got in zip(rows, together, strict=True))


def test_a_bool_mask_is_right_with_sdpa_and_silently_wrong_with_eager_attention(lab):
    """Eager attention adds a bool mask as 0 and 1 instead of hiding what is False (T17): the oracle's masks must be floats."""
    row = sequence(lab, "gist")
    allowed = may_attend(row, row.length)[None, None]
    sdpa, eager = lively_model(), lively_model()
    eager.set_attn_implementation("eager")
    right = one_pass(sdpa, [row]).logits[0]
    assert torch.allclose(one_pass(eager, [row], additive(allowed)).logits[0], right, atol=1e-4)
    assert torch.allclose(one_pass(sdpa, [row], allowed).logits[0], right, atol=1e-4)
    assert (one_pass(eager, [row], allowed).logits[0] - right).abs().max() > 1
