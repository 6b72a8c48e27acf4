"""A step's part of the vocabulary: all that answers need, a fair sample of the rest, and the whole where nothing is sampled."""

from __future__ import annotations

import math

import pytest
import torch
from lab import Lab
from lessons import lesson, objective
from torch.nn.functional import cross_entropy
from toy import toy_model

from gistdemo.model.gist_model import GistModel
from gistdemo.train.vocabulary import Part, Vocabulary

SIZE = 300
ANSWERS = [(7, 3, 299), (3,), (120, 7, 0)]
USED = {0, 3, 7, 120, 299}
CPU = torch.device("cpu")


def vocabulary(sampled: int = 40, seed: int = 0) -> Vocabulary:
    return Vocabulary(SIZE, ANSWERS, sampled, seed, CPU)


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(6, SIZE, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([7, 3, 299, 120, 7, 0])


def loss(part: Part, logits: torch.Tensor) -> torch.Tensor:
    return cross_entropy(*part.seen(logits if part.ids is None else logits[:, part.ids], TARGETS))


@pytest.mark.parametrize("sampled", [0, SIZE - len(USED), SIZE, 10**6])
def test_without_a_sample_the_loss_is_plain_cross_entropy(logits, sampled):
    """Nothing to be sampled, or no fewer than there are."""
    part = vocabulary(sampled).of(3)
    assert part == Part() and loss(part, logits) == cross_entropy(logits, TARGETS)


def test_half_precision_is_compared_in_full(logits):
    for part in (Part(), vocabulary().of(0)):
        seen, _ = part.seen((logits if part.ids is None else logits[:, part.ids]).bfloat16(), TARGETS)
        assert seen.dtype == torch.float32


@pytest.mark.parametrize("step", range(5))
def test_a_part_holds_every_answer_token_once_and_others_from_the_rest(step):
    ids = vocabulary().of(step).ids.tolist()
    assert len(ids) == len(USED) + 40 and sorted(i for i in ids if i in USED) == sorted(USED)
    assert all(0 <= i < SIZE for i in ids)


def test_targets_stand_where_their_token_stands(logits):
    part = vocabulary().of(2)
    seen, places = part.seen(logits[:, part.ids], TARGETS)
    assert part.ids[places].equal(TARGETS)
    assert seen.gather(1, places[:, None]).equal(logits.gather(1, TARGETS[:, None])), "an answer token stands for itself alone"


def test_a_part_depends_on_seed_and_step_and_nothing_else():
    part = vocabulary().of(5)
    made = vocabulary()
    for step in (9, 0, 5):
        again = made.of(step)
    assert again.ids.equal(part.ids) and again.weight.equal(part.weight) and again.place.equal(part.place)
    assert not vocabulary().of(6).ids.equal(part.ids) and not vocabulary(seed=1).of(5).ids.equal(part.ids)


def test_drawn_tokens_stand_for_all_others():
    """Each for as many as there are others per drawn one."""
    part = vocabulary(59).of(0)
    others = SIZE - len(USED)
    assert part.weight[: len(USED)].eq(0).all() and part.weight[len(USED) :].allclose(torch.tensor(math.log(others / 59)))
    assert part.weight[len(USED) :].exp().sum().item() == pytest.approx(others)


def test_the_normaliser_is_right_on_average_and_the_loss_comes_near_the_full_one(logits):
    """Near, not equal: the mean of a logarithm lies a little below the logarithm of the mean."""
    logits = logits / 3
    whole = logits.exp().sum(1)
    parts = [vocabulary(100).of(step) for step in range(3000)]
    estimates = torch.stack([part.seen(logits[:, part.ids], TARGETS)[0].exp().sum(1) for part in parts])
    assert torch.allclose(estimates.mean(0), whole, rtol=0.05)
    assert torch.stack([loss(part, logits) for part in parts]).mean().item() == pytest.approx(
        cross_entropy(logits, TARGETS).item(), abs=0.01
    )
    unweighted = torch.stack([cross_entropy(logits[:, p.ids], p.place[TARGETS]) for p in parts[:100]]).mean()
    assert unweighted < cross_entropy(logits, TARGETS) - 0.5, "without the weights it would be far below, or this test proves little"


# --- in the model and in a run -----------------------------------------------------------------------------------------------


def test_logits_of_a_part_are_those_of_the_whole_and_only_its_rows_of_the_head_are_moved():
    lab = Lab(model=GistModel(toy_model()))
    head = lab.model.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # untied, so that nothing else reaches it
    part = Vocabulary(259, [(70, 71)], 20, 0, CPU).of(0)
    prompts, answers = [[1, 5, 9], [1, 8]], [(70, 71), (71,)]
    whole, targets = lab.model.answer_logits(lab.model.empty(2), prompts, answers, None)
    some, same = lab.model.answer_logits(lab.model.empty(2), prompts, answers, None, part.ids)
    assert torch.allclose(some, whole[:, part.ids], atol=1e-6) and targets.tolist() == same.tolist() == [70, 71, 71]
    cross_entropy(*part.seen(some, same)).backward()
    moved = set(head.weight.grad.abs().sum(1).nonzero()[:, 0].tolist())
    assert moved == set(part.ids.tolist()) and {70, 71} <= moved


@pytest.mark.parametrize("mode", ["embeddings", "joint", "compressor"])
def test_a_sample_of_everything_changes_no_loss(tmp_path, settings, mode):
    whole, sampled = (objective(lesson(tmp_path, mode, sampled_vocabulary=count), settings).loss(0)[0] for count in (0, 10**6))
    assert torch.equal(whole, sampled)


def test_a_run_with_a_sample_is_judged_with_the_whole_vocabulary(tmp_path, settings):
    whole, sampled = (objective(lesson(tmp_path, "joint", sampled_vocabulary=count), settings) for count in (0, 20))
    assert not torch.equal(whole.loss(0)[0], sampled.loss(0)[0]), "a step is not, or this test proves little"
    assert whole.evaluate() == sampled.evaluate()


def test_the_sample_knows_the_tokens_of_every_answer_that_a_step_may_draw(tmp_path, settings):
    """Also of the teacher's own answers, and of long text."""
    from test_training_modes import long_lesson

    learner = objective(long_lesson(tmp_path, sampled_vocabulary=20), settings)
    known = set(learner.vocabulary.of(0).ids.tolist()[:-20])
    for step in range(40):
        rows, _ = learner.rows.batch(step)
        assert {token for row in rows for token in row.answer} <= known
