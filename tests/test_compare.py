"""A comparison as its callers see it: snapshots, numbers, verdicts, and what happens when something goes wrong."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from itertools import pairwise

import pytest
from records import TIMES, required
from scripted import KV_BYTES_PER_TOKEN, LOOP, NAMES, SLOTS, Line, ScriptedPool, write_checkpoint, write_two_checkpoints

from gistdemo.checkpoint.registry import find_row
from gistdemo.checkpoint.store import CONTROLS
from gistdemo.compare import NO_GIST, compare, reusable
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import CheckpointError, PromptError, UsageError
from gistdemo.generation import Sampling
from gistdemo.grid import CompareRequest
from gistdemo.metrics.scores import scores_of
from gistdemo.model.embedded import GEMMA, SMOLLM2
from gistdemo.prompts import Example
from gistdemo.results.answer import Judgement, judged
from gistdemo.results.comparison import LiveAnswer
from gistdemo.results.summary import summarise

ADD = Example("Add 1 and 1.", "", "The sum is 2.")
SHOWN = ("full", "gist", "truncated")


@pytest.fixture
def pool(settings) -> ScriptedPool:
    return ScriptedPool(write_two_checkpoints(settings))


def asked(example: Example = ADD, checkpoints=("instruct",), conditions=SHOWN, k: int = 4, **sampling) -> CompareRequest:
    return CompareRequest(example, tuple(checkpoints), tuple(conditions), k, Sampling(**sampling))


def run(request: CompareRequest, pool: ScriptedPool, stop: threading.Event | None = None, seconds_between: float = 0.0):
    """All snapshots of a comparison."""
    return list(compare(request, pool, stop or threading.Event(), seconds_between))


def finished(request: CompareRequest, pool: ScriptedPool, **options) -> dict:
    """The last snapshot's cells by (checkpoint, condition)."""
    last = run(request, pool, **options)[-1]
    assert last.finished
    return {(cell.checkpoint, cell.condition): cell for cell in last.cells}


def says(**texts: Line | str) -> dict:
    """A script of the instruct model: condition=text."""
    return {("instruct", condition): text for condition, text in texts.items()}


def codes(cell) -> list[str]:
    return [flag.code for flag in (*cell.diagnosis.flags, *cell.diagnosis.facts)]


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_the_first_snapshot_comes_before_anything_is_loaded(pool):
    pool.gate.clear()
    snapshots = compare(asked(checkpoints=NAMES), pool, threading.Event())
    first = next(snapshots)
    assert not pool.loaded and not first.finished and first.message == "Starting"
    assert [cell.status for cell in first.cells] == ["waiting"] * 6
    assert all(cell.text == "" and cell.diagnosis is None and cell.prompt_tokens is None for cell in first.cells)
    pool.gate.set()
    assert list(snapshots)[-1].finished


def test_cells_stand_by_checkpoint_then_by_condition_in_every_snapshot(pool):
    for snapshot in run(asked(checkpoints=NAMES, conditions=CONDITIONS), pool):
        assert [(c.checkpoint, c.condition) for c in snapshot.cells] == [(n, c) for n in NAMES for c in CONDITIONS]


def test_texts_only_grow_and_the_last_snapshot_alone_is_finished(pool):
    snapshots = run(asked(checkpoints=NAMES), pool)
    assert [s.finished for s in snapshots] == [False] * (len(snapshots) - 1) + [True]
    for earlier, later in pairwise(snapshots):
        for a, b in zip(earlier.cells, later.cells, strict=True):
            assert b.text.startswith(a.text) and not (a.status == "done" and b.status != "done")
    assert any(0 < len(c.text) < len(snapshots[-1].cells[0].text) for s in snapshots for c in s.cells[:1])
    assert {c.status for c in snapshots[-1].cells} == {"done"} and snapshots[-1].message == "Done"


def test_loading_is_reported_with_words_and_a_fraction_and_then_disappears(pool):
    snapshots = run(asked(), pool)
    loading = [s for s in snapshots if s.fraction is not None]
    assert loading and {(s.message, s.fraction) for s in loading} == {("Reading the weights of toy", 0.4)}
    assert any(s.message.startswith("Generating: ") for s in snapshots) and snapshots[-1].fraction is None


def test_updates_come_at_most_as_often_as_asked(pool):
    """Counted over the whole time, because a clock between two updates depends on the machine. The first and the last come at once, and three sooner than asked."""
    pool.delay, pool.script = 0.01, says(full="word " * 20)
    began = time.monotonic()
    count = sum(1 for _ in compare(asked(conditions=("full",)), pool, threading.Event(), seconds_between=0.15))
    assert 4 <= count - 2 <= (time.monotonic() - began) / 0.15 + 4


def test_everything_may_arrive_in_the_last_snapshot_alone(pool):
    """A rate so low that no cell is judged before the end: numbers must not depend on how often was looked."""
    pool.says = lambda row, instruction: f"The {row.plan.condition} sum is {'2' if row.plan.condition == 'full' else 'not known'}."
    request = asked(checkpoints=NAMES, conditions=CONDITIONS)
    often, once = (finished(request, pool, seconds_between=seconds) for seconds in (0.0, 60.0))
    for at, cell in often.items():
        timeless = {"first_token_seconds": 0.0, "tokens_per_second": 0.0}
        assert cell.to_dict(4) | timeless == once[at].to_dict(4) | timeless


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_prompt_that_each_condition_shows(pool):
    """By hand, one token per byte. ChatML: 6 before the instruction, 13 after it; "Add 1 and 1." has 12."""
    cells = finished(asked(conditions=CONDITIONS), pool)
    prompt = {"full": 6 + 12 + 13, "gist": 1 + 4 + 13, "truncated": 6 + 4 + 13, "none": 6 + 13, "blind": 1 + 4 + 13}
    kept = {"full": 12, "gist": 4, "truncated": 4, "none": 0, "blind": 4}
    for (_, condition), cell in cells.items():
        assert (cell.prompt_tokens, cell.instruction_tokens, cell.kept_tokens) == (prompt[condition], 12, kept[condition])
        assert cell.kv_bytes == KV_BYTES_PER_TOKEN * prompt[condition]
        assert cell.ratio == (12 / kept[condition] if kept[condition] else None)


def test_every_cell_says_how_it_was_computed(pool):
    for precision in ("exact", "fast"):
        cells = finished(asked(conditions=CONDITIONS, precision=precision), pool)
        assert {cell.precision for cell in cells.values()} == {precision} and pool.samplings[-1].precision == precision


def test_answers_are_counted_without_the_end_token_and_timed(pool):
    pool.delay, pool.script = 0.005, says(full="Two.", gist="")
    cells = finished(asked(max_new_tokens=200), pool)
    full, empty = cells["instruct", "full"], cells["instruct", "gist"]
    assert (full.answer_tokens, full.text, full.finish_reason) == (4, "Two.", "eos")
    assert full.first_token_seconds > 0 and 0 < full.tokens_per_second <= 1 / 0.005
    assert (empty.answer_tokens, empty.text, empty.tokens_per_second) == (0, "", None) and empty.first_token_seconds > 0


@pytest.mark.parametrize("text", ["Käse: 🧀 日本語, fin", "Käse: a broken \ufffd"])
@pytest.mark.parametrize("limit", [7, 8, 9, 10, 11, 200])
def test_text_is_whole_and_tokens_are_counted(pool, text, limit):
    """Also where the limit cuts a character of several bytes (the cheese is bytes 7 to 10), and where one is held back to the end."""
    pool.script = says(full=text)
    snapshots = run(asked(conditions=("full",), max_new_tokens=limit), pool)
    assert all(text.startswith(s.cells[0].text.rstrip("\ufffd")) for s in snapshots)
    last = snapshots[-1].cells[0]
    assert (last.text, last.finish_reason) == (text, "eos") if limit == 200 else last.finish_reason == "limit"
    assert last.answer_tokens == min(limit, len(text.encode()))


def test_rouge_is_there_with_a_reference_only(pool):
    pool.script = says(full="The sum is 2.")
    with_reference = finished(asked(), pool)
    assert with_reference["instruct", "full"].scores["rougeL"] == pytest.approx(100)
    gist = with_reference["instruct", "gist"]
    assert gist.scores == scores_of(gist.text, ADD.output)
    for blank in ("", "  \n"):
        without = finished(asked(Example(ADD.instruction, "", blank)), pool)
        assert all(cell.scores == {} and cell.normalised is None for cell in without.values())


@pytest.mark.parametrize("seconds_between", [0.0, 60.0])
def test_rouge_is_normalised_where_full_and_none_ran(pool, seconds_between):
    pool.script = says(full="The sum is 2.", gist="The sum", none="Lovely weather.")
    cells = finished(asked(conditions=(*SHOWN, "none")), pool, seconds_between=seconds_between)
    assert cells["instruct", "full"].normalised == pytest.approx(100)
    assert cells["instruct", "none"].normalised == pytest.approx(0)
    assert cells["instruct", "gist"].normalised == pytest.approx(scores_of("The sum", ADD.output)["rougeL"])
    for left_out in ("full", "none"):
        fewer = finished(asked(conditions=[c for c in (*SHOWN, "none") if c != left_out]), pool)
        assert all(cell.normalised is None and cell.scores for cell in fewer.values())


def test_a_failed_full_answer_normalises_nothing(pool):
    pool.script = says(full=Line("The sum is 2.", error="out of memory"))
    assert all(cell.normalised is None for cell in finished(asked(conditions=(*SHOWN, "none")), pool).values())


def test_a_comparison_becomes_json_in_the_schema_of_an_evaluation(pool):
    request = asked(checkpoints=("instruct", SMOLLM2.name, "nobody"), conditions=("full", "blind"), k=2, seed=7)
    rows = {name: find_row(name, pool.settings) for name in request.checkpoints[:2]}
    record = json.loads(json.dumps(request.record(finished(request, pool).values(), {name: row.described() for name, row in rows.items()})))
    assert (record["instruction"], record["input"], record["reference"], record["k"]) == (ADD.instruction, "", ADD.output, 2)
    sampling = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "seed": 7, "precision": "exact"}
    assert record["sampling"] == sampling and record["format"] == 2
    made = {"mode": "embeddings", "backbone": "toy", "backbone_digest": rows["instruct"].manifest.backbone_digest}
    as_it_is = {"mode": "no gist", "backbone": SMOLLM2.name, "backbone_digest": None}
    assert record["checkpoints"] == {"instruct": made, SMOLLM2.name: as_it_is}, "what is not there has nothing to tell"
    assert set(record["versions"]) >= {"gistdemo", "torch"}
    assert {frozenset(answer) for answer in record["answers"]} == {frozenset(required(LiveAnswer) | TIMES)}
    full, blind, *_, failed = record["answers"]
    assert [(a["checkpoint"], a["condition"], a["k"], a["row"]) for a in (full, blind)] == [
        ("instruct", "full", 0, 0),
        ("instruct", "blind", 2, 0),
    ]
    assert blind["verdict"] == "healthy" and blind["facts"][0]["code"] == "F7" and blind["blind"] and blind["finish_reason"] == "eos"
    assert (full["tokens"], full["ratio"]) == (len(full["text"]), 1.0) and 0 < full["scores"]["rougeL"] < 100 and full["flags"] == []
    assert failed["verdict"] is None and failed["scores"] == {} and "There is no checkpoint 'nobody'" in failed["error"]


def test_an_answer_of_a_comparison_is_judged_and_shown_like_one_of_an_evaluation(pool):
    """What reads evaluations reads comparisons."""
    pool.script = says(full="It is two. " * 9, gist="The sum is 2.")
    request = asked(conditions=("full", "gist"))
    answers = request.record(finished(request, pool).values(), {})["answers"]
    unjudged = [{key: value for key, value in answer.items() if key not in required(Judgement)} for answer in answers]
    assert judged(unjudged, [ADD]) == [unjudged[n] | {key: answers[n][key] for key in required(Judgement)} for n in range(2)]
    full, gist = summarise(answers, [ADD])
    assert full["flags"]["F3"] == 1 and gist["k"] == 4 and gist["scores"]["rougeL"]["mean"] == 100 and gist["paired"]["full"]["mean"] > 0


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_a_loop_is_degenerate_and_its_place_is_the_loop(pool):
    pool.script = says(full="Well, " + LOOP * 9)
    cell = finished(asked(max_new_tokens=120), pool)["instruct", "full"]
    assert cell.diagnosis.verdict == "degenerate" and cell.finish_reason == "limit"
    loop = next(flag for flag in cell.diagnosis.flags if flag.code == "F3")
    start, stop = loop.span
    assert cell.text[start:].startswith("Output: www") and stop == len(cell.text) and "Output: www" in loop.evidence


def test_a_loop_is_flagged_while_it_is_still_growing(pool, monkeypatch):
    monkeypatch.setattr("gistdemo.compare.ASSESS_SECONDS", 0.0)
    pool.script = says(full=LOOP * 9)
    seen = [s.cells[0] for s in run(asked(conditions=("full",)), pool)]
    assert any(c.status == "running" and c.diagnosis and c.diagnosis.verdict == "degenerate" for c in seen)


def test_nothing_said_yet_is_not_an_empty_answer_but_nothing_said_at_all_is(pool):
    pool.script = says(full="", gist=" \n ")
    snapshots = run(asked(), pool)
    assert all(c.diagnosis is None for s in snapshots for c in s.cells if c.status != "done" and not c.text.strip())
    assert {codes(c)[0] for c in snapshots[-1].cells[:2]} == {"F1"}


def test_equal_answers_are_told_where_full_and_none_ran(pool):
    pool.script = says(full="Two.", gist="Two.", truncated="Rain", none="Rain", blind="Rain")
    cells = finished(asked(conditions=CONDITIONS), pool)
    names = {condition: {flag.name for flag in cell.diagnosis.facts if flag.code == "F10"} for (_, condition), cell in cells.items()}
    assert names == {
        "full": set(),
        "gist": {"identical_to_full"},
        "truncated": {"identical_to_dropped"},
        "none": set(),
        "blind": {"identical_to_dropped"},
    }
    alone = finished(asked(conditions=("gist", "truncated")), pool)
    assert not any("F10" in codes(cell) for cell in alone.values())


@pytest.mark.parametrize(("one", "other"), [NAMES, NAMES[::-1]])
def test_equal_answers_of_different_checkpoints_are_nobodys_business(pool, one, other):
    pool.script = {(one, "full"): "Two.", (other, "gist"): "Two."}
    cells = finished(asked(checkpoints=NAMES, conditions=("full", "gist")), pool)
    assert "F10" not in codes(cells[other, "gist"])


def test_whether_answers_are_equal_is_told_at_the_end_only(pool):
    """On its way to a longer answer a text may equal another one for a moment."""
    pool.script = says(full="Two", gist="\n\nTwo, I think.")
    for snapshot in run(asked(conditions=("full", "gist")), pool):
        assert not any("F10" in codes(cell) for cell in snapshot.cells if cell.diagnosis)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("instruction", [ADD.instruction, *CONTROLS, "Describe the smell of rain.", "Name three large cities"])
def test_only_blind_is_blind_to_its_instruction(pool, instruction, k):
    """Also where a truncation leaves the first words only, which other instructions have as well."""
    pool.says = lambda row, instruction: "The same good answer for everything."
    cells = finished(asked(Example(instruction), conditions=CONDITIONS, k=k), pool)
    assert {condition for (_, condition), cell in cells.items() if "F7" in codes(cell)} == {"blind"}
    blind = cells["instruct", "blind"]
    assert blind.diagnosis.verdict == "healthy", "what is wrong with it is not the text"
    assert "never reached the model" in blind.diagnosis.facts[0].evidence


def test_what_the_model_sees_is_told_token_by_token(pool):
    cells = finished(asked(conditions=CONDITIONS), pool)
    for (_, condition), cell in cells.items():
        instruction = [p for p in cell.pieces if p.kind == "instruction"]
        assert "".join(t for p in instruction for t in p.tokens) == ADD.instruction
        fates = {"full": ["shown"], "gist": ["compressed"], "truncated": ["shown", "dropped"], "none": ["dropped"], "blind": ["dropped"]}
        assert [p.fate for p in instruction] == fates[condition]


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stop_keeps_the_text_and_ends_quickly(pool):
    pool.delay, pool.says = 0.02, lambda row, instruction: "A very long answer. " * 100
    stop, snapshots, pressed = threading.Event(), [], 0.0
    for snapshot in compare(asked(checkpoints=NAMES, max_new_tokens=512), pool, stop, seconds_between=0.05):
        snapshots.append(snapshot)
        if not stop.is_set() and all(len(c.text) > 3 for c in snapshot.cells):
            pressed = time.monotonic()
            stop.set()
    assert pressed and time.monotonic() - pressed < 1.5
    assert snapshots[-1].finished and snapshots[-1].message == "Stopped"
    assert all(c.finish_reason == "stopped" and c.status == "done" and len(c.text) > 3 and c.diagnosis for c in snapshots[-1].cells)
    assert pool.wait_until_idle()


def test_stop_spares_cells_that_had_finished(pool):
    pool.delay, pool.says, pool.script = 0.01, lambda row, _: "Long. " * 80, says(full="Two.")
    stop = threading.Event()
    for snapshot in compare(asked(max_new_tokens=512), pool, stop, 0.02):
        if snapshot.cells[0].status == "done":
            stop.set()
    assert [c.finish_reason for c in snapshot.cells] == ["eos", "stopped", "stopped"]


def test_stop_before_the_models_are_there_ends_every_cell_as_stopped(pool):
    stop = threading.Event()
    stop.set()
    cells = finished(asked(checkpoints=NAMES), pool, stop=stop)
    assert {(c.status, c.finish_reason, c.text, c.error) for c in cells.values()} == {("done", "stopped", "", None)}
    assert not pool.stops


def test_stop_while_the_models_are_being_loaded_does_not_wait_for_them(pool):
    pool.gate.clear()
    stop = threading.Event()
    snapshots = compare(asked(), pool, stop, 0.05)
    while next(snapshots).fraction is None:
        pass
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    last = list(snapshots)[-1]
    assert time.monotonic() - began < 3 and last.finished and last.message == "Stopped"
    assert {c.finish_reason for c in last.cells} == {"stopped"}
    pool.gate.set()


def test_closing_the_generator_ends_the_work(pool):
    pool.delay, pool.says = 0.01, lambda row, _: "Long. " * 200
    stop = threading.Event()
    snapshots = compare(asked(max_new_tokens=512), pool, stop, 0.02)
    while not any(c.text for c in next(snapshots).cells):
        pass
    assert pool.running == 1
    snapshots.close()
    assert stop.is_set() and pool.wait_until_idle(3)


# --- comparing again -------------------------------------------------------------------------------------------------


def again(pool, before: CompareRequest, now: CompareRequest) -> tuple[list, list]:
    """Compare twice, the second time keeping what can be kept: the conditions kept, and the snapshots of the second time."""
    kept = reusable(run(before, pool)[-1].cells, before, now)
    return [cell.condition for cell in kept], list(compare(now, pool, threading.Event(), 0.0, kept))


def test_another_k_computes_only_what_depends_on_it(pool):
    kept, snapshots = again(pool, asked(conditions=CONDITIONS, k=4), asked(conditions=CONDITIONS, k=8))
    assert kept == ["full", "none"]
    assert {c.condition: c.status for c in snapshots[0].cells} == {c: "done" if c in kept else "waiting" for c in CONDITIONS}
    for cell in snapshots[-1].cells:
        assert cell.text == f"instruct {cell.condition} k={4 if cell.condition in kept else 8} heard: Add 1 and 1."
        assert cell.normalised is None or cell.condition != "full"
    assert [c.kept_tokens for c in snapshots[-1].cells] == [12, 8, 8, 0, 8]


def test_kept_answers_are_judged_beside_the_new_ones(pool):
    pool.script = says(full="The sum is 2.", gist="The sum is 2.", none="Lovely weather.")
    _, snapshots = again(pool, asked(conditions=("full", "none"), k=4), asked(conditions=("full", "gist", "none"), k=4))
    gist = snapshots[-1].cells[1]
    assert "F10" in codes(gist) and gist.normalised == pytest.approx(100)


def test_where_everything_is_kept_nothing_runs(pool):
    kept, snapshots = again(pool, asked(), asked())
    assert kept == list(SHOWN) and len(pool.samplings) == 1
    assert snapshots[-1].finished and snapshots[-1].message == "Done" and len(snapshots) == 2


def test_nothing_is_kept_for_another_example_or_other_sampling(pool):
    others = (Example("Add 1 and 2."), Example(ADD.instruction, "", "Another reference."))
    for now in (*map(asked, others), asked(max_new_tokens=5), asked(seed=1)):
        assert again(pool, asked(), now)[0] == []


def test_answers_that_failed_or_were_stopped_are_not_kept(pool):
    pool.script = says(full=Line("It", error="out of memory"))
    assert again(pool, asked(), asked())[0] == ["gist", "truncated"]
    stop = threading.Event()
    stop.set()
    assert not reusable(run(asked(), pool, stop)[-1].cells, asked(), asked())


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction", ["", "   ", "\n\t"])
def test_an_empty_instruction_is_refused_before_anything_starts(pool, instruction):
    with pytest.raises(PromptError, match=r"^Instruction is empty\. Type what the model should do"):
        run(asked(Example(instruction, "given")), pool)
    assert not pool.loaded


def test_all_problems_of_a_request_come_in_one_message(pool):
    with pytest.raises(UsageError) as caught:
        run(asked(checkpoints=(), conditions=("sideways",), k=0), pool)
    text = str(caught.value)
    assert "no checkpoint is chosen" in text and "'sideways' is not known; allowed are full, gist" in text and "k is 0" in text
    with pytest.raises(UsageError, match="no condition is chosen"):
        run(asked(conditions=()), pool)


def test_bad_sampling_values_are_named_with_what_is_allowed(pool):
    with pytest.raises(UsageError) as caught:
        run(asked(max_new_tokens=10_000, temperature=-1, top_p=0, seed=-3), pool)
    for part in ("answer limit is 10000; allowed are 1 to 512", "temperature is -1", "top-p is 0", "seed is -3"):
        assert part in str(caught.value)
    with pytest.raises(UsageError):
        run(asked(temperature=float("nan")), pool)


def test_an_unknown_checkpoint_fails_in_its_own_cells(pool):
    cells = finished(asked(checkpoints=("instruct", "nobody")), pool)
    for (name, _), cell in cells.items():
        assert (cell.error is None) == (name == "instruct")
    error = cells["nobody", "full"].error
    assert error.startswith("There is no checkpoint 'nobody'. Available: base, instruct.") and "\n" not in error


def test_a_folder_may_be_named_by_its_path(pool, tmp_path):
    folder = write_checkpoint(tmp_path / "elsewhere" / "mine")
    assert {c.error for c in finished(asked(checkpoints=(str(folder),)), pool).values()} == {None}


def test_a_broken_checkpoint_fails_only_in_its_cells(pool):
    """Broken in its folder, and refused when it is attached to its backbone."""
    (pool.settings.shipped_checkpoints_dir / NAMES[0] / "gist.safetensors").unlink()
    cells = finished(asked(checkpoints=NAMES), pool)
    assert all("gist.safetensors is missing" in cells[NAMES[0], c].error for c in SHOWN)
    assert all(cells[NAMES[1], c].finish_reason == "eos" for c in SHOWN)

    write_checkpoint(pool.settings.shipped_checkpoints_dir / "misfit")
    pool.refuse = {"misfit": CheckpointError("Checkpoint 'misfit' was trained on\nanother backbone.")}
    cells = finished(asked(checkpoints=("misfit", NAMES[1])), pool)
    assert {cells["misfit", c].error for c in SHOWN} == {"Checkpoint 'misfit' was trained on another backbone."}
    assert all(cells[NAMES[1], c].finish_reason == "eos" for c in SHOWN)


def test_two_folders_of_one_name_fail_each_for_itself(pool, tmp_path):
    twin = write_checkpoint(tmp_path / "elsewhere" / NAMES[1])
    loading = pool.row

    def row(shown, progress=None):
        if shown.entry.folder == twin:
            raise CheckpointError("This twin does not fit.")
        return loading(shown, progress)

    pool.row = row
    cells = finished(asked(checkpoints=(str(twin), NAMES[1])), pool)
    assert {cells[str(twin), c].error for c in SHOWN} == {"This twin does not fit."}
    assert {cells[NAMES[1], c].error for c in SHOWN} == {None}


def test_a_failing_backbone_spares_those_on_another(pool, caplog):
    write_checkpoint(pool.settings.shipped_checkpoints_dir / "other", backbone="another-toy")
    pool.refuse = {"other": OSError("disk full")}
    with caplog.at_level(logging.CRITICAL, logger="gistdemo.compare"):
        cells = finished(asked(checkpoints=("instruct", "other")), pool)
    assert {cells["other", c].error for c in SHOWN} == {"OSError: disk full"}
    assert {cells["instruct", c].error for c in SHOWN} == {None}


def test_a_k_larger_than_the_checkpoint_has_fails_where_a_gist_is_needed(pool):
    cells = finished(asked(conditions=CONDITIONS, k=SLOTS + 1), pool)
    assert {condition for (_, condition), cell in cells.items() if cell.error} == {"gist", "blind"}
    assert "has 16 gist tokens but 17 were asked for. Choose k up to 16" in cells["instruct", "gist"].error


@pytest.mark.parametrize(
    ("example", "start"),
    [(Example("x" * 20_000), "Instruction has 20,000 tokens"), (Example("Sum up.", "y " * 9000), "Input has 17,999 tokens")],
)
def test_a_prompt_that_is_too_long_is_an_error_in_its_cells_and_never_cut(pool, example, start):
    for cell in finished(asked(example), pool).values():
        assert cell.error.startswith(start) and "at most 1,024 are allowed" in cell.error and cell.finish_reason == "error"
    assert not pool.stops


def test_half_a_character_is_an_error_in_its_cells(pool):
    assert "broken character" in finished(asked(Example("a\ud800b")), pool)["instruct", "full"].error


def test_a_row_that_fails_keeps_its_text_and_spares_the_others(pool):
    pool.script = says(gist=Line("The sum", error="The model produced a value that is not a number for this row."))
    cells = finished(asked(), pool)
    gist = cells["instruct", "gist"]
    assert (gist.status, gist.finish_reason, gist.text) == ("done", "error", "The sum") and "not a number" in gist.error
    assert cells["instruct", "full"].finish_reason == cells["instruct", "truncated"].finish_reason == "eos"


def test_an_exception_in_the_worker_is_one_line_in_every_open_cell_and_is_logged(pool, caplog):
    pool.script = says(full="No.")
    pool.crash, pool.crash_after = RuntimeError("the engine\nbroke down"), 6
    with caplog.at_level(logging.ERROR, logger="gistdemo.compare"):
        cells = finished(asked(), pool)
    assert cells["instruct", "full"].finish_reason == "eos" and cells["instruct", "full"].error is None
    for condition in ("gist", "truncated"):
        cell = cells["instruct", condition]
        assert (cell.status, cell.error, len(cell.text)) == ("done", "RuntimeError: the engine broke down", 6)
    assert [record.exc_info[1] for record in caplog.records] == [pool.crash]
    assert pool.wait_until_idle()


def test_errors_that_users_can_mend_are_not_logged(pool, caplog):
    shutil.rmtree(pool.settings.shipped_checkpoints_dir / NAMES[0])
    finished(asked(checkpoints=NAMES, k=99), pool)
    assert not caplog.records


# --- backbones as rows ---------------------------------------------------------------------------------------------------


def test_a_backbone_answers_as_it_is_and_has_nothing_to_show_where_a_gist_is_needed(pool):
    cells = finished(asked(checkpoints=(SMOLLM2.name, "instruct"), conditions=CONDITIONS), pool)
    for (name, condition), cell in cells.items():
        if name == SMOLLM2.name and condition in ("gist", "blind"):
            assert (cell.status, cell.note, cell.text, cell.error, cell.finish_reason) == ("done", NO_GIST, "", None, None)
            assert cell.diagnosis is None and cell.scores == {}, "nothing was said, so nothing is judged"
            assert cell.to_dict(4)["note"] == NO_GIST and cell.to_dict(4)["verdict"] is None
        else:
            assert cell.text == f"{name} {condition} k=4 heard: Add 1 and 1." and cell.note is None and cell.finish_reason == "eos"


def test_a_backbone_is_shown_its_own_template(pool):
    cells = finished(asked(checkpoints=(SMOLLM2.name, GEMMA.name), conditions=("full",)), pool)
    seen = {name: "".join(t for piece in cell.pieces for t in piece.tokens) for (name, _), cell in cells.items()}
    assert seen[GEMMA.name].startswith("Instruction: Add") and seen[SMOLLM2.name].startswith("<|im_start|>user\nAdd")


def test_where_no_cell_has_anything_to_show_nothing_is_loaded(pool):
    snapshots = run(asked(checkpoints=(SMOLLM2.name,), conditions=("gist", "blind")), pool)
    assert not pool.loaded and snapshots[-1].finished and snapshots[-1].message == "Done"
    assert {cell.note for cell in snapshots[-1].cells} == {NO_GIST}


def test_what_a_backbone_cannot_show_is_not_taken_for_an_answer_when_k_moves(pool):
    before, now = (asked(checkpoints=(SMOLLM2.name,), k=k) for k in (4, 8))
    assert again(pool, before, now)[0] == ["full"]


def test_a_model_that_is_being_loaded_holds_up_no_row_on_another(pool):
    """Its cells say how far it is, and no longer once they are read."""
    write_checkpoint(pool.settings.shipped_checkpoints_dir / "late", backbone="slow-toy")
    pool.gated = {"slow-toy"}
    pool.gate.clear()
    waited = False
    for snapshot in compare(asked(checkpoints=("instruct", "late")), pool, threading.Event(), 0.0):
        ready, late = snapshot.cells[:3], snapshot.cells[3:]
        if all(cell.status == "done" for cell in ready) and {cell.note for cell in late} == {"Reading the weights of slow-toy"}:
            assert {cell.status for cell in late} == {"waiting"}
            waited = True
            pool.gate.set()
    assert waited and snapshot.finished
    assert {(cell.finish_reason, cell.note) for cell in snapshot.cells} == {("eos", None)}


def test_stopping_takes_the_note_of_a_model_that_never_came_off_its_cells(pool):
    pool.gate.clear()
    stop = threading.Event()
    for snapshot in compare(asked(), pool, stop, 0.02):
        if snapshot.cells[0].note:
            stop.set()
    pool.gate.set()
    assert {(cell.finish_reason, cell.note) for cell in snapshot.cells} == {("stopped", None)}


# --- several at once -------------------------------------------------------------------------------------------------


def test_comparisons_that_run_at_the_same_time_do_not_mix(pool):
    pool.delay = 0.002
    found: dict[int, dict] = {}

    def one(n: int) -> None:
        found[n] = finished(asked(Example(f"Task number {n}."), checkpoints=NAMES, k=n + 1), pool, seconds_between=0.02)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for n in range(3):
        for (name, condition), cell in found[n].items():
            assert cell.text == f"{name} {condition} k={n + 1} heard: Task number {n}."


def test_stopping_one_comparison_leaves_the_other(pool):
    pool.delay, stop, other = 0.005, threading.Event(), {}
    thread = threading.Thread(target=lambda: other.update(finished(asked(), pool)))
    thread.start()
    for snapshot in compare(asked(), pool, stop, 0.02):
        if any(c.text for c in snapshot.cells):
            stop.set()
    thread.join(20)
    assert {c.finish_reason for c in snapshot.cells} == {"stopped"} and {c.finish_reason for c in other.values()} == {"eos"}
