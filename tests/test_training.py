"""What training learns and what it leaves alone: each mode gets better at its own aim, the backbone stays as it was, data stay apart."""

from __future__ import annotations

import json

import pytest
import torch
from lab import EXAMPLES, Lab
from lessons import HELD, ROWS, lesson, objective, records, run, toy_ground, write_rows
from torch.nn.functional import cross_entropy
from toy import toy_model

from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import rows_digest
from gistdemo.errors import DataError
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.generation import Sampling
from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import Example, plan
from gistdemo.train.modes import MODES
from gistdemo.train.objectives import TRAINED

ANSWER = (70, 71, 72)


# --- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_falls(tmp_path, settings, mode):
    config = lesson(tmp_path, mode, steps=40, batch_size=8, ks=(4,), evaluate_every=100, teacher_answers=8, teacher_share=1.0)
    learner, last = run(config, settings, tmp_path / "run")
    losses = [record["loss"] for record in records(tmp_path / "run")]
    assert len(losses) == 40 and losses[-1] < 0.9 * losses[0]
    assert last["steps"] == 40 and learner.rows.describe()


def test_a_compressor_learns_eight_rows_by_heart_and_the_swapped_control_does_not(tmp_path, settings):
    """Recovery is near 1 on the rows it was trained on, and stays low with the gist of another row."""
    by_heart = {"teacher_answers": 8, "teacher_share": 1.0, "cross_entropy_weight": 0.0}
    config = lesson(tmp_path, "compressor", steps=150, batch_size=8, ks=(4,), evaluate_every=999, **by_heart)
    learner, _ = run(config, settings, tmp_path / "run")
    own = [Judged(row.encoded, learner.rows.own[row.encoded.ids()]) for row in learner.rows.train]
    figures = measure_recovery(learner.ground.model, own, learner.slots.detach(), (4,), TRAINED, None, anchored=True)
    assert figures["nll_none"] - figures["nll_full"] > 0.5, "without a gap between full and none, recovery says nothing"
    assert 0.9 < figures["by_k"]["4"]["recovery"] < 1.1 and figures["by_k"]["4"]["swapped"] < 0.45


@pytest.mark.parametrize("mode", MODES)
def test_after_training_the_backbone_without_adapter_is_bit_for_bit_what_it_was(tmp_path, settings, mode):
    untouched, weights = Lab(model=GistModel(toy_model())), toy_model().state_dict()
    ground = toy_ground()
    run(lesson(tmp_path, mode), settings, tmp_path / "run", objective(lesson(tmp_path, mode), settings, ground))
    trained = Lab(model=ground.model)
    for condition in ("full", "truncated", "none"):
        before, after = (lab.answer_logits(condition, EXAMPLES, [ANSWER] * 4) for lab in (untouched, trained))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert untouched.ids([untouched.row(condition, e) for e in EXAMPLES]) == trained.ids([trained.row(condition, e) for e in EXAMPLES])
    now = {name.replace(".base_layer", ""): value for name, value in ground.model.model.state_dict().items() if "lora_" not in name}
    assert now.keys() == weights.keys() and all(torch.equal(now[name], value) for name, value in weights.items())


def test_a_trained_compressor_acts_on_the_gist_alone(tmp_path, settings):
    learner, _ = run(lesson(tmp_path, "compressor"), settings, tmp_path / "run")
    lab = Lab(model=learner.ground.model)
    with torch.no_grad():
        made = lab.plan("gist", EXAMPLES[1])
        on, off = (lab.start([made], adapter) for adapter in (TRAINED, None))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(on.values, off.values, strict=True))
    answers = lab.ids([lab.row("gist", example, 4, TRAINED) for example in EXAMPLES], Sampling(12))
    assert len({tuple(ids) for ids in answers}) == len(EXAMPLES), "different instructions, different answers"


# --- the objective is causal and starts where a frozen model stands -------------------------------------------------------


@pytest.mark.parametrize("mode", ["embeddings", "compressor"])
def test_the_first_loss_is_that_of_a_model_that_knows_no_answer(tmp_path, settings, mode):
    """A random model on references stands near ln(vocabulary); a low first loss would mean that answers see themselves (T12)."""
    learner = objective(lesson(tmp_path, mode), settings)
    _, numbers = learner.loss(0)
    assert numbers["cross_entropy"] > 1.0
    figures = learner.evaluate()["references"]
    assert min(figures["nll_full"], figures["nll_none"], figures["by_k"][str(learner.config.watched_k)]["nll_gist"]) > 1.0


def test_the_loss_is_the_cross_entropy_of_the_gist_condition(tmp_path, settings):
    """Recomputed row by row from logits, without batches; every row of the batch counts by its tokens."""
    config = lesson(tmp_path, "embeddings", ks=(4,), batch_size=8, anchored=False)
    learner = objective(config, settings)
    lab = Lab(model=learner.ground.model)
    lab.slots = learner.slots.detach()
    answers = [lab.encoder.answer_ids(output, 8) for _, output in ROWS]
    logits = [lab.answer_logits("gist", [Example(ROWS[n][0])], [answers[n]])[0] for n in range(8)]
    expected = cross_entropy(torch.cat(logits), torch.tensor([i for answer in answers for i in answer]))
    assert learner.loss(0)[0].item() == pytest.approx(expected.item(), abs=1e-4)


def test_recovery_is_the_formula_on_four_plain_averages(tmp_path, settings):
    learner = objective(lesson(tmp_path, "embeddings", anchored=False), settings)
    lab, rows = Lab(model=learner.ground.model), learner.rows.held
    lab.slots = learner.slots.detach()
    answers = [row.answer for row in rows]
    targets = torch.tensor([i for answer in answers for i in answer])

    def nll(condition: str) -> float:
        return cross_entropy(torch.cat(lab.answer_logits(condition, [Example(i) for i, _ in HELD], answers)), targets).item()

    figures = measure_recovery(lab.model, rows, lab.slots, (4,), None, None)
    full, none, gist = nll("full"), nll("none"), nll("gist")
    assert (figures["nll_full"], figures["nll_none"]) == (pytest.approx(full, abs=1e-4), pytest.approx(none, abs=1e-4))
    assert figures["by_k"]["4"]["nll_gist"] == pytest.approx(gist, abs=1e-4)
    assert figures["by_k"]["4"]["recovery"] == pytest.approx((none - gist) / (none - full), abs=1e-2)
    assert figures["rows"] == 4 and figures["answer_tokens"] == len(targets)


def test_how_far_the_gist_moved_is_reported(tmp_path, settings):
    """Zero before the first step, clearly more after: an untrained gist must not pass for a trained one (T13)."""
    learner, last = run(lesson(tmp_path, "embeddings"), settings, tmp_path / "run")
    first, *_ = records(tmp_path / "run", "evaluation")
    assert first["evaluation"]["gist_shift"] == 0.0 and last["gist_shift"] > 0.1
    assert last["gist_shift"] == pytest.approx((learner.slots.detach() - learner.initial).norm(dim=1).mean().item())


# --- data ----------------------------------------------------------------------------------------------------------------


def instructions(learner, rows) -> set[str]:
    return {learner.ground.encoder._literal.decode(row.encoded.ids("instruction")) for row in rows}


def test_no_instruction_is_trained_on_and_judged_by(tmp_path, settings):
    """Even where the validation file repeats instructions of the training file with other answers (T11)."""
    shared = [(ROWS[2][0], "Another answer."), (ROWS[5][0] + "  ", "Rhine"), *HELD[:2]]
    config = lesson(tmp_path, "embeddings", validation=write_rows(tmp_path / "shared.jsonl", shared))
    learner = objective(config, settings)
    train, held = instructions(learner, learner.rows.train), instructions(learner, learner.rows.held)
    assert not train & held and held == {i.strip() for i, _ in shared}
    assert train == {i for n, (i, _) in enumerate(ROWS) if n not in (2, 5)}


def test_without_a_validation_file_rows_are_split_off_by_instruction(tmp_path, settings):
    rows = [(f"Instruction number {n % 10}", f"answer {n}") for n in range(30)]
    data = write_rows(tmp_path / "all.jsonl", rows)
    learner = objective(lesson(tmp_path, "embeddings", data=data, validation="", evaluate_rows=6), settings)
    train, held = instructions(learner, learner.rows.train), instructions(learner, learner.rows.held)
    assert not train & held and len(train | held) == 10 and len(learner.rows.train) + len(learner.rows.held) == 30


def test_the_record_of_the_data_names_rows_digests_and_what_was_left_out(tmp_path, settings):
    path = tmp_path / "mixed.jsonl"
    write_rows(path, [*ROWS, ("Too long. " * 40, "x"), ("No answer", "")])
    data = objective(lesson(tmp_path, "embeddings", data=str(path)), settings).rows.describe()
    assert data["train"] == {"name": "mixed.jsonl", "rows": 8, "digest": rows_digest([Example(i, "", o) for i, o in ROWS])}
    assert data["rejected"] == {"no reference answer": 1, "longer than max_prompt_tokens or not encodable": 1}
    assert data["validation"] == {"name": "held.jsonl", "rows": 4, "digest": rows_digest([Example(i, "", o) for i, o in HELD])}
    assert json.dumps(data)


def test_too_few_rows_are_refused_with_both_numbers(tmp_path, settings):
    one = write_rows(tmp_path / "one.jsonl", HELD[:1])
    with pytest.raises(DataError, match=r"'train\.jsonl' leaves 8 rows to train on and 1 to judge by; at least 1 and 2 are needed"):
        objective(lesson(tmp_path, "embeddings", validation=one), settings)


def test_the_teachers_answers_are_its_greedy_ones_kept_and_gone_on_with(tmp_path, settings):
    """They come from the full prompt; an interrupted file is completed, not begun again."""
    config = lesson(tmp_path, "compressor", teacher_answers=8)
    first = objective(config, settings)
    lab = Lab(model=GistModel(toy_model()))
    rows = [lab.row("full", Example(i), stop_ids=lab.encoder.stop_ids) for i, _ in ROWS]
    assert [first.rows.own[row.plan.prompt_ids] for row in rows] == [tuple(ids) for ids in lab.ids(rows, Sampling(8))]
    assert rows[0].plan.prompt_ids == plan(first.rows.train[0].encoded, CONDITIONS["full"], 0).prompt_ids
    files = {path: path.read_text() for path in (settings.cache_dir / "teacher").iterdir()}
    assert len(files) == 1, "prompts to learn from and prompts to judge by share one file"
    for path, content in files.items():
        path.write_text(content[: len(content) // 2])
    again = objective(config, settings)
    assert again.rows.own == first.rows.own and again.judged == first.judged
    assert objective(config, settings).rows.own == first.rows.own
