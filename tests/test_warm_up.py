"""What the page says while the embedded models are fetched and loaded in the background."""

from __future__ import annotations

import dataclasses

import gradio as gr
import pytest
from scripted import ScriptedPool, write_checkpoint, write_two_checkpoints

from gistdemo.errors import BackboneError, CheckpointError
from gistdemo.model.embedded import EMBEDDED, GEMMA, SMOLLM2
from gistdemo.ui import warm_up as module
from gistdemo.ui.warm_up import READY, WarmUp


@pytest.fixture
def pool(settings) -> ScriptedPool:
    return ScriptedPool(write_two_checkpoints(settings, SMOLLM2.name))


@pytest.fixture
def warm_up(settings, pool) -> WarmUp:
    return WarmUp(settings, pool)


def kinds(warm_up) -> dict[str, str]:
    return {name: kind for name, (_, _, kind) in warm_up.state.items()}


def names_asked(pool) -> list[str]:
    """Filled with the name of every row that is loaded from now on."""
    asked, loading = [], pool.row
    pool.row = lambda row, progress: asked.append(row.name) or loading(row, progress)
    return asked


def test_a_first_start_says_how_much_is_fetched_and_of_what(warm_up, monkeypatch):
    whole = sum(model.download_bytes for model in EMBEDDED.values())
    assert warm_up.opening().startswith(f"First start: {whole / 1e6:.0f} MB are fetched once ({SMOLLM2.title} 93 MB + {GEMMA.title}")
    monkeypatch.setattr(module, "is_ready", lambda model, settings: model is SMOLLM2)
    assert warm_up.opening().startswith(f"First start: {GEMMA.download_bytes / 1e6:.0f} MB") and SMOLLM2.title not in warm_up.opening()
    monkeypatch.setattr(module, "is_ready", lambda model, settings: True)
    assert warm_up.opening() == "Getting ready"


def test_all_models_and_their_rows_are_loaded_in_order(warm_up, pool):
    asked = names_asked(pool)
    warm_up._run()
    assert pool.loaded == [SMOLLM2.name, GEMMA.name] and set(asked) == {"base", "instruct", SMOLLM2.name, GEMMA.name}
    assert warm_up.done and set(kinds(warm_up).values()) == {"ready"}
    ((status, models),) = warm_up.watch()
    assert READY in status and models == ""


def test_the_page_is_told_of_loading_then_ready_then_the_rest(warm_up):
    """Once it is ready, the status line belongs to the comparisons, and the other models have lines of their own."""
    seen = warm_up.watch()
    status, models = next(seen)
    assert "First start" in status and "gd-s-busy" in status and models == ""
    warm_up.state[SMOLLM2.name] = ("Downloading: 3 of 9 MB", 0.3, "busy")
    status, models = next(seen)
    assert "Downloading: 3 of 9 MB" in status and "width:30%" in status and models == ""
    warm_up.state[SMOLLM2.name] = ("ready", None, "ready")
    status, models = next(seen)
    assert READY in status and "gd-s-info" in status and f"{GEMMA.title}: waiting" in models
    warm_up.state[GEMMA.name] = ("Downloading: 1 of 4 MB", 0.25, "busy")
    status, models = next(seen)
    assert status == gr.skip() and "Downloading: 1 of 4 MB" in models
    warm_up.state[GEMMA.name], warm_up.done = ("ready", None, "ready"), True
    assert list(seen) == [(gr.skip(), "")]


@pytest.mark.parametrize(("failing", "other"), [(SMOLLM2, GEMMA), (GEMMA, SMOLLM2)])
def test_a_model_that_fails_holds_up_no_other_and_says_why(warm_up, pool, failing, other):
    pool.refuse = {failing.name: BackboneError("no network <b>\nat all")}
    warm_up._run()
    assert kinds(warm_up) == {failing.name: "failed", other.name: "ready"}
    ((status, models),) = warm_up.watch()
    assert READY in status and "gd-s-error" in models and "no network &lt;b&gt; at all" in models


def test_where_every_model_fails_the_status_line_says_why(warm_up, pool, caplog):
    pool.refuse = {SMOLLM2.name: BackboneError("no network"), GEMMA.name: ValueError("a bug")}
    warm_up._run()
    ((status, models),) = warm_up.watch()
    assert "no network" in status and "gd-s-error" in status and models == ""
    assert warm_up.state[GEMMA.name][0] == f"{GEMMA.title} could not be loaded; the log of the server has the details"
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a bug"]


def test_a_checkpoint_that_does_not_fit_leaves_its_model_and_the_other_rows_ready(warm_up, pool, settings):
    """It says so in its own cells."""
    write_checkpoint(settings.shipped_checkpoints_dir / "a-misfit", backbone=SMOLLM2.name)
    pool.refuse = {"a-misfit": CheckpointError("It was trained on another backbone.")}
    asked = names_asked(pool)
    warm_up._run()
    assert set(kinds(warm_up).values()) == {"ready"} and asked == [SMOLLM2.name, "a-misfit", "base", "instruct", GEMMA.name]


def test_checkpoints_that_were_made_or_taken_in_here_are_left_until_somebody_asks_for_them(warm_up, pool, settings):
    write_checkpoint(settings.data_dir / "checkpoints" / "taken-in", backbone=SMOLLM2.name)
    asked = names_asked(pool)
    warm_up._run()
    assert asked == [SMOLLM2.name, "base", "instruct", GEMMA.name]


def test_models_that_are_switched_off_are_left_alone(settings, pool):
    only = WarmUp(dataclasses.replace(settings, embedded=(GEMMA.name,)), pool)
    only._run()
    assert pool.loaded == [GEMMA.name] and list(only.state) == [GEMMA.name]
    none = WarmUp(dataclasses.replace(settings, embedded=()), pool)
    assert none.done and [READY in status for status, _ in none.watch()] == [True]
