"""The Train tab in a real browser, with real job processes: simulated runs for the way of a job, the toy model for a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from lessons import ROWS, write_rows
from scripted import ScriptedPool, write_two_checkpoints
from simulated import PROGRAM
from test_browser import browser, serving  # noqa: F401  (browser is a fixture)
from toy import save_toy

from gistdemo.jobs.launcher import LOCAL, Local
from gistdemo.jobs.queue import Jobs
from gistdemo.settings import Settings
from gistdemo.train.presets import PRESETS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("default:BROWSER TESTS"),
]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Settings:
    """An installation of its own, for the server and for the processes of its jobs, which know the kind `simulate` (simulated.py)."""
    monkeypatch.setattr(LOCAL, "program", PROGRAM)
    monkeypatch.setenv("GISTDEMO_HOME", str(tmp_path / "home"))
    settings = Settings(
        cache_dir=tmp_path / "home" / "cache", data_dir=tmp_path / "home" / "data", shipped_checkpoints_dir=tmp_path / "shipped"
    )
    yield write_two_checkpoints(settings)
    for job in Jobs(settings.runs_dir).list():
        if job.process:
            LOCAL.end(job.process, force=True)


@pytest.fixture
def address(home) -> Iterator[str]:
    with serving(ScriptedPool(home)) as found:
        yield found


@pytest.fixture
def open_page(browser, address):  # noqa: F811
    """Opens further pages on the Train tab, each as another person would have it."""
    contexts = []

    def open_one():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.goto(address)
        page.get_by_role("tab", name="Train").click()
        page.locator("#gd-start").wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()


def start(page, name: str, steps: int) -> None:
    page.locator("#gd-name").get_by_role("textbox").fill(name)
    page.locator("#gd-steps input").fill(str(steps))
    page.locator("#gd-start").click()


def simulate(home: Settings, name: str, steps: int) -> None:
    """Put a simulated run into the queue; the server starts it."""
    Jobs(home.runs_dir).submit("simulate", {"steps": steps, "seconds_per_step": 0.2}, name)


def shows(page, state: str, name: str) -> None:
    page.locator(f'.gd-job[data-state="{state}"] h4', has_text=name).wait_for()


def steps_done(page) -> int:
    return int(re.search(r"(\d[\d,]*) of", page.locator(".gd-job dl").inner_text())[1].replace(",", ""))


def test_a_job_is_watched_stopped_resumed_and_finished(home, open_page):
    """Through a reload, with a second page that sees the same, and a third that opens after all pages were closed."""
    page = open_page()
    simulate(home, "watched", 60)
    shows(page, "running", "watched")
    page.wait_for_function("() => /\\b[1-9]\\d* of 60/.test(document.querySelector('.gd-job dl').innerText)")
    page.reload()
    page.get_by_role("tab", name="Train").click()
    shows(page, "running", "watched")
    other = open_page()
    shows(other, "running", "watched")
    page.locator("#gd-job-stop").click()
    shows(other, "cancelled", "watched")
    shows(page, "cancelled", "watched")
    reached = steps_done(page)
    assert 0 < reached < 60 and "Stopped after step" in page.locator(".gd-job").inner_text()
    page.locator("#gd-job-resume").click()
    shows(page, "running", "watched")
    page.close()
    other.close()
    later = open_page()
    shows(later, "done", "watched")
    assert steps_done(later) == 60
    (job,) = Jobs(home.runs_dir).list()
    lines = [json.loads(line) for line in (home.runs_dir / job.id / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))


def test_what_is_wrong_in_the_form_is_said_and_no_job_is_made(home, open_page):
    page = open_page()
    start(page, "bad/name", 10)
    page.locator(".gd-s-error", has_text="name is 'bad/name'").wait_for()
    assert Jobs(home.runs_dir).list() == []
    page.locator("#gd-name").get_by_role("textbox").fill("good")
    page.locator("#gd-data").get_by_role("textbox").fill("gone.jsonl")
    page.locator("#gd-start").click()
    page.locator(".gd-s-error", has_text="does not exist").wait_for()
    assert Jobs(home.runs_dir).list() == []


def test_a_job_can_be_deleted_after_a_second_thought(home, open_page):
    page = open_page()
    simulate(home, "short", 3)
    shows(page, "done", "short")
    page.locator("#gd-job-delete").click()
    page.locator(".gd-s-error", has_text="cannot be brought back").wait_for()
    page.locator("#gd-job-sure input").check()
    page.locator("#gd-job-delete").click()
    page.locator(".gd-hint", has_text="No job yet").wait_for()
    assert Jobs(home.runs_dir).list() == []


def test_choosing_a_preset_fills_the_form(home, open_page):
    page = open_page()
    page.locator("#gd-preset").get_by_label("paper").click()
    page.wait_for_function(f"() => document.querySelector('#gd-steps input').value == '{PRESETS['paper'].values['steps']}'")
    start(page, "two words", 10)
    page.locator(".gd-s-error", has_text="name is 'two words'").wait_for()


def test_a_trained_checkpoint_appears_among_the_others_without_a_restart(home, open_page, tmp_path, monkeypatch):
    """A real run of the toy model in the process that the product starts, from the form to the picker of the Compare tab."""
    monkeypatch.setattr(LOCAL, "program", Local.program)
    page = open_page()
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    page.locator("#gd-backbone input").fill(str(save_toy(tmp_path / "toy")))
    page.locator("#gd-backbone input").press("Enter")
    page.locator("#gd-data").get_by_role("textbox").fill(data)
    page.get_by_text("More settings").click()
    page.locator("#gd-more .cm-content").fill('{"evaluate_rows": 2, "sample_tokens": 4, "evaluate_every": 2}')
    start(page, "fresh", 4)
    page.set_default_timeout(60_000)
    shows(page, "done", "fresh")
    assert page.locator(".gd-sample").count() == 4, "two held-out rows, full and gist"
    page.get_by_role("tab", name="Compare").click()
    page.locator("#gd-checkpoints").get_by_text("fresh").wait_for()
    assert page.locator("#gd-checkpoints input:checked").count() == 2, "what was chosen stays, nothing is added"
