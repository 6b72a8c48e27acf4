"""Joint training, accumulation, long text, presets, what is kept of a run, and running out of memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from lab import EXAMPLES, Lab
from lessons import HELD, ROWS, lesson, objective, records, run, toy_ground, write_rows
from test_training_run import OneNumber, Wrapped
from test_training_whole import answers
from toy import save_toy

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint, find_row
from gistdemo.data.alpaca import instruction_mark, read_marks
from gistdemo.errors import CheckpointError, DataError, TrainingError, UsageError
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.model.embedded import EMBEDDED
from gistdemo.prompts import Example
from gistdemo.settings import PROJECT_DIR
from gistdemo.train.config import TrainConfig
from gistdemo.train.loop import Loop
from gistdemo.train.objectives import TRAINED, Seen
from gistdemo.train.presets import PRESETS, read_recipe, with_preset
from gistdemo.train.rows import LONG_TOKENS
from gistdemo.train.run import train, training_dtype
from gistdemo.train.vocabulary import Part

# --- joint ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "rate", "reached"), [("all", 3e-3, 0.1), ("lora", 2e-2, 2.0)])
def test_joint_learns_eight_rows_by_heart_in_both_conditions(tmp_path, settings, weights, rate, reached):
    """From 6.1 nats. Adapters cannot reach zero here: the toy's frozen vocabulary layer is random and small."""
    config = lesson(tmp_path, "joint", steps=150, batch_size=8, ks=(4,), weights=weights, learning_rate=rate, evaluate_every=999)
    learner, _ = run(config, settings, tmp_path / "run")
    with torch.no_grad():
        for seen in (learner.after_gist(learner.rows.train, 4, Part()), learner.after_full_prompt(learner.rows.train, Part())):
            assert seen.cross_entropy < reached
    adapter = None if weights == "all" else TRAINED
    figures = measure_recovery(learner.ground.model, learner.rows.train, learner.slots.detach(), (4,), adapter, adapter, anchored=True)
    assert 0.9 < figures["by_k"]["4"]["recovery"] < 1.1 and figures["by_k"]["4"]["swapped"] < 0.5


def test_all_weights_are_kept_in_the_checkpoint_and_leave_the_backbone_alone(tmp_path, settings):
    folder, shelf = save_toy(tmp_path / "toy"), settings.data_dir / "checkpoints"
    train(lesson(tmp_path / "a", "embeddings", backbone=str(folder), name="plain", steps=1), tmp_path / "run-a", settings, shelf / "plain")
    config = lesson(tmp_path / "b", "joint", backbone=str(folder), name="whole", weights="all", steps=12, learning_rate=1e-2)
    train(config, tmp_path / "run-b", settings, shelf / "whole")
    manifest = find_checkpoint("whole", settings.checkpoint_dirs).manifest
    assert manifest.has_weights and manifest.model_key != manifest.backbone
    pool = ModelPool(settings)
    base, _ = pool.row(find_row("plain", settings))
    tuned, loaded = pool.row(find_row("whole", settings))
    assert tuned.model is not base.model and (loaded.compress_adapter, loaded.decode_adapter) == (None, None)
    assert answers(settings, "whole", "full", 0) != answers(settings, "plain", "full", 0)
    (shelf / "whole" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors has 3 bytes"):
        find_checkpoint("whole", settings.checkpoint_dirs)


def test_a_share_of_joint_steps_sees_the_full_prompt(tmp_path, settings):
    learner = objective(lesson(tmp_path, "joint", full_share=0.5), settings)
    full = sum("full" in learner.loss(step)[1] for step in range(40))
    assert 10 < full < 30
    assert not any("full" in objective(lesson(tmp_path, "joint", full_share=0.0), settings).loss(step)[1] for step in range(5))


def test_joint_can_be_taught_by_its_own_full_prompt(tmp_path, settings):
    """Its KL is added with its weight; a step on the full prompt has nothing to learn from itself."""
    shared = {"full_share": 0.0, "ks": (4,)}
    plain = objective(lesson(tmp_path, "joint", **shared), settings).loss(0)
    taught = objective(lesson(tmp_path, "joint", distillation_weight=2.5, **shared), settings).loss(0)
    assert "kl" not in plain[1] and taught[1]["cross_entropy"] == pytest.approx(plain[1]["cross_entropy"])
    assert taught[1]["kl"] > 0 and taught[0].item() == pytest.approx(plain[0].item() + 2.5 * taught[1]["kl"], rel=1e-5)
    assert "kl" not in objective(lesson(tmp_path, "joint", distillation_weight=2.5, full_share=1.0), settings).loss(0)[1]


def test_the_full_prompt_that_teaches_is_not_moved_towards_the_gist(tmp_path, settings):
    """Slots and weights get the gradient of the gist's side alone: with the teacher as a constant it is the same."""
    learner = objective(lesson(tmp_path, "joint", distillation_weight=1.0, full_share=0.0, ks=(4,)), settings)
    weights = [p for group in learner.groups() for p in group["params"]]
    found = torch.autograd.grad(learner.loss(0)[0], weights, allow_unused=True)
    rows, _ = learner.rows.batch(0)
    teacher = torch.log_softmax(learner.after_full_prompt(rows, Part()).logits.detach(), -1)
    seen = learner.after_gist(rows, 4, Part())
    soft = torch.nn.functional.kl_div(torch.log_softmax(seen.logits, -1), teacher, log_target=True, reduction="batchmean")
    expected = torch.autograd.grad(seen.cross_entropy + soft, weights, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None) and (ours is None or torch.allclose(ours, theirs, atol=1e-6))


def test_unlikelihood_is_of_earlier_tokens_that_do_not_come_next():
    """Written out for an answer of five tokens, where token 2 comes again: it is no candidate there, and counts once later on."""
    said, logits = [2, 0, 2, 1, 3], torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    share = logits.softmax(-1)
    candidates = ((1, 2), (2, 0), (3, 2), (3, 0), (4, 2), (4, 0), (4, 1))
    expected = -sum(torch.log(1 - share[at, token]) for at, token in candidates) / 7
    short = torch.tensor([3, 0])
    both = torch.cat([logits, logits[:2]])
    other = -torch.log(1 - share[1, 3]) / 7
    rows = [Judged(None, tuple(said)), Judged(None, tuple(short.tolist()))]
    seen = Seen(rows, Part(), both, torch.cat([torch.tensor(said), short]))
    assert seen.unlikelihood.item() == pytest.approx((expected + other).item(), rel=1e-5)


def test_joint_can_be_kept_from_repeating_itself(tmp_path, settings):
    for share in (0.0, 1.0):
        shared = {"full_share": share, "ks": (4,)}
        plain = objective(lesson(tmp_path, "joint", **shared), settings).loss(0)
        kept = objective(lesson(tmp_path, "joint", unlikelihood_weight=3.0, **shared), settings).loss(0)
        assert "unlikelihood" not in plain[1] and kept[1]["unlikelihood"] > 0
        assert kept[0].item() == pytest.approx(plain[0].item() + 3.0 * kept[1]["unlikelihood"], rel=1e-5)


# --- loop ----------------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_large_batch(tmp_path, settings):
    """Two batches of four rows move the weights as one of eight does, where both see the same rows with equally long answers."""
    rows = [(instruction, "answer!!") for instruction, _ in ROWS]
    data = write_rows(tmp_path / "even.jsonl", rows)
    shared = {"data": data, "steps": 1, "ks": (4,), "evaluate_every": 99, "gradient_clip": 9.0, "warmup_steps": 0}
    small, _ = run(lesson(tmp_path, "embeddings", batch_size=4, accumulation=2, **shared), settings, tmp_path / "small")
    large, _ = run(lesson(tmp_path, "embeddings", batch_size=8, **shared), settings, tmp_path / "large")
    assert records(tmp_path / "small")[0]["gradient_norm"] == pytest.approx(records(tmp_path / "large")[0]["gradient_norm"], rel=1e-3)
    assert torch.allclose(small.slots, large.slots, atol=1e-4)


class Course(OneNumber):
    """Is judged by given scores, evaluation after evaluation."""

    def __init__(self, scores):
        super().__init__(lambda value, step: value)
        self.scores, self.seen = iter(scores), []

    def evaluate(self):
        self.seen.append(self.value.item())
        return {"score": next(self.scores)}

    def score(self, evaluation):
        return evaluation["score"]


def test_the_run_ends_with_the_numbers_that_were_judged_best(tmp_path):
    config = lesson(tmp_path, "embeddings", steps=6, evaluate_every=2)
    course = Course([9.0, 1.0, 3.0, 2.0])  # the first is of the untrained numbers and does not count
    last = Loop(config, course, tmp_path).run()
    assert last["score"] == 3.0 and course.value.item() == course.seen[2] != course.seen[3]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_running_out_of_memory_names_the_knobs(tmp_path, settings, error):
    def fail(loss):
        raise error

    config = lesson(tmp_path, "embeddings")
    with pytest.raises(
        TrainingError, match=r"^Out of memory at step 3 with batch_size 4\. Start again with batch_size 2 and accumulation 2"
    ):
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 2, fail))


@pytest.mark.parametrize(("rise", "ends"), [(1.2, True), (1.001, False)])
def test_a_loss_that_leaves_for_good_ends_the_run(tmp_path, rise, ends):
    """Finite all the way, and so not caught as a number that is none."""
    config = lesson(tmp_path, "embeddings", steps=60, evaluate_every=99)
    loop = Loop(config, OneNumber(lambda value, step: value / value.detach() * rise**step), tmp_path)
    if not ends:
        assert loop.run()["steps"] == 60
        return
    with pytest.raises(
        TrainingError, match=r"^Training diverged: the mean loss of 20 steps rose from .* at step 40\. The best state so far is kept"
    ):
        loop.run()
    assert (tmp_path / "state.pt").exists()


def test_another_error_of_a_step_is_not_taken_for_memory(tmp_path, settings):
    def fail(loss):
        raise RuntimeError("shapes do not match")

    config = lesson(tmp_path, "embeddings")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(config, settings, tmp_path / "run", Wrapped(objective(config, settings), 2, fail))


def test_speed_is_on_record(tmp_path, settings):
    run(lesson(tmp_path, "compressor"), settings, tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert "evaluation" in record or (record["samples_per_second"] > 0 and record["tokens_per_second"] > 0 and record["memory_gib"] > 0)


# --- long text -----------------------------------------------------------------------------------------------------------


def long_lesson(tmp_path, **changes):
    words = " ".join(f"word{n}" for n in range(12))
    rows = [{"instruction": f"{i} Number {n}.", "input": words, "output": o} for n, (i, o) in enumerate(ROWS)]
    rows += [{"instruction": i, "input": "", "output": o} for i, o in ROWS]
    held = [{"instruction": f"{i} Held {n}.", "input": words, "output": o} for n, (i, o) in enumerate(HELD)]
    for name, content in (("long", rows), ("long_held", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    values = {"data": str(tmp_path / "long.jsonl"), "validation": str(tmp_path / "long_held.jsonl"), "long_share": 0.5, "ks": (1, 4, 8)}
    return lesson(tmp_path, "compressor", **(values | changes))


def test_long_text_is_compressed_whole_and_not_squeezed_into_few_slots(tmp_path, settings):
    learner = objective(long_lesson(tmp_path), settings)
    assert len(learner.rows.long) == 8 and all(row.encoded.count("instruction") >= LONG_TOKENS for row in learner.rows.long)
    assert all(not row.encoded.count("input") for row in learner.rows.long + learner.rows.held_long)
    pools = {learner.rows.batch(step)[1] for step in range(60)}
    assert pools == {"reference", "own", "long reference", "long own"}
    for step in range(60):
        rows, pool = learner.rows.batch(step)
        assert ("long" in pool) == (min(row.encoded.count("instruction") for row in rows) >= LONG_TOKENS)
        assert learner.rows.budget(step, pool) >= (4 if "long" in pool else 1)
    assert set(learner.evaluate()) == {"references", "own_answers", "long_references", "gist_shift"}
    assert learner.rows.describe()["long"] == {"rows": 8, "held_out_rows": 4}


def test_a_long_share_without_long_rows_is_refused(tmp_path, settings):
    with pytest.raises(DataError, match=r"long_share is 0\.5, but only 0 rows to train on and 0 to judge by have 30 tokens"):
        objective(lesson(tmp_path, "compressor", long_share=0.5), settings)


def test_joined_text_gives_the_same_full_prompt(lab):
    example = Example("Translate the sentence.", "good day", "bonjour")
    joined = lab.encoder.joined(example)
    assert joined.input == "" and lab.encoder.joined(EXAMPLES[0]) == EXAMPLES[0]
    assert lab.encoder.encode(joined).ids() == lab.encoder.encode(example).ids()
    assert lab.encoder.encode(joined).count("instruction") > lab.encoder.encode(example).count("instruction")


# --- rows held out by their mark -------------------------------------------------------------------------------------------


def test_marked_instructions_are_not_trained_on_and_leave_the_validation_alone(tmp_path, settings):
    path = tmp_path / "held-out.txt"
    path.write_text("".join(f"{instruction_mark(Example(text))}\n" for text in (ROWS[0][0].upper(), ROWS[3][0], HELD[0][0])))
    learner = objective(lesson(tmp_path, "embeddings", held_out=str(path)), settings)
    wanted = {instruction_mark(Example(instruction)) for n, (instruction, _) in enumerate(ROWS) if n not in (0, 3)}
    assert learner.rows.marks == wanted and len(learner.rows.train) == 6 and len(learner.rows.held) == len(HELD)


# --- presets, precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_whole_set_of_settings_and_yields_to_what_is_given(name):
    config = with_preset(name, {"name": "x", "data": "d.jsonl", "steps": 7})
    assert config.steps == 7 and all(getattr(config, key) == value for key, value in PRESETS[name].values.items() if key != "steps")
    assert TrainConfig.from_dict(json.loads(config.to_json())) == config


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match=r"Preset 'fast' is not known\. Choose one of quick, standard, paper, earlier-experiment"):
        with_preset("fast", {})


RECIPES = sorted((PROJECT_DIR / "assets" / "recipes").glob("*.json"), key=lambda path: path.stem)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_whole_set_of_settings_of_the_checkpoint_it_names(path, settings):
    values = read_recipe(path.stem, settings)
    config = with_preset("", values | {"data": "d.jsonl"})
    assert config.name == path.stem and config.backbone in EMBEDDED and config.title and config.summary
    assert not config.held_out or read_marks(Path(config.held_out))
    assert read_recipe(str(path), settings) == values, "by its path as well"


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "holds a JSON list")])
def test_a_recipe_that_is_none_is_refused_with_those_that_exist(tmp_path, settings, content, words):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_recipe(str(path), settings)
    with pytest.raises(UsageError, match=f"Give one of {', '.join(path.stem for path in RECIPES)}, or the path of a JSON file"):
        read_recipe("gone", settings)


def test_the_earlier_setting_cannot_move_the_vector(tmp_path, settings):
    """Its learning rate on its one vector, here for 12 steps: the vector has moved by less than a thousandth of its length."""
    values = {**PRESETS["earlier-experiment"].values, "steps": 12, "samples": 0}
    learner, last = run(lesson(tmp_path, **values), settings, tmp_path / "run")
    assert 0 < last["gist_shift"] < 1e-2 * learner.initial.norm(dim=1).mean()


def test_trained_weights_stay_in_full_precision(tmp_path):
    assert training_dtype(lesson(tmp_path, "compressor", dtype="bfloat16"), "cpu") == torch.bfloat16
    assert training_dtype(lesson(tmp_path, "joint", weights="all", dtype="bfloat16"), "cpu") == torch.float32
    assert training_dtype(lesson(tmp_path, "compressor"), "cpu") in (torch.bfloat16, torch.float32)


def test_a_backbone_in_half_precision_keeps_its_adapters_in_full(tmp_path, settings):
    ground = toy_ground()
    ground.model.model.to(torch.bfloat16)
    learner, _ = run(
        lesson(tmp_path, "compressor"), settings, tmp_path / "run", objective(lesson(tmp_path, "compressor"), settings, ground)
    )
    assert {p.dtype for group in learner.groups() for p in group["params"]} == {torch.float32}
    lab = Lab(model=ground.model)
    rows = [lab.row("gist", EXAMPLES[0], 4, TRAINED), lab.row("full", EXAMPLES[1]), lab.row("full", EXAMPLES[2], decode_adapter=TRAINED)]
    assert all(len(ids) == 12 for ids in lab.ids(rows)), "mixed rows, one pass"


# --- no answer token sees what comes after it -----------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("mode", ["embeddings", "compressor", "joint"])
@torch.no_grad()
def test_a_changed_answer_token_changes_nothing_before_it(tmp_path, settings, mode, anchored):
    """Bit for bit in the logits that a training step learns from, of the gist and of the full prompt (T12's cause)."""
    learner = objective(lesson(tmp_path, mode, anchored=anchored), settings)
    row = learner.rows.train[0]
    for at in range(len(row.answer)):
        answer = list(row.answer)
        answer[at] = (answer[at] + 7) % 50
        changed = dataclasses.replace(row, answer=tuple(answer))
        for logits in (lambda r: learner.after_gist([r], 4, Part()).logits, lambda r: learner.after_full_prompt([r], Part()).logits):
            before, after = logits(row), logits(changed)
            assert torch.equal(before[: at + 1], after[: at + 1])
            assert at + 1 == len(before) or not torch.equal(before[at + 1 :], after[at + 1 :])
