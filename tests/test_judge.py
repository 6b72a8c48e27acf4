"""The second judgement: likelihoods are those of the stock model, contrasts and bounds as defined, and the same everywhere."""

from __future__ import annotations

import dataclasses
import json
import math
import threading

import pytest
import torch
from judges import GivenJudge
from scripted import LOOP, ScriptedPool, write_two_checkpoints
from test_one_verdict import record
from torch.nn.functional import log_softmax
from toy import save_toy

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.cli import main
from gistdemo.compare import compare
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import UsageError, WorkStopped
from gistdemo.evaluate.tasks import judge_answers
from gistdemo.generation import Sampling
from gistdemo.grid import CompareRequest
from gistdemo.judge.calibration import Calibration
from gistdemo.judge.judge import Judge, load_judge
from gistdemo.metrics import Task
from gistdemo.metrics.task import SHORT, Bounds, Likelihoods, judge_task, judged_part, told_at_once
from gistdemo.present.tables import row_detail
from gistdemo.prompts import Example
from gistdemo.results.answer import judged
from gistdemo.results.imported import read_foreign
from gistdemo.results.summary import summarise
from gistdemo.services import LOCAL, Services, visitor
from gistdemo.settings import PROJECT_DIR, Settings

BOUNDS = (Bounds(0.5, 1.5), Bounds(-1.0, -0.5))
ASKED = Example("Describe the sea.", "", "The sea is wide and blue.")
GIVEN = Example("Make it shorter.", "The sea is wide, and it is blue as well.", "The sea is wide and blue.")
OTHERS = (Example("Name three fruits.", "", ""), Example("Translate it.", "Guten Tag", ""))


def found(own: float, *, same=(), elsewhere=(-20.0,), without=-30.0, tokens=16) -> Likelihoods:
    return Likelihoods(tokens, own, without, same, elsewhere)


# --- the rule ------------------------------------------------------------------------------------------------------------


def test_contrasts_gain_and_rank_by_hand():
    one = Likelihoods(4, -10.0, -12.0, (-11.0, -9.0), (-20.0, -16.0))
    assert one.gain == 0.5 and one.rank == 2
    assert one.contrasts == (3.0, -0.5), "to the best other prompt, and the best other instruction, over the root of 4 tokens"
    assert Likelihoods(4, -10.0, -12.0, (), (-20.0,)).contrasts == (5.0,), "without an input there is one question only"
    assert Likelihoods(4, -10.0, -8.0, (-11.0,), (-20.0,)).contrasts[1] == -1.0, "no instruction is another instruction too"


@pytest.mark.parametrize(
    ("likelihoods", "verdict"),
    [
        (found(-14.0), "on task"),
        (found(-16.0), "unsure"),
        (found(-19.0), "off task"),
        (found(-3.0, elsewhere=(-4.0,), tokens=SHORT), "unsure"),
        (found(-14.0, same=(-13.0,)), "on task"),
        (found(-14.0, same=(-11.0,)), "unsure"),
        (found(-14.0, same=(-9.0,)), "off task"),
        (found(-19.0, same=(-40.0,)), "off task"),
    ],
    ids=["far", "between", "as likely elsewhere", "short", "any instruction", "another fits better", "follows the input only", "both"],
)
def test_the_worse_of_both_questions_decides(likelihoods, verdict):
    task = judge_task(likelihoods, BOUNDS, "me")
    assert (task.verdict, task.judge, task.of) == (verdict, "me", 2 + len(likelihoods.same_input))


def test_what_no_model_need_read():
    echo = "Describe in three words what the sea looks like at night."
    assert told_at_once(" \n", "Say hi.", "").verdict == "off task"
    assert told_at_once(echo, echo, "").verdict == "off task"
    assert told_at_once("say HI", "Say hi.", "").verdict == "off task"
    assert told_at_once("Dark, wide, quiet.", echo, "") is None
    assert told_at_once("Repeat after me: hello world.", "Repeat after me: hello world.", "") is None, "it was asked to"


def test_of_an_answer_that_goes_round_the_first_copy_is_judged():
    assert judged_part("Well, " + LOOP * 9).startswith("Well, ") and len(judged_part("Well, " + LOOP * 9)) <= len("Well, " + LOOP)
    assert judged_part("A sentence without a loop.") == "A sentence without a loop."


# --- likelihoods ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def judge(settings, tmp_path) -> Judge:
    """A toy model that judges; it was calibrated with nothing."""
    calibration = Calibration(str(save_toy(tmp_path / "toy")), "", "exact", 6, 60, 20, ("Rewrite it.", "Sum it up."), OTHERS, BOUNDS)
    calibration.write(tmp_path)
    assert Calibration.read(tmp_path) == calibration
    settings = dataclasses.replace(settings, assets_dir=tmp_path)
    made = load_judge(ModelPool(settings), settings)
    assert made and made.is_at_hand()
    return made


def by_hand(judge: Judge, example: Example, condition: str, text: str) -> float:
    """The whole sequence in one pass of the stock model; probability shared by the first 60 tokens and the answer's own."""
    row = judge._pool.row
    from gistdemo.checkpoint.registry import find_row

    base, loaded = row(find_row(judge.calibration.checkpoint, judge._settings))
    prompt = list(loaded.plan(example, CONDITIONS[condition], 0).prompt_ids)
    ids = loaded.encoder.text_ids(loaded.encoder.template.before_answer + text)[:6]
    total = 0.0
    with torch.no_grad():
        logits = base.model.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    for place, token in zip(logits, ids, strict=True):
        among = sorted({*range(60), token})
        total += float(log_softmax(place[among], -1)[among.index(token)])
    return total


@pytest.mark.parametrize("example", [ASKED, GIVEN], ids=["no input", "input"])
def test_likelihoods_are_those_of_the_stock_model(judge, example):
    text = "The sea, wide\u00ff and blue."
    for _ in range(2):  # the second time all prompts have been read before
        likelihoods = judge.reader.likelihoods(example, text)
        cut = dataclasses.replace(example, input=example.input[:20])
        assert likelihoods.tokens == 6
        assert likelihoods.own == pytest.approx(by_hand(judge, cut, "full", text), abs=1e-3)
        assert likelihoods.without == pytest.approx(by_hand(judge, cut, "none", text), abs=1e-3)
        assert likelihoods.elsewhere == pytest.approx([by_hand(judge, other, "full", text) for other in OTHERS], abs=1e-3)
        same = [by_hand(judge, Example(i, cut.input, ""), "full", text) for i in ("Rewrite it.", "Sum it up.")] if example.input else []
        assert likelihoods.same_input == pytest.approx(same, abs=1e-3)


def test_a_prompt_is_not_held_against_itself(judge):
    assert len(judge.reader.likelihoods(OTHERS[0], "Apples, pears, plums.").elsewhere) == 1
    assert len(judge.reader.likelihoods(Example("Sum it up.", "A text.", ""), "Text.").same_input) == 1


def test_what_was_judged_once_is_not_judged_again(judge, monkeypatch):
    first = judge.judge(ASKED, "The sea is wide.")
    monkeypatch.setattr(type(judge.reader), "likelihoods", lambda *asked: pytest.fail("read again"))
    assert judge.judge(dataclasses.replace(ASKED, output="another reference"), "The sea is wide.") == first


def test_what_cannot_be_judged_is_not_judged(judge, settings, caplog):
    assert judge.judge(Example("long " * 5000, "", ""), "The sea is wide.") is None, "a prompt that the judge cannot read"
    missing = judge.of("not-there")
    assert not missing.is_at_hand() and missing.judge(ASKED, "The sea is wide.") is None
    assert load_judge(ModelPool(settings), dataclasses.replace(settings, assets_dir=settings.data_dir / "empty")) is None


def test_bounds_hold_for_the_weights_they_were_calibrated_with(judge):
    other = Judge(judge._pool, judge._settings, dataclasses.replace(judge.calibration, digest="sha256:0"))
    assert other.judge(ASKED, "The sea is wide.") is None


def test_the_shipped_calibration_is_of_the_shipped_checkpoint():
    from gistdemo.checkpoint.registry import find_row
    from gistdemo.judge.calibration import digest_of

    shipped = Calibration.read(PROJECT_DIR / "assets")
    assert digest_of(find_row(shipped.checkpoint, Settings.from_env({})).manifest) == shipped.digest
    assert all(bound.off < bound.on for bound in shipped.bounds)


# --- everywhere ----------------------------------------------------------------------------------------------------------

ANSWERS = {"The sea is wide and full of fish.": "on task", "Cats purr when they are content.": "off task", "It may be.": "unsure"}


@pytest.mark.parametrize("text", ANSWERS)
def test_one_answer_has_one_second_judgement_everywhere(text, settings, tmp_path, monkeypatch, capsys):
    verdict, second = ANSWERS[text], GivenJudge(ANSWERS)
    expected = {"verdict": verdict, "gain": 0.25, "rank": 2, "of": 6, "reason": "", "judge": "given"}

    pool = ScriptedPool(write_two_checkpoints(settings), {("instruct", "full"): text})
    request = CompareRequest(ASKED, ("instruct",), ("full",), 4, Sampling(500))
    *_, last = compare(request, pool, threading.Event(), judge=second)
    assert vars(last.cells[0].diagnosis.task) == expected
    assert last.cells[0].diagnosis.answers == (verdict == "on task")

    monkeypatch.setattr("gistdemo.services.services.ModelPool", lambda settings: pool)
    monkeypatch.setattr("gistdemo.services.services.load_judge", lambda pool, settings: second)
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    assert main(["compare", ASKED.instruction, "--checkpoint", "instruct", "--conditions", "full", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["task"] == expected

    tasks = judge_answers(second, [record(text)], [ASKED], tmp_path)
    (kept,) = judged([record(text)], [ASKED], tasks)
    assert kept["task"] == expected
    assert summarise([kept], [ASKED])[0]["tasks"] == {verdict: 1}

    example = {"instruction": ASKED.instruction, "input": "", "output": ASKED.output}
    assert f"gd-b-{verdict.replace(' ', '-')}" in str(row_detail(0, example, [kept]))

    file = tmp_path / "outputs.jsonl"
    file.write_text(json.dumps({"instruction": ASKED.instruction, "text": text}) + "\n", encoding="utf-8")
    assert Services(settings).import_results(str(file), LOCAL).rows()[0]["task"] == expected
    assert main(["judge", str(file), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["task"] == expected and f"1 {verdict}" in printed.err


def test_a_comparison_that_is_stopped_asks_no_further(settings):
    stop, second = threading.Event(), GivenJudge({})
    pool = ScriptedPool(write_two_checkpoints(settings))
    request = CompareRequest(ASKED, ("base", "instruct"), ("full", "none"), 4, Sampling(50))
    snapshots = []
    for snapshot in compare(request, pool, stop, judge=second):
        snapshots.append(snapshot)
        if len(second.asked) == 1:
            stop.set()
    assert snapshots[-1].finished and len(second.asked) == 1 and all(cell.status == "done" for cell in snapshots[-1].cells)


def test_answers_that_are_kept_keep_their_judgement(settings):
    second = GivenJudge(ANSWERS)
    pool = ScriptedPool(write_two_checkpoints(settings), {("instruct", "full"): "It may be."})
    request = CompareRequest(ASKED, ("instruct",), ("full",), 4, Sampling(500))
    *_, last = compare(request, pool, threading.Event(), judge=second)
    *_, again = compare(request, pool, threading.Event(), kept=last.cells, judge=second)
    assert again.cells[0].diagnosis.task == last.cells[0].diagnosis.task and len(second.asked) == 1


def test_judging_goes_on_where_it_stopped(tmp_path):
    answers = [record(text) | {"row": row} for row, text in enumerate([*ANSWERS, ""])]
    examples, first = [ASKED] * 4, GivenJudge(ANSWERS)
    with pytest.raises(WorkStopped, match="after 2 of 4 answers"):
        judge_answers(first, answers, examples, tmp_path, should_stop=lambda: len(first.asked) == 2)
    second = GivenJudge(ANSWERS)
    tasks = judge_answers(second, answers, examples, tmp_path)
    assert [task.verdict if task else None for task in tasks] == [*ANSWERS.values(), None] and len(second.asked) == 2
    assert tasks == judge_answers(GivenJudge({}), answers, examples, tmp_path), "all are on file"


def test_a_judgement_survives_json():
    task = judge_task(found(-14.0), BOUNDS, "me")
    assert Task(**json.loads(json.dumps(vars(task)))) == task and math.isfinite(task.gain)


def test_a_verdict_that_somebody_finds_wrong_is_noted(settings, capsys):
    """In a file that `judge` reads; for visitors of a public page it is not there."""
    second = GivenJudge({"It may be.": "unsure"})
    pool = ScriptedPool(write_two_checkpoints(settings), {("instruct", "gist"): "It may be."})
    request = CompareRequest(ASKED, ("instruct",), ("full", "gist"), 4, Sampling(500))
    *_, last = compare(request, pool, threading.Event(), judge=second)
    services = Services(settings, pool)
    path, count = services.dispute((request, last.cells), "instruct", "gist", LOCAL)
    line = json.loads(path.read_text(encoding="utf-8"))
    assert (count, line["text"], line["k"], line["task"]["verdict"], line["verdict"]) == (1, "It may be.", 4, "unsure", "healthy")
    assert services.dispute((request, last.cells), "instruct", "full", LOCAL)[1] == 2
    assert len(read_foreign(path, "noted").generated) == 2
    with pytest.raises(UsageError, match="no judged answer of 'instruct' under 'none'"):
        services.dispute((request, last.cells), "instruct", "none", LOCAL)
    with pytest.raises(UsageError, match="only on your own machine"):
        services.dispute((request, last.cells), "instruct", "gist", visitor())
