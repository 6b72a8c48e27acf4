"""Runs on record: killed and resumed equals unbroken step by step, a bad number ends a run with its last good state kept."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from lessons import lesson, objective, records, run, toy_ground
from torch.nn import Parameter

from gistdemo.errors import TrainingError
from gistdemo.train.loop import LEAK_LOSS, Loop
from gistdemo.train.modes import MODES
from gistdemo.train.run import train


class Killed(BaseException):
    """Stands for a process that ends between two steps."""


class Wrapped:
    """An objective whose loss is changed, or cut off, at one step."""

    def __init__(self, inner, at: int, change):
        self.inner, self.at, self.change = inner, at, change

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def loss(self, step: int):
        loss, numbers = self.inner.loss(step)
        return (self.change(loss), numbers) if step == self.at else (loss, numbers)


def kill(loss):
    raise Killed


class OneNumber:
    """The smallest objective: one parameter, a given loss."""

    def __init__(self, loss):
        self.value, self._loss = Parameter(torch.ones(1)), loss

    def groups(self):
        return [{"params": [self.value], "lr": 0.1}]

    def loss(self, step: int):
        loss = self._loss(self.value, step)
        return loss, {"cross_entropy": loss.item(), "tokens": 1.0}

    def evaluate(self):
        return {"value": self.value.item()}

    def samples(self):
        return []

    def score(self, evaluation):
        return None


# --- resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_at", [2, 6, 11])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_was_killed_and_resumed_equals_the_unbroken_one_step_by_step(tmp_path, settings, mode, killed_at):
    """Losses, gradients, rates and evaluations on record are equal to the last digit, and so are the trained numbers.

    Killed before the first save (2), between saves (6), and after the last evaluation before the end (11).
    """
    config = lesson(tmp_path, mode)
    whole, last = run(config, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        run(config, settings, tmp_path / "cut", Wrapped(objective(config, settings), killed_at, kill))
    assert len(records(tmp_path / "cut")) == killed_at
    resumed, last_resumed = run(config, settings, tmp_path / "cut")
    for part in ("loss", "evaluation"):
        assert records(tmp_path / "cut", part) == records(tmp_path / "whole", part)
    assert [record["step"] for record in records(tmp_path / "cut")] == list(range(1, 13))
    assert last.pop("seconds") >= 0 and last_resumed.pop("seconds") >= 0 and last == last_resumed
    for a, b in zip(*([p for group in one.groups() for p in group["params"]] for one in (whole, resumed)), strict=True):
        assert torch.equal(a, b)


def test_a_resumed_run_draws_the_tokens_that_the_unbroken_one_drew(tmp_path, settings):
    config = lesson(tmp_path, "joint", sampled_vocabulary=20, distillation_weight=0.5)
    run(config, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        run(config, settings, tmp_path / "cut", Wrapped(objective(config, settings), 6, kill))
    run(config, settings, tmp_path / "cut")
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    run(lesson(tmp_path, "joint", distillation_weight=0.5), settings, tmp_path / "all")
    assert records(tmp_path / "all") != records(tmp_path / "whole"), "the sample changes the losses, or this test proves little"


def test_a_finished_run_is_not_run_again(tmp_path, settings):
    config = lesson(tmp_path, "embeddings")
    _, last = run(config, settings, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    learner = Wrapped(objective(config, settings), 0, kill)
    _, again = run(config, settings, tmp_path / "run", learner)
    assert again == last and (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_records_after_the_last_save_and_half_written_lines_are_cut_on_resume(tmp_path, settings):
    config = lesson(tmp_path, "embeddings")
    with pytest.raises(Killed):
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 7, kill))
    metrics = tmp_path / "run" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 8, "loss": 3.')
    run(config, settings, tmp_path / "run")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12], "each step once, evaluations after steps 0, 6 and 12"


def test_a_run_directory_belongs_to_its_settings(tmp_path, settings):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(lesson(tmp_path, "embeddings").to_json())
    with pytest.raises(TrainingError, match=r"^Run directory 'run' was started with other settings\. Use its own settings to resume"):
        train(lesson(tmp_path, "embeddings", seed=1), folder, settings)


@pytest.mark.parametrize("content", [b"", b"PK no archive", None])
def test_a_state_that_cannot_be_used_is_refused(tmp_path, settings, content):
    folder = tmp_path / "run"
    run(lesson(tmp_path, "embeddings", steps=1), settings, folder)
    if content is None:
        run(lesson(tmp_path, "embeddings", steps=1, ks=(2,)), settings, tmp_path / "other")
        content = (tmp_path / "other" / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"^The saved state of this run cannot be used \(.*Start again in a new run directory\.$"):
        run(lesson(tmp_path, "embeddings", steps=1), settings, folder)


def test_a_state_that_cannot_be_saved_keeps_the_last_one(tmp_path, settings, monkeypatch):
    config = lesson(tmp_path, "embeddings", evaluate_every=99)
    with pytest.raises(Killed):
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 6, kill))
    kept = (tmp_path / "run" / "state.pt").read_bytes()

    def full_disk(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(TrainingError, match=r"The state of step 8 cannot be saved \(.*No space left on device\)\. Free disk space"):
        run(config, settings, tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").read_bytes() == kept
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "state.pt"]


# --- bad numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_with_the_last_state_kept(tmp_path, settings, bad):
    config = lesson(tmp_path, "embeddings")
    with pytest.raises(TrainingError) as caught:
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 6, lambda loss: loss * bad))
    assert str(caught.value) == f"Loss is {bad} at step 7. The state of the last save is kept; lower the learning rate and resume."
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 4 and all(torch.isfinite(p).all() for p in state["parameters"])
    run(config, settings, tmp_path / "run")
    assert len(records(tmp_path / "run")) == 12


def test_a_gradient_that_is_no_number_ends_the_run_before_it_reaches_the_weights(tmp_path, settings):
    """The loss may still be finite: the root of zero is zero, its slope is not."""
    config = lesson(tmp_path, "embeddings", save_every=1)
    with pytest.raises(TrainingError, match=r"^Gradient norm is (nan|inf) at step 3\. The state of the last save is kept"):
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 2, lambda loss: (loss - loss.detach()).sqrt()))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2 and all(torch.isfinite(p).all() for p in state["parameters"])


@pytest.mark.parametrize(("level", "suspected"), [(LEAK_LOSS / 2, True), (LEAK_LOSS * 2, False)])
def test_a_loss_too_good_to_be_true_is_logged_as_a_suspected_label_leak(tmp_path, caplog, level, suspected):
    """A frozen model cannot know answers in its first steps unless they see themselves (T12)."""
    config = lesson(tmp_path, "embeddings", steps=1)
    with caplog.at_level(logging.WARNING):
        Loop(config, OneNumber(lambda value, step: level * value / value.detach()), tmp_path).run()
    assert ("suspected label leak" in caplog.text) == suspected


# --- the schedule --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_for_the_warmup_and_falls_to_its_floor(tmp_path):
    config = lesson(tmp_path, "embeddings", steps=100, warmup_steps=9, final_rate_share=0.1)
    loop = Loop(config, OneNumber(lambda value, step: value), tmp_path)
    rates = [loop.rate(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(0.1) and max(rates) > 0.97 and rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_each_group_keeps_its_own_peak_rate(tmp_path, settings):
    config = lesson(tmp_path, "compressor", learning_rate=0.001, gist_learning_rate=0.02)
    loop = Loop(config, objective(config, settings, toy_ground()), tmp_path)
    loop._step(3)
    assert [group["lr"] / loop.rate(3) for group in loop.optimizer.param_groups] == [pytest.approx(0.02), pytest.approx(0.001)]
