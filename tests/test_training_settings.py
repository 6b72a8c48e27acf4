"""Training settings are checked all at once, and the order of rows is a pure function of seed and step."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from lessons import lesson

from gistdemo.errors import UsageError
from gistdemo.train.batches import StepOrder, draw, epoch_order
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES


def refusal(**values) -> str:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**({"mode": "embeddings", "name": "n", "data": "d"} | values))
    return str(caught.value)


def test_every_setting_that_is_not_allowed_is_named_at_once():
    text = refusal(
        mode="magic",
        name="../up",
        steps=0,
        batch_size=-1,
        learning_rate=0.0,
        gradient_clip=11.0,
        teacher_share=1.5,
        ks=(4, 2),
        evaluate_rows=1,
        warmup_steps=-1,
        distillation_weight=-0.5,
        sampled_vocabulary=-1,
    )
    parts = [
        f"mode is 'magic', allowed are {', '.join(MODES)}",
        "name is '../up'",
        "steps is 0, allowed are 1 or more",
        "batch_size is -1",
        "learning_rate is 0.0, allowed is more than 0",
        "gradient_clip is 11.0",
        "teacher_share is 1.5, allowed are 0 to 1",
        "ks is (4, 2), allowed are rising whole numbers from 1 to 64",
        "evaluate_rows is 1, allowed are 2 or more",
        "warmup_steps is -1, allowed are 0 or more",
        "distillation_weight is -0.5, allowed are 0 to 100",
        "sampled_vocabulary is -1, allowed are 0 or more",
    ]
    assert text.startswith("Training settings: ") and [part for part in parts if part not in text] == []
    assert text.count(";") == len(parts) - 1, "and nothing else is complained about"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a\\b", "a\0b", "..", "a b", "C:", "-x", "a\n", "x" * 61])
def test_a_name_that_is_no_folder_name_is_refused(name):
    assert "name is" in refusal(name=name)


@pytest.mark.parametrize("ks", [(), (0, 1), (1, 1), (1, 65)])
def test_budgets_must_rise_from_1_to_64(ks):
    assert f"ks is {ks}" in refusal(ks=ks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-3])
def test_a_rate_that_is_no_rate_is_refused(value):
    assert "learning_rate is" in refusal(learning_rate=value)


def test_settings_survive_a_round_through_json(tmp_path):
    config = lesson(tmp_path, "compressor", title="Für alle 🎉")
    assert TrainConfig.from_dict(json.loads(config.to_json())) == config


def test_unknown_and_missing_settings_are_named():
    with pytest.raises(UsageError, match=r"^Training settings: unknown colour, size; missing name, data\.$"):
        TrainConfig.from_dict({"mode": "joint", "colour": 1, "size": 2})


# --- order of rows -------------------------------------------------------------------------------------------------------

LENGTHS = [3 + (n * 37) % 101 for n in range(437)]


@pytest.mark.parametrize(("rows", "size"), [(437, 8), (437, 1), (437, 300), (16, 8), (20, 8), (9, 8), (8, 8), (3, 8), (1, 8)])
def test_an_epoch_uses_every_row_at_most_once_in_full_batches(rows, size):
    batches = epoch_order(LENGTHS[:rows], size, seed=1, epoch=0)
    used = Counter(n for batch in batches for n in batch)
    full = min(size, rows)
    assert set(used.values()) == {1} and set(used) <= set(range(rows))
    assert {len(batch) for batch in batches} == {full} and len(batches) == rows // full


def test_no_row_is_left_out_for_good():
    """A remainder smaller than a batch is dropped, but chance chooses it: long rows must not always be the ones that go."""
    used = Counter(n for epoch in range(40) for batch in epoch_order(LENGTHS[:20], 8, 1, epoch) for n in batch)
    assert set(used) == set(range(20)) and min(used.values()) >= 20


def test_rows_of_a_batch_are_of_similar_length_and_still_shuffled():
    batches = epoch_order(LENGTHS, 8, 1, 0)
    spread = [max(LENGTHS[n] for n in batch) - min(LENGTHS[n] for n in batch) for batch in batches]
    assert sum(spread) / len(spread) < 15, "shuffled batches of 8 would spread over some 80"
    assert [LENGTHS[batch[0]] for batch in batches] != sorted(LENGTHS[batch[0]] for batch in batches)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    orders = [epoch_order(LENGTHS, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert orders[0] == epoch_order(LENGTHS, 8, 0, 0) and all(a != b for n, a in enumerate(orders) for b in orders[:n])


def test_a_step_looked_up_alone_is_the_step_of_the_unbroken_run():
    unbroken = StepOrder(LENGTHS[:20], 8, 5)
    rows = [unbroken.rows(step) for step in range(9)]
    assert [StepOrder(LENGTHS[:20], 8, 5).rows(step) for step in range(9)] == rows
    assert [unbroken.rows(step) for step in reversed(range(9))] == rows[::-1]
    assert rows == [batch for epoch in range(5) for batch in epoch_order(LENGTHS[:20], 8, 5, epoch)][:9]


def test_draws_of_other_steps_and_purposes_are_independent():
    assert draw(0, "k", 3).random() == draw(0, "k", 3).random()
    assert len({draw(seed, what, step).random() for seed in (0, 1) for what in ("k", "answers") for step in (0, 1, 2)}) == 12
