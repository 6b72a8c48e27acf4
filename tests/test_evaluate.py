"""Evaluation: answers are written row by row and gone on with, sums are plain averages, files carry an earlier experiment's names."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from typing import get_type_hints

import pandas
import pytest
from judges import GivenJudge
from lab import EXAMPLES
from lessons import ROWS as LEARNT
from lessons import lesson, write_rows
from records import required
from toy import save_toy

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint, find_row
from gistdemo.cli import build_parser, main
from gistdemo.errors import DataError, UsageError, WorkStopped
from gistdemo.evaluate import answers as answers_module
from gistdemo.evaluate.answers import Subject, answer, batches, without_timings
from gistdemo.evaluate.request import EvaluationRequest, evaluation_rows, model_name
from gistdemo.evaluate.run import evaluate
from gistdemo.files import read
from gistdemo.metrics import Task
from gistdemo.metrics.scores import scores_of
from gistdemo.model.packed import FAST_KERNEL, Packed
from gistdemo.present.markdown import flags_table
from gistdemo.prompts import Example
from gistdemo.results.answer import Answer, judged
from gistdemo.results.earlier_format import eval_results, sample_outputs, training_metrics
from gistdemo.results.evaluation import Asked, Recovery, RecoveryAt, Results, export, find_evaluations, read_results
from gistdemo.results.summary import Entry, summarise
from gistdemo.train.run import train

ROWS = [(f"{example.instruction} {n}", example.output) for n, example in enumerate(EXAMPLES * 2)]


@pytest.fixture
def made(tmp_path, settings):
    """A trained toy checkpoint, and a request for it."""
    out = settings.data_dir / "checkpoints" / "made"
    config = lesson(tmp_path / "a", "compressor", backbone=str(save_toy(tmp_path / "toy")), name="made", steps=2)
    train(config, tmp_path / "run", settings, out)
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    return EvaluationRequest(("made",), data, 0, ks=(1, 4), max_new_tokens=6)


def subject(settings) -> Subject:
    return Subject("made", *ModelPool(settings).row(find_row("made", settings)))


def drawn(request, subject, **changes):
    request = dataclasses.replace(request, **changes)
    return evaluation_rows(request, [subject.loaded.encoder])[0]


def answers(request, settings, folder):
    one = subject(settings)
    rows = drawn(request, one)
    folder.mkdir(exist_ok=True)
    return judged(answer(batches(request, rows, [one]), request.sampling(), folder), rows)


def test_every_row_has_every_condition_once_and_only_budgets_that_matter(made, settings, tmp_path):
    summary = evaluate(made, tmp_path / "out", settings)
    records = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    keys = {(r["condition"], r["k"], r["row"]) for r in records}
    settings_asked = [("full", 0), ("gist", 1), ("gist", 4), ("truncated", 1), ("truncated", 4), ("none", 0)]
    assert made.settings() == settings_asked and len(records) == len(keys) == 6 * len(ROWS)
    assert [(e["condition"], e["k"], e["n"]) for e in summary["answers"]] == [(*one, len(ROWS)) for one in settings_asked]
    assert set(summary["recovery"]["made"]) == {"references", "own_answers"}
    assert (summary["request"]["checkpoints"], summary["request"]["data"]) == (("made",), "rows.jsonl"), "no folder of this machine"
    assert all(row["swapped"] is not None for target in summary["recovery"]["made"].values() for row in target["by_k"].values())


def test_an_answer_does_not_depend_on_its_batch(made, settings, tmp_path, monkeypatch):
    together = answers(made, settings, tmp_path / "a")
    monkeypatch.setattr(answers_module, "BATCH", 1)
    assert [r["text"] for r in answers(made, settings, tmp_path / "b")] == [r["text"] for r in together]


def test_equal_prompts_are_answered_once_and_recorded_for_each(made, settings):
    """Without input, `none` has the same prompt in every row; a truncation that cuts nothing is the full prompt."""
    one = subject(settings)
    rows = drawn(made, one)
    words = [one.loaded.encoder.encode(example).count("instruction") for example in rows]
    request = dataclasses.replace(made, conditions=("full", "truncated", "none"), ks=(1, max(words)))
    work = batches(request, rows, [one])
    prompts = [items for batch in work for items in batch.prompts]
    assert sum(len(items) for items in prompts) == 4 * len(rows)
    together = [{(item.condition, item.k) for item in items} for items in prompts]
    assert sum({("full", 0), ("truncated", max(words))} <= group for group in together) == len(rows)
    no_input = [items for items in prompts if len({item.row for item in items if item.condition == "none"}) > 1]
    assert len(no_input) == 1


def test_a_killed_evaluation_goes_on_and_leaves_the_same_bytes(made, settings, tmp_path, monkeypatch):
    """Cut anywhere: within a line, within a batch, between the two files."""
    monkeypatch.setattr(answers_module, "BATCH", 5)
    whole = answers(made, settings, tmp_path / "whole")
    lines = (tmp_path / "whole" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    for cut in (0, 3, 11, len(lines) - 1):
        folder = tmp_path / f"cut {cut}"
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
        times = (tmp_path / "whole" / "timings.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "timings.jsonl").write_bytes(b"".join(times[: cut + 2]))
        found = answers(made, settings, folder)
        assert (folder / "rows.jsonl").read_bytes() == b"".join(lines)
        assert [r["text"] for r in found] == [r["text"] for r in whole]
        assert len((folder / "timings.jsonl").read_text().splitlines()) == len(lines)


def test_what_is_on_file_is_not_generated_again(made, settings, tmp_path, monkeypatch):
    whole = answers(made, settings, tmp_path / "a")
    monkeypatch.setattr(answers_module, "generate", lambda *_: pytest.fail("generated again"))
    assert answers(made, settings, tmp_path / "a") == whole


def test_stopping_keeps_what_was_answered(made, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(answers_module, "BATCH", 4)
    told = []
    with pytest.raises(WorkStopped, match="Stopped after 2 of"):
        evaluate(made, tmp_path / "out", settings, report=lambda *now: told.append(now), should_stop=lambda: len(told) == 2)
    assert (
        [done for done, _ in told] == [4, 8]
        and len(read(tmp_path / "out" / "timings.jsonl")) >= 8
        and not (tmp_path / "out" / "eval_results.json").exists()
    )
    results = evaluate(made, tmp_path / "out", settings, report=lambda *now: told.append(now))
    assert results["rows"] == len(ROWS) and told[-1][0] == told[-1][1] and [d for d, _ in told] == sorted(d for d, _ in told)
    timings = read(tmp_path / "out" / "timings.jsonl")
    judging = [one["seconds"] for one in read(tmp_path / "out" / "recovery.jsonl")]
    assert results["seconds"] == round(sum([t["share_seconds"] for t in timings] + judging), 1) > 0, "what ran before the stop counts"


def test_a_batch_that_was_not_timed_leaves_the_duration_unknown(made, settings, tmp_path):
    evaluate(made, tmp_path / "out", settings)
    timings = read(tmp_path / "out" / "timings.jsonl")
    lines = [json.dumps({name: value for name, value in one.items() if name != "share_seconds"}) + "\n" for one in timings]
    (tmp_path / "out" / "timings.jsonl").write_text("".join(lines))
    assert evaluate(made, tmp_path / "out", settings)["seconds"] is None


def test_an_evaluation_begun_before_there_was_a_choice_of_precision_goes_on(made, settings, tmp_path, monkeypatch):
    evaluate(made, tmp_path / "a", settings)
    path = tmp_path / "a" / "request.json"
    record = json.loads(path.read_text())
    del record["precision"]
    path.write_text(json.dumps(record, indent=2) + "\n")
    monkeypatch.setattr(answers_module, "generate", None)  # nothing is answered again
    evaluate(made, tmp_path / "a", settings)
    for spoiled in ("", "[]", "3"):
        path.write_text(spoiled)
        with pytest.raises(UsageError, match="holds the answers of another request"):
            evaluate(made, tmp_path / "a", settings)


def test_a_folder_answers_one_request(made, settings, tmp_path):
    evaluate(made, tmp_path / "a", settings)
    with pytest.raises(UsageError, match="holds the answers of another request"):
        evaluate(dataclasses.replace(made, rows=3), tmp_path / "a", settings)


def test_several_checkpoints_stand_side_by_side_in_one_evaluation(made, settings, tmp_path):
    shutil.copytree(settings.data_dir / "checkpoints" / "made", settings.data_dir / "checkpoints" / "other")
    manifest = settings.data_dir / "checkpoints" / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "made"', '"name": "other"'))
    request = dataclasses.replace(made, checkpoints=("made", "other"), ks=(4,))
    results = evaluate(request, tmp_path / "out", settings)
    by_name = {name: [e for e in results["answers"] if e["checkpoint"] == name] for name in ("made", "other")}
    assert len(by_name["made"]) == len(by_name["other"]) == 4 and set(results["recovery"]) == {"made", "other"}
    scores = [[e["scores"] for e in entries] for entries in by_name.values()]
    assert scores[0] == scores[1], "equal weights give equal figures"


def test_a_backbone_is_measured_beside_a_checkpoint_where_it_needs_no_gist(made, settings, tmp_path):
    """The decoder of a compressor is the backbone: where both can answer, they answer alike."""
    request = dataclasses.replace(made, checkpoints=("made", str(tmp_path / "toy")), conditions=("full", "gist", "none", "blind"), ks=(4,))
    told = []
    results = evaluate(request, tmp_path / "out", settings, report=lambda *now: told.append(now))
    found = {name: {e["condition"]: e for e in results["answers"] if e["checkpoint"] == name} for name in ("made", "toy")}
    assert list(found["made"]) == ["full", "gist", "none", "blind"] and list(found["toy"]) == ["full", "none"]
    assert [e["scores"]["rougeL"] for e in found["toy"].values()] == [found["made"][name]["scores"]["rougeL"] for name in ("full", "none")]
    assert set(results["recovery"]) == {"made"} and results["request"]["checkpoints"] == ("made", "toy")
    assert str(tmp_path) not in json.dumps(results), "no folder of this machine"
    assert told[-1][0] == told[-1][1], "the bar reaches its end"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("instruct", "instruct"),
        ("/home/me/models/llama/", "llama"),
        ("C:\\models\\llama", "llama"),
        ("~/runs/mine/checkpoint", "checkpoint"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_a_model_is_named_without_its_folders_and_a_hub_id_stays_whole(given, named):
    assert model_name(given) == named and EvaluationRequest((given,), "rows.jsonl").named().checkpoints == (named,)


def test_a_backbone_alone_can_be_measured_first(made, settings, tmp_path):
    results = evaluate(dataclasses.replace(made, checkpoints=(str(tmp_path / "toy"),)), tmp_path / "out", settings)
    assert {e["condition"] for e in results["answers"]} == {"full", "truncated", "none"} and results["recovery"] == {}
    assert results["rows"] == len(ROWS) and json.loads((tmp_path / "out" / "eval_results.json").read_text())["rouge_scores"]["gist"] is None


def test_a_backbone_where_only_a_gist_is_asked_for_is_refused(made, settings, tmp_path):
    request = dataclasses.replace(made, checkpoints=(str(tmp_path / "toy"),), conditions=("gist",))
    with pytest.raises(UsageError, match=r"None of .* has a gist, so nothing would be measured"):
        evaluate(request, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_results_are_found_read_and_exported(made, settings, tmp_path):
    evaluate(made, tmp_path / "all" / "one", settings, "My evaluation")
    (tmp_path / "all" / "broken").mkdir()
    (tmp_path / "all" / "broken" / "eval_results.json").write_text("{}")
    (found,) = find_evaluations([tmp_path / "all", tmp_path / "missing"])
    assert found.title == "My evaluation" and len(found.rows()) == 6 * len(ROWS) and len(found.examples()) == len(ROWS)
    table, parquet = export(found, tmp_path)
    frame = pandas.read_parquet(parquet)
    assert len(pandas.read_csv(table)) == len(frame) == 6 * len(ROWS)
    assert {"checkpoint", "condition", "k", "instruction", "answer", "reference", "rouge1", "rouge2", "rougeL", "verdict"} <= set(
        frame.columns
    )
    with pytest.raises(DataError, match="holds no results of an evaluation"):
        read_results(tmp_path / "all" / "broken")
    (found.folder / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="only its figures"):
        export(found, tmp_path)


def test_figures_kept_beside_a_checkpoint_stay_until_they_are_measured_again(made, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: settings)
    common = ["eval", "--checkpoint", "made", "--data", made.data, "--max-new-tokens", "2", "--keep"]
    entry = find_checkpoint("made", settings.checkpoint_dirs)
    trained = entry.recovery()["references"]["by_k"]
    assert main([*common, "--out", str(tmp_path / "a"), "--conditions", "full", "--no-recovery"]) == 0
    assert [e["condition"] for e in entry.evaluation()["answers"]] == ["full"] and entry.recovery()["references"]["by_k"] == trained
    assert main([*common, "--out", str(tmp_path / "b"), "--conditions", "", "--k", "1"]) == 0
    kept = entry.evaluation()
    assert [e["condition"] for e in kept["answers"]] == ["full"] and "--no-recovery" in kept["command"]
    assert list(entry.recovery()["references"]["by_k"]) == ["1"] and "--conditions ''" in kept["recovery_command"]
    assert main([*common, "--out", str(tmp_path / "c"), "--conditions", "none", "--no-recovery"]) == 0
    assert [e["condition"] for e in entry.evaluation()["answers"]] == ["none"] and list(entry.recovery()["references"]["by_k"]) == ["1"]


def test_the_command_of_a_request_asks_for_the_same(made):
    request = dataclasses.replace(made, checkpoints=("a", "b c"), seed=3, joined=True, recovery=False, conditions=("gist",))
    args = build_parser().parse_args(shlex.split(request.command())[3:])
    assert (args.checkpoint, args.data, args.rows, args.seed) == (["a", "b c"], made.data, 0, 3)
    assert (args.conditions, args.k, args.max_new_tokens, args.joined, args.recovery) == ("gist", "1,4", 6, True, False)
    assert EvaluationRequest.from_dict(json.loads(json.dumps(dataclasses.asdict(request)))) == request
    with pytest.raises(UsageError, match="unknown colour"):
        EvaluationRequest.from_dict({"checkpoints": ["a"], "data": "x", "colour": 1})


def test_rows_are_drawn_with_a_seed_in_the_order_of_the_source(made, settings):
    one = subject(settings)
    draw = lambda **changes: drawn(made, one, **changes)  # noqa: E731
    everything = draw(rows=0)
    three = draw(rows=3, seed=1)
    assert len(everything) == len(ROWS) and len(three) == 3 and three == draw(rows=3, seed=1) != draw(rows=3, seed=2)
    assert [everything.index(e) for e in three] == sorted(everything.index(e) for e in three)
    longer = draw(rows=0, least_tokens=30)
    assert longer and all(one.loaded.encoder.encode(e).count("instruction") >= 30 for e in longer)
    with pytest.raises(DataError, match="no row of 5000 to"):
        draw(least_tokens=5000)


@pytest.mark.parametrize("changes", [{"conditions": ("full", "gits")}, {"ks": ()}, {"ks": (0,)}, {"rows": -1}, {"max_new_tokens": 0}])
def test_a_request_that_cannot_be_met_is_refused(changes):
    with pytest.raises(UsageError, match=r"^Evaluation: "):
        EvaluationRequest(**{"checkpoints": ("made",), "data": "rows.jsonl"} | changes)


# --- sums ----------------------------------------------------------------------------------------------------------------

TEXTS = {"full": ["the cat sat", "red"], "gist": ["the cat ran", "red"], "none": ["a b c", "d"]}
SUMMED = [Example("One", "", "the cat sat"), Example("Two", "", "red")]


def record(condition: str, row: int, text: str, **more):
    k = 4 if condition == "gist" else 0
    numbers = {"tokens": 3, "prompt_tokens": 10, "instruction_tokens": 5, "kept_tokens": 4}
    scores = {"scores": scores_of(text, SUMMED[row].output)}
    return (
        {"checkpoint": "x", "condition": condition, "k": k, "row": row, "text": text, "verdict": "healthy", "flags": [], "task": None}
        | numbers
        | scores
        | more
    )


def test_sums_are_plain_averages():
    records = [record(c, n, text) for c, texts in TEXTS.items() for n, text in enumerate(texts)]
    full, gist, none = summarise(records, SUMMED)
    assert [[e["scores"][name]["mean"] for name in ("rouge1", "rouge2", "rougeL")] for e in (full, none)] == [
        [100.0, 50.0, 100.0],
        [0.0] * 3,
    ]
    assert [gist["scores"][name]["mean"] for name in ("rougeL", "rougeL_own")] == pytest.approx([(200 / 3 + 100) / 2] * 2)
    assert gist["normalised"] == pytest.approx(gist["scores"]["rougeL"]["mean"])
    assert gist["verdicts"] == {"healthy": 2, "warning": 0, "degenerate": 0} and gist["prompt_tokens"] == 10
    table = flags_table({"answers": [full, gist, none]})
    assert "rougeL_own" not in full["scores"] and "| x | gist | 4 | 2 | 83.3 [66.7, 100.0] | 83 | 83.3 |" in table
    assert (
        gist["paired"]["full"]["mean"] == pytest.approx(-100 / 6)
        and "truncated" not in gist["paired"]
        and gist["scores"]["rougeL"]["n"] == 2
    )


def test_equal_answers_to_different_instructions_are_counted():
    same = "an answer that is long enough to be told from chance"
    gist = summarise([record("gist", n, same, verdict="degenerate", flags=["F3"]) for n in (0, 1)], SUMMED)[0]
    assert gist["instruction_blind"] == 2 and gist["flags"] == {"F3": 2} and gist["normalised"] is None
    assert gist["identical"] == {"text": same, "count": 2}


def test_where_full_and_none_score_alike_nothing_is_normalised():
    """Between 12.9 and 12.2 a score of 13.9 would be 'normalised' to 194: noise divided by noise."""
    texts = {"full": ["the cat", "red"], "gist": ["cat", "red"], "none": ["the cat", "red"]}
    entries = summarise([record(c, n, text) for c, found in texts.items() for n, text in enumerate(found)], SUMMED)
    assert [e["normalised"] for e in entries] == [None, None, None]


def test_without_references_scores_are_left_open():
    entries = summarise([record("full", 0, "x", scores={}), record("full", 1, "x", scores={})], SUMMED)
    assert entries[0]["scores"] == {} and "| x | full | - | 2 | - | - | - |" in flags_table({"answers": entries})
    (one,) = summarise([record("full", 0, "x", scores={}), record("full", 1, "red")], SUMMED)
    assert (one["scores"]["rougeL"]["n"], one["n"]) == (1, 2), "means are of the answers that have a reference"


# --- files of the earlier experiment -------------------------------------------------------------------------------------


def test_the_files_carry_the_names_and_scales_of_the_earlier_experiment(made, settings, tmp_path):
    evaluate(dataclasses.replace(made, recovery=False), tmp_path / "out", settings)
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert set(results) >= {
        "checkpoint",
        "num_samples",
        "num_gist_tokens",
        "compression_ratio",
        "avg_full_tokens",
        "avg_gist_tokens",
        "rouge_scores",
        "relative_performance",
        "eval_time_seconds",
    }
    assert set(results["rouge_scores"]) == {"full_text", "gist", "truncated"} and results["num_gist_tokens"] == 1
    assert all(0 <= value <= 1 for scores in results["rouge_scores"].values() for value in scores.values())
    assert results["compression_ratio"] == pytest.approx(results["avg_full_tokens"] / results["avg_gist_tokens"])
    samples = json.loads((tmp_path / "out" / "sample_outputs.json").read_text())
    assert len(samples) == len(ROWS) and set(samples[0]) == {"full_text", "gist", "truncated", "reference", "prompts"}
    prompts = samples[0]["prompts"]
    assert prompts["full"].count(ROWS[0][0]) == 1 and ROWS[0][0] not in prompts["gist"] and prompts["gist"].startswith("<GIST>")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["total_steps"] == 2 and metrics["num_gist_tokens"] == 4 and metrics["final_loss"] > 0
    assert set(metrics) == {
        "num_gist_tokens",
        "num_samples",
        "num_epochs",
        "batch_size",
        "world_size",
        "learning_rate",
        "final_loss",
        "total_steps",
        "total_time_minutes",
        "model_id",
    }


def test_conditions_that_were_not_run_are_left_open():
    entries = summarise([record("full", 0, "the cat sat")], SUMMED)
    results = eval_results("x", 4, entries, 1.0)
    assert results["rouge_scores"]["gist"] is None and results["compression_ratio"] is None
    assert results["relative_performance"] == {"gist_vs_full": None, "truncated_vs_full": None}
    (unscored,) = summarise([record("full", 0, "x", scores={})], SUMMED)
    assert eval_results("x", 4, [unscored], 1.0)["rouge_scores"] == dict.fromkeys(("full_text", "gist", "truncated"))
    both = eval_results("x", 4, summarise([record(c, n, text) for c in ("full", "gist") for n, text in enumerate(TEXTS[c])], SUMMED), 1.0)
    assert both["relative_performance"] == {"gist_vs_full": pytest.approx(5 / 6), "truncated_vs_full": None}
    assert sample_outputs([], [], [], 4) == []
    training = {
        "settings": {"batch_size": 8, "accumulation": 2, "gist_learning_rate": 0.1, "learning_rate": 0.2},
        "steps": 10,
        "seconds": 30,
    }
    assert training_metrics(training | {"data": {"train": {"rows": 40}}}, 4, "x", 1.5)["num_epochs"] == 4.0


# --- command line --------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_the_recovery(made, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: settings)
    arguments = ["--checkpoint", "made", "--data", made.data, "--out", str(tmp_path / "out"), "--k", "1,4", "--max-new-tokens", "4"]
    assert main(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    assert (
        f"made: {len(ROWS)} rows" in printed and "| truncated | 4 |" in printed and "recovery of made, own_answers, 8 rows: k=1" in printed
    )
    assert main(["eval", *arguments[:-4], "--k", "one"]) == 2
    assert "--k is 'one'" in capsys.readouterr().err


def test_more_gist_tokens_than_there_are_is_refused_before_anything_is_generated(made, settings, tmp_path):
    with pytest.raises(UsageError, match=r"'made' has 4 gist tokens but k = 9 was asked for\. Ask for fewer"):
        evaluate(EvaluationRequest(("made",), made.data, ks=(9,)), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    request = EvaluationRequest(("made",), made.data, conditions=("none",), ks=(9,), recovery=False)
    summary = evaluate(request, tmp_path / "out", settings)
    assert [e["condition"] for e in summary["answers"]] == ["none"] and summary["recovery"] == {}


def test_recovery_alone_needs_no_answers(made, settings, tmp_path):
    summary = evaluate(EvaluationRequest(("made",), made.data, conditions=(), ks=(4,)), tmp_path / "out", settings)
    assert summary["answers"] == [] and set(summary["recovery"]["made"]["references"]["by_k"]) == {"4"}


def test_rows_that_were_trained_on_are_refused_unless_told_and_then_named(made, settings, tmp_path, monkeypatch, capsys):
    """Also where case and blanks differ (T11)."""
    trained = [(f"  {instruction.upper()} ", output) for instruction, output in LEARNT[:3]]
    data = write_rows(tmp_path / "mixed.jsonl", [*ROWS, *trained])
    with pytest.raises(DataError, match=r"'made' was trained on the instructions of 3 of 11 rows"):
        evaluate(EvaluationRequest(("made",), data, 0, max_new_tokens=2), tmp_path / "out", settings)
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: settings)
    arguments = [
        "--data",
        data,
        "--rows",
        "0",
        "--conditions",
        "none",
        "--no-recovery",
        "--max-new-tokens",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["eval", "--checkpoint", "made", *arguments, "--allow-trained"]) == 0
    assert "made: 11 rows of" in (printed := capsys.readouterr().out) and ", 3 of them TRAINED ON" in printed
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["rows_trained_on"] == 3


def test_a_job_that_an_older_version_began_goes_on(made, settings, tmp_path, monkeypatch):
    """Until 2026-11-24 an answer did not say whether its instruction was read."""
    monkeypatch.setattr(answers_module, "BATCH", 5)
    whole = answers(made, settings, tmp_path / "whole")
    (tmp_path / "older").mkdir()
    lines = [json.dumps({key: value for key, value in one.items() if key != "blind"}) for one in read(tmp_path / "whole" / "rows.jsonl")]
    (tmp_path / "older" / "rows.jsonl").write_text("\n".join(lines[:13]) + "\n", encoding="utf-8")
    shutil.copy(tmp_path / "whole" / "timings.jsonl", tmp_path / "older")
    generated = []
    generate = answers_module.generate
    monkeypatch.setattr(answers_module, "generate", lambda *given: generated.append(1) or generate(*given))
    found = answers(made, settings, tmp_path / "older")
    timeless = [[without_timings(answer) for answer in some] for some in (found, whole)]
    assert timeless[0] == timeless[1] and 0 < len(generated) < len(batches(made, drawn(made, subject(settings)), [subject(settings)]))


def test_what_is_measured_holds_what_its_schemas_promise(made, settings, tmp_path):
    results = evaluate(made, tmp_path / "out", settings)
    found = read_results(tmp_path / "out")
    assert set(results) == required(Results) and set(results["request"]) > set(get_type_hints(Asked))
    assert {key: found.results[key] for key in results} == json.loads(json.dumps(results)), "what is returned is what is kept"
    assert {frozenset(entry) for entry in results["answers"]} == {frozenset(required(Entry))}
    assert {frozenset(answer) for answer in found.rows()} == {frozenset(required(Answer))}, "times are kept apart"
    for recovery in results["recovery"]["made"].values():
        assert set(recovery) == required(Recovery) and {frozenset(at) for at in recovery["by_k"].values()} == {
            frozenset(required(RecoveryAt))
        }


@pytest.mark.skipif(not FAST_KERNEL, reason="this processor has no kernel for 16-bit weights")
def test_answers_are_computed_as_asked_and_the_results_say_how(made, settings, tmp_path, monkeypatch):
    used = []
    real = Packed.fast
    monkeypatch.setattr(Packed, "fast", lambda self, x: used.append(1) or real(self, x))
    evaluate(dataclasses.replace(made, recovery=False, conditions=("full",)), tmp_path / "exact", settings)
    heads, count = len(used), max(len(r["text"]) for r in read(tmp_path / "exact" / "rows.jsonl"))
    assert count and heads <= 6, "greedy looks at the fast product of the head alone"
    request = dataclasses.replace(made, precision="fast", recovery=False, conditions=("full",))
    evaluate(request, tmp_path / "fast", settings)
    assert len(used) > 10 * heads and read_results(tmp_path / "fast").results["request"]["precision"] == "fast"
    assert "--precision fast" in read_results(tmp_path / "fast").results["command"]
    products = [read_results(tmp_path / name).results["versions"].get("products") for name in ("exact", "fast")]
    assert products[0] is None and products[1] in ("bf16", "fp16"), "what fast is differs between machines"


def test_a_precision_that_cannot_be_had_is_refused(made, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("gistdemo.model.gist_model.FAST_KERNEL", False)
    with pytest.raises(UsageError, match="Precision is 'fast', which this machine has no kernel for; allowed is exact"):
        evaluate(dataclasses.replace(made, precision="fast"), tmp_path / "out", settings)
    with pytest.raises(UsageError, match="precision is 'half'; allowed are exact, fast"):
        dataclasses.replace(made, precision="half")


def test_where_a_judge_is_at_hand_every_answer_is_judged_and_counts_as_work(made, settings, tmp_path, monkeypatch):
    second, told = GivenJudge({}), []
    monkeypatch.setattr(second, "judge", lambda example, text: Task("on task", 0.1, 1, 6, judge="given"))
    monkeypatch.setattr("gistdemo.evaluate.run.load_judge", lambda pool, settings: second)
    request = dataclasses.replace(made, recovery=False)
    results = evaluate(request, tmp_path / "judged", settings, report=lambda done, of: told.append((done, of)))
    assert all(entry["tasks"] == {"on task": entry["n"]} for entry in results["answers"])
    work = batches(request, *_work_of(request, settings))
    assert {of for _, of in told} == {sum(len(batch.prompts) + len(batch.keys()) for batch in work)}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    monkeypatch.setattr(second, "judge", lambda example, text: pytest.fail("asked again"))
    assert evaluate(request, tmp_path / "judged", settings)["answers"] == results["answers"], "what was judged is on file"
    unasked = evaluate(dataclasses.replace(request, judge=False), tmp_path / "unasked", settings)
    assert all(entry["tasks"] == {} for entry in unasked["answers"])


def _work_of(request, settings):
    one = subject(settings)
    return evaluation_rows(request, [one.loaded.encoder])[0], [one]
