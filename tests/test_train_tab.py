"""What the Train tab's handlers do with a form and with jobs, and the HTML and figures they show. The page itself: test_browser.py."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time

import pytest
from scripted import write_checkpoint

from gistdemo.checkpoint.manifest import read_manifest
from gistdemo.checkpoint.registry import Entry, ModelRow
from gistdemo.cli import build_parser
from gistdemo.errors import UsageError
from gistdemo.jobs.estimate import estimate
from gistdemo.jobs.progress import Progress
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import FOLLOWS, Job
from gistdemo.jobs.watch import Watch
from gistdemo.model.embedded import EMBEDDED, GEMMA
from gistdemo.present import job_cards, training_figures
from gistdemo.services import LOCAL, Services
from gistdemo.train.config import TrainConfig
from gistdemo.train.presets import PRESETS, with_preset
from gistdemo.ui.train_tab import OWN_EXAMPLES, SETTINGS, Form, TrainTab

VALUES = {"mode": "compressor", "backbone": "smollm2-135m-instruct", "ks": "1,2,4", "steps": 20, "batch_size": 8}
VALUES |= {"learning_rate": 1e-3, "gist_learning_rate": 5e-3, "seed": 0}


@pytest.fixture
def tab(settings) -> TrainTab:
    """A tab whose queue starts nothing, not even after the test."""
    services = Services(settings, jobs=Jobs(settings.runs_dir, at_once=0))
    return TrainTab(services, Watch(services.jobs), LOCAL)


def form(preset: str = "quick", name: str = "mine", data: str = OWN_EXAMPLES, more: str = "{}", **changes):
    return [preset, name, data, more, *({**VALUES, **changes}[field] for field in SETTINGS)]


# --- form ----------------------------------------------------------------------------------------------------------------


def test_a_form_becomes_a_job_with_these_settings(tab):
    _, status = tab.submit(*form(more='{"rank": 8, "targets": ["q_proj"]}'))
    (job,) = tab.jobs.list()
    config = TrainConfig.from_dict(job.settings)
    assert (config.name, config.ks, config.steps, config.rank, config.targets) == ("mine", (1, 2, 4), 20, 8, ("q_proj",))
    assert config.data.endswith("examples.jsonl") and "in the queue" in status and job.title == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"ks": "1,two"}, "whole numbers"),
        ({"ks": "4,1"}, "rising whole numbers"),
        ({"more": "{"}, "a JSON object"),
        ({"more": "[]"}, "a JSON object"),
        ({"more": '{"colour": 1}'}, "unknown colour"),
        ({"name": "../x"}, "name is"),
        ({"data": "gone.jsonl"}, "does not exist"),
    ],
)
def test_what_is_not_allowed_is_said_and_reaches_no_queue(tab, changes, words):
    _, status = tab.submit(*form(**changes))
    assert words in status and "gd-s-error" in status and tab.jobs.list() == []


def test_a_name_is_given_once(tab):
    tab.submit(*form())
    assert "named &#39;mine&#39; already" in tab.submit(*form())[1] and len(tab.jobs.list()) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_shown_is_the_form(tab, preset):
    """Parsed by the command line, it gives the same settings (but for the folder of the data)."""
    config = with_preset(preset, {"name": "x", "data": "x"})
    values = {name: ",".join(map(str, config.ks)) if name == "ks" else getattr(config, name) for name in SETTINGS}
    shown = tab.describe(*form(preset, **values))[1]
    args = build_parser().parse_args(shlex.split(shown)[3:])
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(args, f.name)}
    wanted = dataclasses.asdict(tab.config(Form(*form(preset, **values)))) | {"data": "assets/examples.jsonl"}
    assert args.queue and dataclasses.asdict(with_preset("", given)) == wanted


def test_choosing_a_preset_fills_the_form(tab):
    radio, *values, more = tab.take_preset("earlier-experiment")
    assert dict(zip(SETTINGS, values, strict=True))["ks"] == "1" and more == "{}" and radio.info == PRESETS["earlier-experiment"].purpose


def test_data_are_counted_before_anything_starts(tab, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Add <b>.", "output": "3"}\n{"instruction": "", "output": "x"}\n')
    text, status = tab.check_data(*form(data=str(path)))
    assert "1 usable rows" in text and "1 x empty instruction" in text and "&lt;b&gt;" in text and "Data checked" in status
    assert "does not exist" in tab.check_data(*form(data="gone.jsonl"))[0]


def test_the_settings_of_a_job_can_be_used_again(tab):
    tab.submit(*form(more='{"rank": 8}'))
    job = tab.jobs.list()[0]
    name, data, *values, more, status = tab.settings_of(job.id)
    assert (name, data, json.loads(more)["rank"]) == ("mine-2", OWN_EXAMPLES, 8) and "Settings of" in status
    again = tab.config(Form("quick", name, data, more, *values))
    assert dataclasses.replace(again, name="mine") == TrainConfig.from_dict(job.settings)


def test_the_embedded_models_that_are_chosen_are_offered_as_backbones(tab):
    assert tab._backbones() == list(EMBEDDED)
    tab.settings = dataclasses.replace(tab.settings, embedded=(GEMMA.name,))
    assert tab._backbones() == [GEMMA.name]


# --- view ----------------------------------------------------------------------------------------------------------------


def test_actions_answer_in_one_line(tab):
    tab.submit(*form())
    job = tab.jobs.list()[0]
    assert "out of the queue" in tab.change("stop", job.id) and "in the queue" in tab.change("resume", job.id)
    assert "gd-s-error" in tab.change("resume", job.id) and "No job is chosen" in tab.change("stop", None)
    assert "Tick" in tab.remove(job.id, False)[0] and "Deleted" in tab.remove(job.id, True)[0] and tab.jobs.list() == []


def test_the_view_follows_the_chosen_job_and_falls_back_to_the_first(tab):
    empty = tab.refresh(None)
    assert "No job yet" in empty[1] and empty[3] == ""
    tab.submit(*form())
    job = tab.jobs.list()[0]
    radio, card, samples, _ = tab.refresh("gone")
    assert radio.value == job.id and "mine" in card and "appear here" in samples
    assert tab.draw(job.id, False, "")[2] == tab.draw(job.id, False, "")[2]
    drawn = tab.draw(job.id, False, "")[2]
    assert "__type__" in tab.draw(job.id, False, drawn)[0], "nothing new is not drawn again"


@pytest.mark.parametrize("state", FOLLOWS)
def test_every_state_has_its_own_look(state):
    job = Job("x-1", "train", "<b>mine</b>", {"steps": 10}, state=state, cause="why & what next" if state == "failed" else "")
    points = [{"step": n, "loss": 1.0, "time": float(n), "memory_gib": 1.5, "samples_per_second": 4.0} for n in range(1, 6)]
    html = job_cards.watched(job, Progress(10, points))
    assert f'data-state="{state}"' in html and "<b>mine" not in html and "5 of 10" in html and "width:50.0%" in html
    assert ("time left" in html) == (state == "running") and ("why &amp; what next" in html) == (state == "failed")
    assert state in job_cards.label(job, Progress(10, points))


def test_samples_stand_side_by_side_with_their_verdicts():
    found = [
        {"instruction": "Say <i>.", "input": "", "condition": c, "text": t, "verdict": v, "tokens": 3, "flags": []}
        for c, t, v in (("full", "fine", "healthy"), ("gist", "www www", "degenerate"))
    ]
    html = job_cards.samples(found, 40)
    assert html.count("<section>") == 1 and "■ degenerate" in html and "after step 40" in html and "Say &lt;i&gt;." in html


def test_figures_hold_what_was_measured_and_no_more_points_than_a_screen():
    points = [{"step": n, "loss": 2.0, "kl": 1.0} for n in range(1, 5001)]
    figure = training_figures.loss_figure(points, log_scale=True)
    assert [line.name for line in figure.data if line.name] == ["loss", "KL"] and figure.layout.yaxis.type == "log"
    assert all(len(line.x) <= training_figures.MOST_POINTS and line.x[-1] == 5000 for line in figure.data)
    evaluation = {
        "references": {"by_k": {"4": {"recovery": 0.5, "swapped": 0.0}, "8": {"recovery": None, "swapped": None}}},
        "gist_shift": 1.0,
    }
    recovery = training_figures.recovery_figure([{"step": 10, "evaluation": evaluation}])
    assert [line.name for line in recovery.data] == ["references, k = 4", "references, k = 4: another row's gist"]
    evaluation["references"]["by_k"]["4"]["recovery"] = -2.2
    low = training_figures.recovery_figure([{"step": 0, "evaluation": evaluation}]).data[0]
    assert list(low.y) == [training_figures.FLOOR] and list(low.customdata) == [-2.2], "in sight, and hovering tells its value"
    assert not training_figures.recovery_figure([]).data and not training_figures.loss_figure([]).data


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"mode": "compressor"}, ["mine"]),
        ({"mode": "joint", "has_backbone_adapter": True}, ["mine", "toy"]),
        ({"mode": "joint", "has_weights": True}, ["mine", "toy"]),
    ],
)
def test_a_finished_checkpoint_is_compared_with_its_backbone(tab, monkeypatch, fields, rows):
    """Where the decoder is the backbone itself, the checkpoint's own full prompt is the backbone; else it is a row of its own."""
    made = read_manifest(write_checkpoint(tab.settings.data_dir / "checkpoints" / "mine"))
    row = ModelRow("mine", "toy", Entry("mine", tab.settings.data_dir, dataclasses.replace(made, **fields), None))
    monkeypatch.setattr(tab.services, "rows", lambda: [row, ModelRow("toy", "toy")])
    job = Job("x-1", "train", "mine", {"name": "mine"}, state="done")
    tab.chosen = lambda job_id: job
    assert tab.to_compare("x-1") == rows
    for other in (dataclasses.replace(job, state="running"), dataclasses.replace(job, settings={"name": "toy"}), None):
        tab.chosen = lambda job_id, other=other: other
        with pytest.raises(UsageError, match=r"has no checkpoint to compare \(yet\)"):
            tab.to_compare("x-1")


# --- estimate ------------------------------------------------------------------------------------------------------------


def test_memory_that_is_not_free_is_said_before_the_start(tab):
    small, huge = (estimate(tab.config(Form(*form(batch_size=size))), tab.jobs) for size in (8, 100_000))
    assert small.memory_gib == pytest.approx(5.0) and small.memory_text().startswith("Up to 5 GiB of memory")
    assert "are free: use a smaller batch" in huge.memory_text()
    assert "GiB of memory" in tab.describe(*form())[0]


@pytest.mark.parametrize(
    ("mode", "sampled", "step", "memory"),
    [("embeddings", 4096, 2.4, 3.9), ("embeddings", 0, 4.8, 4.9), ("joint", 4096, 4.48, 6.8), ("joint", 0, 8.0, None)],
)
def test_gemmas_runs_were_measured_as_well(tab, mode, sampled, step, memory):
    """Seconds per step of 8 rows, told apart from the rest of the run by asking for more steps."""
    config = with_preset("", {"mode": mode, "name": "x", "data": "d", "backbone": GEMMA.name, "sampled_vocabulary": sampled})
    short, long = (estimate(dataclasses.replace(config, steps=n, evaluate_every=1000), tab.jobs) for n in (100, 600))
    assert (long.seconds - short.seconds) / 500 == pytest.approx(step) and short.memory_gib == memory
    assert "two cores without native bf16" in short.basis and short.seconds < 100 * step + 600
    many = estimate(dataclasses.replace(config, steps=100, evaluate_every=1000, sampled_vocabulary=100_000), tab.jobs)
    assert many == estimate(dataclasses.replace(config, steps=100, evaluate_every=1000, sampled_vocabulary=0), tab.jobs), "at most that"


def test_evaluations_take_longer_with_a_larger_model(tab):
    config = with_preset("", {"mode": "embeddings", "name": "x", "data": "d", "steps": 10, "evaluate_rows": 400})
    small, large = (estimate(dataclasses.replace(config, backbone=name), tab.jobs).seconds for name in EMBEDDED)
    assert large > 1.5 * small


@pytest.mark.parametrize(
    "changes", [{"mode": "compressor"}, {"mode": "joint", "weights": "all"}, {"mode": "joint", "backbone": "org/name"}]
)
def test_what_was_never_measured_has_no_estimate(tab, changes):
    found = estimate(with_preset("", {"name": "x", "data": "d", "backbone": GEMMA.name} | changes), tab.jobs)
    assert found.seconds is None and found.memory_gib is None and "first steps will tell" in found.basis


def test_an_estimate_comes_from_a_run_made_here_where_there_is_one(tab):
    config = with_preset("quick", {"name": "x", "data": "d.jsonl", "steps": 100})
    known = estimate(config, tab.jobs)
    assert 100 < known.seconds < 1000 and "two cores" in known.basis
    unknown = estimate(dataclasses.replace(config, backbone="org/name"), tab.jobs)
    assert unknown.seconds is None and "first steps will tell" in unknown.basis
    job = tab.jobs.submit("train", dataclasses.asdict(dataclasses.replace(config, backbone="org/name")), "before")
    lines = [json.dumps({"step": n, "loss": 1.0, "time": time.time() + 80.0 * n}) for n in range(1, 6)]
    (tab.jobs.folder(job.id) / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    made = estimate(dataclasses.replace(config, backbone="org/name"), tab.jobs)
    assert made.seconds > 8000 and made.basis == "as 'before' here"
    sampled = estimate(dataclasses.replace(config, backbone="org/name", sampled_vocabulary=100), tab.jobs)
    assert sampled.seconds is None, "a run on the whole vocabulary tells nothing about one on a sample"


def test_a_run_made_here_by_an_earlier_version_still_tells(tab):
    """Its settings lack what came later."""
    config = with_preset("quick", {"name": "x", "data": "d.jsonl", "backbone": "org/name"})
    older = {name: value for name, value in dataclasses.asdict(config).items() if name != "sampled_vocabulary"}
    job = tab.jobs.submit("train", older, "before")
    lines = [json.dumps({"step": n, "loss": 1.0, "time": 80.0 * n}) for n in (1, 2, 3)]
    (tab.jobs.folder(job.id) / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert estimate(config, tab.jobs).basis == "as 'before' here"
