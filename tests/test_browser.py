"""The page in a real browser: what a person sees and does, with scripted answers in place of a model."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from scripted import LOOP, NAMES, Line, ScriptedPool, write_checkpoint, write_two_checkpoints
from toy import save_toy

from gistdemo.checkpoint.registry import list_rows
from gistdemo.compare import NO_GIST
from gistdemo.data.examples import ExampleSources
from gistdemo.errors import BackboneError
from gistdemo.model.embedded import GEMMA, SMOLLM2, is_ready
from gistdemo.prompts import PLAIN
from gistdemo.settings import PROJECT_DIR, Settings
from gistdemo.ui.compare_tab import DEFAULT_ROWS, OPENING

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Gradio's own, about pandas
    pytest.mark.filterwarnings("default:BROWSER TESTS"),
]
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM += ["--disable-component-update", "--disable-sync"]
SHOWN = ("full", "gist", "truncated")
ATTACK = '<img src=x onerror="window.hacked=1">'
TEMPLATES = "${window.hacked=2} {{window.hacked=3}} `${7*7}`"
DASH = "\u2013"  # a number that is not known
ENDLESS = "qwertyuiopasdfghjklzxcvbnmqazwsxedcrfvtgbyhnujmik"  # a word of more than 40 letters is a warning


def skip_loudly(reason: str) -> None:
    warnings.warn(f"BROWSER TESTS ARE SKIPPED: {reason}", stacklevel=2)
    pytest.skip(reason)


# --- server and browser ----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(pool: ScriptedPool) -> Iterator[str]:
    """The app in this process, launched as app.py does. Yields its address."""
    from gistdemo.ui.build import build_app

    page, arguments = build_app(pool.settings, pool=pool)
    arguments |= {"ssr_mode": False, "show_error": False, "quiet": True}
    _, address, _ = page.launch(prevent_thread_lock=True, server_port=free_port(), **arguments)
    try:
        yield address
    finally:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_loudly("playwright is not installed; it is in requirements-dev.txt")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(path).exists():
            skip_loudly("there is no Chromium; `scripts/get-browser PYTHON` fetches one")
        found = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory, browser) -> Iterator[tuple[str, ScriptedPool]]:
    """One server for all tests of this file."""
    home = tmp_path_factory.mktemp("installation")
    settings = Settings(cache_dir=home / "cache", data_dir=home / "data", shipped_checkpoints_dir=home / "shipped")
    pool = ScriptedPool(write_two_checkpoints(settings, SMOLLM2.name))
    with serving(pool) as address:
        yield address, pool


@pytest.fixture
def pool(served) -> Iterator[ScriptedPool]:
    yield served[1]
    assert served[1].wait_until_idle(), "an engine was still running after its page was closed"
    served[1].reset()


@pytest.fixture(scope="module")
def context(browser):
    """What most pages share: the browser's cache."""
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    yield made
    made.close()


class App:
    """The page as a person uses it. Watches for script errors and for requests that leave this machine."""

    def __init__(self, context, address: str):
        self.context, self.address = context, address
        self.trouble: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.trouble.append(f"script error: {error}"))
        self.page.on("response", lambda answer: answer.status >= 500 and self.trouble.append(f"{answer.status} {answer.url}"))
        self.page.route(re.compile(r"^https?://(?!127\.0\.0\.1[:/])"), self._refuse)

    def _refuse(self, route) -> None:
        self.trouble.append(f"left this machine: {route.request.url}")
        route.abort()

    def open(self, query: str = "", ready: bool = True) -> App:
        """Load the page; `ready`: and wait until it says that the models are there."""
        self.page.goto(self.address + query, wait_until="load")
        self.row(0).wait_for()
        if ready:
            self.says("Ready: pick an example and press Compare")
        return self

    def close(self) -> None:
        hacked = self.page.evaluate("window.hacked")
        self.page.close()
        assert hacked is None, "foreign text ran as a script"
        assert not self.trouble, self.trouble

    # where things are

    def at(self, name: str):
        return self.page.locator(f"#gd-{name}")

    def field(self, name: str):
        return self.at(name).locator("textarea, input").first

    def row(self, n: int):
        """A row of the table of examples."""
        return self.at("examples").locator(f'.virtual-row[data-index="{n}"]')

    def rows(self) -> list[list[str]]:
        """The texts of the rows that are drawn: number, instruction, input."""
        cells = "row => [...row.querySelectorAll('[role=gridcell]')].map(cell => cell.innerText.trim())"
        return self.at("examples").evaluate(f"e => [...e.querySelectorAll('.virtual-row')].map({cells})")

    def card(self, checkpoint: str, condition: str):
        return self.page.locator(f'.gd-card[data-checkpoint="{checkpoint}"][data-condition="{condition}"]')

    def text(self, checkpoint: str, condition: str) -> str:
        return self.card(checkpoint, condition).locator(".gd-text").inner_text()

    # what a person does

    def says(self, part: str | re.Pattern) -> None:
        """Wait until the status line holds this."""
        self.page.locator("#gd-status", has_text=part).wait_for()

    def open_section(self, title: str) -> None:
        self.page.get_by_role("button", name=title).click()

    def start(self) -> None:
        """Press Compare, and remember which grid was there before."""
        self.page.evaluate("document.querySelectorAll('.gd-grid').forEach(e => e.dataset.old = 'yes')")
        self.at("compare").click()

    def wait_for_new_grid(self, finished: bool = True) -> None:
        self.page.locator(f'.gd-grid:not([data-old])[data-finished="{str(finished).lower()}"]').wait_for()

    def compare(self, instruction: str | None = None) -> App:
        if instruction is not None:
            self.field("instruction").fill(instruction)
        self.start()
        self.wait_for_new_grid()
        return self


@pytest.fixture
def app(served, pool, context) -> Iterator[App]:
    made = App(context, served[0]).open()
    yield made
    made.close()


def until(condition, seconds: float = 15.0) -> None:
    """Poll; for what no locator can wait for."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)


# --- before the models are there -------------------------------------------------------------------------------------


def test_the_page_can_be_used_while_the_models_are_being_loaded(settings, context):
    pool = ScriptedPool(write_two_checkpoints(settings, SMOLLM2.name))
    pool.gate.clear()
    with serving(pool) as address:
        app = App(context, address).open(ready=False)
        app.says(f"Reading the weights of {SMOLLM2.name}")
        assert app.page.locator("#gd-status .gd-bar").count() == 1 and not pool.loaded
        app.row(1).click()
        until(lambda: app.field("instruction").input_value() == "List five birds.")
        app.start()
        app.wait_for_new_grid(finished=False)
        assert app.page.locator('.gd-card[data-status="waiting"]').count() == 6 and not pool.loaded
        pool.gate.set()
        app.wait_for_new_grid()
        assert app.text("instruct", "full") == "instruct full k=4 heard: List five birds."
        app.close()


def test_while_one_model_is_fetched_the_rows_on_another_answer(settings, context):
    """The rows that wait say how far it is, and so does the header."""
    write_checkpoint(settings.shipped_checkpoints_dir / "base", backbone=GEMMA.name, template=PLAIN)
    write_checkpoint(settings.shipped_checkpoints_dir / "instruct", backbone=SMOLLM2.name)
    pool = ScriptedPool(settings)
    pool.gated = {GEMMA.name}
    pool.gate.clear()
    with serving(pool) as address:
        app = App(context, address).open()
        models, line = app.at("models"), f"Reading the weights of {GEMMA.name}"
        models.locator(".gd-model", has_text=line).wait_for()
        app.field("instruction").fill("Name a tree.")
        app.start()
        app.wait_for_new_grid(finished=False)
        until(lambda: app.text("instruct", "gist") == "instruct gist k=4 heard: Name a tree.")
        assert app.card("base", "gist").get_attribute("data-status") == "waiting" and line in app.text("base", "gist")
        pool.gate.set()
        app.wait_for_new_grid()
        assert app.text("base", "gist") == "base gist k=4 heard: Name a tree."
        until(lambda: models.inner_text().strip() == "")
        app.says("Done: 6 healthy")
        app.close()


def test_a_model_that_cannot_be_fetched_is_told_and_leaves_the_others(settings, context):
    pool = ScriptedPool(write_two_checkpoints(settings, SMOLLM2.name))
    pool.refuse = {GEMMA.name: BackboneError(f"No network. {ATTACK}")}
    with serving(pool) as address:
        app = App(context, address).open()
        app.at("models").locator(".gd-s-error", has_text=f"No network. {ATTACK}").wait_for()
        app.compare("Name a tree.")
        app.says("Done: 6 healthy")
        app.close()


# --- choosing an example ---------------------------------------------------------------------------------------------


def test_a_click_on_an_example_fills_the_form(app, pool):
    examples = ExampleSources(pool.settings).load(str(pool.settings.examples_file))
    with_input = next(n for n, item in enumerate(examples) if item.example.input)
    app.row(with_input).click()
    until(lambda: app.field("instruction").input_value() == examples[with_input].example.instruction)
    assert app.field("input").input_value() == examples[with_input].example.input
    assert app.field("reference").input_value() == examples[with_input].example.output


def test_search_narrows_the_table_and_rows_keep_their_meaning(app, pool):
    app.field("find").fill("solar planets")
    until(lambda: len(app.rows()) == 1)
    assert app.rows()[0][1].startswith("Name the planets of the solar system")
    app.row(0).click()
    until(lambda: app.field("instruction").input_value().startswith("Name the planets of the solar system"))
    app.field("find").fill("no example says this")
    until(lambda: not any("planets" in row[1] for row in app.rows()))
    for cell in app.at("examples").locator(".virtual-row [role=gridcell]").all():
        cell.click()  # an empty table may show an empty row; a click on it changes nothing
    app.field("find").fill("")
    until(lambda: len(app.rows()) > 5)
    assert app.field("instruction").input_value().startswith("Name the planets")
    assert not app.page.locator(".toast-body").count()


def test_filters_show_examples_with_or_without_input_and_of_one_kind(app, pool):
    listed = ExampleSources(pool.settings).load(str(pool.settings.examples_file))
    for name, fits in (("with input", lambda item: item.example.input), ("no input", lambda item: not item.example.input)):
        app.page.get_by_role("radio", name=name).check()
        expected = [item.example.instruction for item in listed if fits(item)]
        until(lambda expected=expected: app.rows()[0][1] == expected[0])
        assert [row[1] for row in app.rows()][:5] == expected[:5]
    app.page.get_by_role("radio", name="all", exact=True).check()
    kind = sorted({item.category for item in listed})[0]
    app.field("category").click()
    app.page.get_by_role("option", name=kind, exact=True).click()
    first = next(item for item in listed if item.category == kind)
    until(lambda: app.rows()[0][0] == str(first.number))


def test_surprise_me_takes_any_of_the_listed_examples(app, pool):
    known = {item.example.instruction: item.example.output for item in ExampleSources(pool.settings).load(str(pool.settings.examples_file))}
    random.seed(1)
    before = app.field("instruction").input_value()
    app.at("surprise").click()
    until(lambda: app.field("instruction").input_value() != before)
    assert known[app.field("instruction").input_value()] == app.field("reference").input_value()
    app.field("find").fill("solar planets")
    until(lambda: len(app.rows()) == 1)
    app.at("surprise").click()
    until(lambda: app.field("instruction").input_value().startswith("Name the planets of the solar system"))


def test_examples_can_come_from_a_file_and_a_bad_file_changes_nothing(app, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([{"instruction": f"Mine {ATTACK} {TEMPLATES}", "input": "", "output": "Yours"}] * 3), encoding="utf-8")
    app.open_section("Other examples")
    app.field("path").fill(str(tmp_path / "missing.json"))
    app.at("load").click()
    app.says("missing.json")
    assert app.rows()[0][1] == "Name three fruits."
    app.field("path").fill(str(file))
    app.at("load").click()
    app.says("3 examples from")
    until(lambda: app.rows()[0][1] == f"Mine {ATTACK} {TEMPLATES}")
    app.row(0).click()
    until(lambda: app.field("instruction").input_value() == f"Mine {ATTACK} {TEMPLATES}")


# --- comparing -------------------------------------------------------------------------------------------------------


def test_answers_are_seen_growing_and_all_six_finish(app, pool):
    pool.delay = 0.02
    app.field("instruction").fill("Name three fruits that grow on trees.")
    pool.says = lambda row, instruction: f"{row.checkpoint} thinks of apples, cherries, plums and figs."
    app.start()
    app.wait_for_new_grid(finished=False)
    lengths = []
    card = app.card("instruct", "gist")
    while card.get_attribute("data-status") != "done":
        lengths.append(len(app.text("instruct", "gist")))
        time.sleep(0.05)
    final = "instruct thinks of apples, cherries, plums and figs."
    assert app.text("instruct", "gist") == final
    assert len({n for n in lengths if 1 < n < len(final)}) >= 2 and lengths == sorted(lengths)
    app.wait_for_new_grid()
    app.says("Done: 6 healthy")
    for name in NAMES:
        for condition in SHOWN:
            assert app.text(name, condition) == f"{name} thinks of apples, cherries, plums and figs."
            numbers = app.card(name, condition).locator("dd").all_inner_texts()
            assert len(numbers) == 6 and not [value for value in numbers if value == DASH]
            assert app.card(name, condition).locator(".gd-finish").inner_text() == "ended by itself"


def test_what_the_model_sees_is_shown_token_by_token(app):
    app.compare("Abc")
    app.open_section("What the model sees")
    blocks = app.at("seen").locator(".gd-seen")
    blocks.first.wait_for()
    assert blocks.count() == 6
    gist = app.at("seen").locator(".gd-seen", has_text="Gist instruct")
    assert gist.locator(".gd-t-slot").all_inner_texts() == ["g1", "g2", "g3", "g4"]
    assert gist.locator(".gd-t-compressed[title=instruction]").all_inner_texts() == ["A", "b", "c"]


def test_stop_keeps_what_was_said(app, pool):
    pool.delay, pool.says = 0.03, lambda row, instruction: "A long story goes on and on, and nobody knows where it will lead us. " * 9
    app.field("instruction").fill("Tell a story.")
    app.start()
    until(lambda: app.card("instruct", "full").count() and len(app.text("instruct", "full")) > 5)
    app.at("stop").click()
    app.wait_for_new_grid()
    app.says("Stopped")
    for name in NAMES:
        for condition in SHOWN:
            assert app.text(name, condition).startswith("A lon")
            assert app.card(name, condition).locator(".gd-finish").inner_text() == "stopped by you"
    pool.delay = 0.0
    app.compare()
    app.says("Done")


def test_stop_without_anything_to_stop_does_not_wait_for_it(app):
    app.at("stop").click()
    app.says("Nothing is running")
    assert "gd-s-busy" not in app.at("status").get_attribute("class")


def test_a_loop_is_marked_in_the_text_and_named_in_words(app, pool):
    pool.script = {("base", "full"): "Fruits. " + LOOP * 20}
    app.compare("Name three fruits.")
    card = app.card("base", "full")
    assert "■ degenerate" in card.locator(".gd-badge").inner_text()
    assert card.locator("mark[title^='loop:']").inner_text().startswith("Output: www.google.com\nOutput: www.google.com")
    flag = card.locator(".gd-flags li", has_text="loop")
    assert "■ loop" in flag.inner_text() and "Output: www" in flag.inner_text() and "F3" in flag.inner_text()
    assert card.locator(".gd-finish").inner_text() == "cut at the answer limit"
    assert not app.card("instruct", "full").locator("mark").count()
    app.says("Done: 5 healthy, 1 degenerate")


def test_foreign_text_is_shown_and_never_run(app, pool):
    """In the instruction, the input, the reference, the answer, an error, and the name of a checkpoint folder."""
    nasty = f"{ATTACK} {TEMPLATES}"
    pool.says = lambda row, instruction: nasty
    pool.script = {("base", "gist"): Line("", error=f"Failed at {nasty}")}
    app.field("input").fill(nasty)
    app.field("reference").fill(nasty)
    app.compare(nasty)
    assert app.text("instruct", "full") == nasty
    assert app.card("base", "gist").locator(".gd-error").inner_text() == f"Failed at {nasty}"
    app.open_section("What the model sees")
    app.at("seen").locator(".gd-seen").first.wait_for()
    folder = pool.settings.shipped_checkpoints_dir / f"{ATTACK}{TEMPLATES}"
    folder.mkdir()
    try:
        app.page.get_by_role("tab", name="Checkpoints").click()
        app.page.locator(".gd-ck", has_text=ATTACK).wait_for()
    finally:
        folder.rmdir()
    assert "✕ broken" in app.page.locator(".gd-ck", has_text=ATTACK).inner_text()
    assert not app.page.locator("img[src=x]").count() and app.page.evaluate("window.hacked") is None


def test_an_empty_instruction_is_told_and_keeps_what_was_there(app):
    app.compare("Name a tree.")
    app.field("instruction").fill("   ")
    app.at("compare").click()
    app.says("Instruction is empty. Type what the model should do, or choose an example.")
    assert "gd-s-error" in app.at("status").get_attribute("class") and app.at("status").get_attribute("role") == "status"
    assert app.text("instruct", "full") == "instruct full k=4 heard: Name a tree."


def test_no_checkpoint_or_condition_is_told(app):
    for label in ("Full", "Gist", "Truncated"):
        app.page.get_by_role("checkbox", name=label, exact=True).uncheck()
    app.at("compare").click()
    app.says("no condition is chosen; choose at least one")


def test_a_failing_cell_shows_why_and_the_others_finish(app, pool):
    pool.script = {("instruct", "gist"): Line("It be", error="The model produced a value that is not a number for this row.")}
    app.compare("Name a tree.")
    card = app.card("instruct", "gist")
    assert "✕ failed" in card.inner_text() and "not a number" in card.locator("[role=alert]").inner_text()
    assert app.page.locator(".gd-finish", has_text="ended by itself").count() == 5
    app.says("Done: 5 healthy, 1 failed")


def test_moving_k_by_keyboard_compares_again(app):
    app.compare("Name a tree.")
    app.page.evaluate("document.querySelectorAll('.gd-grid').forEach(e => e.dataset.old = 'yes')")
    app.at("k").locator("input[type=range]").press("ArrowRight")
    app.wait_for_new_grid()
    until(lambda: app.text("instruct", "gist") == "instruct gist k=5 heard: Name a tree.")


def test_moving_k_by_mouse_compares_again_and_only_the_last_place_counts(app, pool):
    app.compare("Name a tree.")
    pool.delay = 0.01
    slider = app.at("k").locator("input[type=range]")
    box = slider.bounding_box()
    for share in (0.3, 0.6, 0.99):
        app.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    until(lambda: app.text("instruct", "gist") == "instruct gist k=16 heard: Name a tree.")
    app.says("Done: 6 healthy")


def test_moving_k_before_anything_was_compared_starts_nothing(app, pool):
    before = len(pool.samplings)
    app.at("k").locator("input[type=range]").press("ArrowRight")
    app.page.wait_for_timeout(500)
    assert app.page.locator(".gd-empty").count() == 1 and len(pool.samplings) == before


def test_two_pages_do_not_disturb_each_other(app, pool, context):
    other = App(context, app.address).open()
    pool.delay, pool.says = 0.03, lambda row, instruction: f"{instruction} " * 3
    for each, instruction in ((other, "The other page has this task."), (app, "The first page has that task.")):
        each.field("instruction").fill(instruction)
        each.start()
    until(lambda: app.card("instruct", "full").count() and len(app.text("instruct", "full")) > 5)
    app.at("stop").click()
    app.wait_for_new_grid()
    other.wait_for_new_grid()
    assert app.card("instruct", "full").locator(".gd-finish").inner_text() == "stopped by you"
    assert other.text("instruct", "full").startswith("The other page") and "ended by itself" in other.card("instruct", "full").inner_text()
    other.close()


def test_a_reload_in_the_middle_ends_the_work_and_the_next_comparison_runs(app, pool):
    pool.delay, pool.says = 0.03, lambda row, instruction: "A long story. " * 30
    app.start()
    until(lambda: app.card("instruct", "full").count() and len(app.text("instruct", "full")) > 5)
    assert pool.running == 1
    app.page.reload(wait_until="load")
    assert pool.wait_until_idle(10), "nobody watches, but the engine goes on"
    app.row(0).wait_for()
    app.says("Ready")
    pool.reset()
    app.compare("Name a tree.")
    assert app.text("instruct", "full") == "instruct full k=4 heard: Name a tree."


# --- backbones as rows -----------------------------------------------------------------------------------------------


def test_a_model_without_a_gist_is_a_row_that_says_so_where_a_gist_is_needed(app):
    app.page.get_by_role("checkbox", name="Toy base", exact=True).uncheck()
    app.page.get_by_role("checkbox", name=f"{GEMMA.title} (no gist)").check()
    app.compare("Name a tree.")
    assert app.text(GEMMA.name, "full") == f"{GEMMA.name} full k=4 heard: Name a tree."
    absent = app.card(GEMMA.name, "gist")
    assert absent.get_attribute("data-status") == "absent" and NO_GIST in absent.inner_text() and not absent.locator(".gd-badge").count()
    assert app.page.locator(".gd-absent").count() == 1
    app.says("Done: 5 healthy")
    assert GEMMA.notice in app.at("notice").inner_text()


def test_a_model_of_ones_own_becomes_a_row(app, tmp_path):
    folder = str(save_toy(tmp_path / "my-model"))
    app.open_section("Another model as a row")
    app.field("model").fill("./nowhere")
    app.at("add-model").click()
    app.says("There is no checkpoint './nowhere'")
    app.field("model").fill(folder)
    app.at("add-model").click()
    app.says("'my-model' is a row now; press Compare")
    box = app.page.get_by_role("checkbox", name="my-model (no gist)")
    box.wait_for()
    assert box.is_checked()
    app.compare("Name a tree.")
    assert app.text(folder, "truncated").startswith(f"{folder} truncated"[:90]), "the answer limit may cut a long path"


# --- taking it along -------------------------------------------------------------------------------------------------


def test_a_link_restores_the_form(app, context):
    app.field("instruction").fill(f'Say "ü & {ATTACK}" = 100% #1 + 1')
    app.field("input").fill("line one\nline two")
    app.field("reference").fill("")
    app.page.get_by_role("checkbox", name="Toy base", exact=True).uncheck()
    app.page.get_by_role("checkbox", name="No instruction").check()
    app.page.get_by_role("checkbox", name="Truncated").uncheck()
    app.at("k").locator("input[type=number]").fill("7")
    app.open_section("Generation settings")

    def linked() -> dict[str, list[str]]:
        app.at("link").click()
        return parse_qs(urlsplit(app.page.url).query)

    def holds(name: str, value: str) -> bool:  # a section that is only just opening may still put its own values over what is typed
        app.at(name).locator("input[type=number]").fill(value)
        app.at(name).locator("input[type=number]").blur()
        return linked().get(name) == [value]

    for name, value in (("limit", "40"), ("temperature", "0.5"), ("seed", "11")):
        until(lambda name=name, value=value: holds(name, value))
    query = linked()
    assert query["k"] == ["7"] and query["checkpoints"] == ["instruct"] and query["conditions"] == ["full,gist,none"]

    other = App(context, app.address).open("?" + urlsplit(app.page.url).query)
    until(lambda: other.field("instruction").input_value() == f'Say "ü & {ATTACK}" = 100% #1 + 1')
    assert other.field("input").input_value() == "line one\nline two" and other.field("reference").input_value() == ""
    other.open_section("Generation settings")
    other.at("limit").wait_for()
    for name, value in (("k", "7"), ("limit", "40"), ("temperature", "0.5"), ("top-p", "1"), ("seed", "11")):
        until(lambda name=name, value=value: other.at(name).locator("input[type=number]").input_value() == value)
    checked = {box.get_attribute("name") for box in other.page.get_by_role("checkbox").all() if box.is_checked()}
    assert checked == {"instruct", "full", "gist", "none"}
    other.close()


def test_the_link_button_says_what_it_did_and_recovers(app):
    label = app.at("link").inner_text()
    for _ in range(3):
        app.at("link").click()
    until(lambda: app.at("link").inner_text() != label)
    until(lambda: app.at("link").inner_text() == label, 5)


def test_a_link_with_nonsense_opens_the_usual_page(served, pool, context):
    usual = ExampleSources(pool.settings).load(str(pool.settings.examples_file))[OPENING - 1].example.instruction
    app = App(context, served[0]).open("?k=999&limit=x&temperature=nan&conditions=sideways&checkpoints=nobody&seed=-4")
    assert app.field("instruction").input_value() == usual
    assert app.at("k").locator("input[type=number]").input_value() == "4"
    checked = {box.get_attribute("name") for box in app.page.get_by_role("checkbox").all() if box.is_checked()}
    assert checked == {*NAMES, *SHOWN}
    app.close()


def test_the_download_is_what_is_on_the_screen(app, pool):
    pool.script = {("base", "full"): LOOP * 20, ("instruct", "full"): "Äpfel 🍎"}
    pool.script["instruct", "gist"] = Line("It be", error="out of memory")
    app.field("reference").fill("Apples.")
    app.compare("Name a fruit.")
    until(app.at("export").is_enabled)
    with app.page.expect_download() as download:
        app.at("export").click()
    assert download.value.suggested_filename.endswith(".json")
    record = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert (record["instruction"], record["input"], record["reference"], record["k"]) == ("Name a fruit.", "", "Apples.", 4)
    assert record["sampling"] == {"max_new_tokens": 96, "temperature": 0.0, "top_p": 1.0, "seed": 0, "precision": "fast"}
    assert [(c["checkpoint"], c["condition"]) for c in record["answers"]] == [(n, c) for n in NAMES for c in SHOWN]
    for cell in record["answers"]:
        card = app.card(cell["checkpoint"], cell["condition"])
        numbers = card.locator("dd").all_inner_texts()
        assert numbers[0] == f"{cell['prompt_tokens']} tok" and numbers[3] == f"{cell['tokens']} tok"
        if cell["error"]:
            assert card.locator(".gd-error").inner_text() == cell["error"] == "out of memory"
            continue
        assert card.locator(".gd-text").text_content() == cell["text"]
        assert cell["verdict"] in card.locator(".gd-badge").inner_text()
        assert card.locator(".gd-rouge strong").inner_text() == f"{cell['scores']['rougeL']:.1f}"
        assert card.locator(".gd-flags code").all_inner_texts() == [found["code"] for found in cell["findings"] + cell["facts"]]


# --- looks -----------------------------------------------------------------------------------------------------------


def is_dark(page) -> bool:
    return page.evaluate("document.body.classList.contains('dark')")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_can_be_switched_and_stays_after_a_reload(served, pool, browser, system):
    context = browser.new_context(color_scheme=system)
    app = App(context, served[0]).open()
    assert is_dark(app.page) == (system == "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = app.page.evaluate(paper)
    app.at("theme").click()
    assert is_dark(app.page) == (system == "light") and app.page.evaluate(paper) != before
    app.page.reload(wait_until="load")
    app.row(0).wait_for()
    assert is_dark(app.page) == (system == "light") and app.page.evaluate(paper) != before
    app.at("theme").click()
    assert app.page.evaluate(paper) == before
    app.close()
    context.close()


def test_a_narrow_screen_stacks_the_cards_and_needs_no_sideways_scrolling(served, pool, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    app = App(context, served[0]).open()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert app.page.evaluate(overflow) == 0
    pool.script = {("instruct", "full"): LOOP * 9, ("instruct", "gist"): "x" * 300}
    app.compare("Name a tree.")
    assert app.page.evaluate(overflow) == 0
    boxes = [card.bounding_box() for card in app.page.locator(".gd-card").all()]
    assert len({round(box["x"]) for box in boxes}) == 1
    assert all(b["y"] >= a["y"] + a["height"] for a, b in pairwise(boxes))
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    for tab in ("Checkpoints", "About"):
        app.page.get_by_role("tab", name=tab).click()
        app.page.wait_for_timeout(300)
        assert app.page.evaluate(overflow) == 0, tab
    app.close()
    context.close()


CONTRASTS = """
selectors => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number);
    return /^color\\(srgb/.test(text) ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const paper = element => { const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((under, top) => over(top, under), [255, 255, 255, 1]); };
  const opacity = element => { let o = 1;
    for (let e = element; e; e = e.parentElement) o *= Number(getComputedStyle(e).opacity);
    return o; };
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = {};
  for (const selector of selectors) for (const element of document.querySelectorAll(selector)) {
    if (!element.textContent.trim() || !element.getClientRects().length) continue;
    const under = paper(element), ink = parse(getComputedStyle(element).color);
    ink[3] *= opacity(element);
    const [a, b] = [light(over(ink, under)), light(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found[selector] = Math.min(found[selector] ?? 99, ratio);
  }
  return found;
}
"""
READ = """
.gd-text | .gd-text mark | .gd-finish | .gd-error | .gd-card h4 | .gd-numbers dt | .gd-numbers dd | .gd-numbers small
.gd-b-healthy | .gd-b-warning | .gd-b-degenerate | .gd-b-failed | .gd-rouge span | .gd-rouge strong | .gd-rouge small
.gd-f-fail b | .gd-f-warn b | .gd-f-info b | .gd-flags span | .gd-flags code | .gd-rowhead h3 | .gd-rowhead p | .gd-chip
.gd-t-shown | .gd-t-compressed | .gd-t-slot | .gd-t-dropped | .gd-brand h1 | .gd-brand p | #gd-status | #gd-compare | #gd-stop
#gd-instruction label > span | #gd-checkpoints label span | #gd-examples .body-cell span | #gd-surprise
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_that_is_read_stands_out_from_its_ground(served, pool, context, theme):
    """WCAG 2.1, 1.4.3: a contrast of 4.5 at least, computed from the styles, of the palest place of each kind."""
    app = App(context, served[0]).open(f"?__theme={theme}")
    assert is_dark(app.page) == (theme == "dark")
    pool.script = {
        ("base", "full"): LOOP * 20,
        ("base", "gist"): f"Here is {ENDLESS} for you",
        ("base", "truncated"): Line("", error="out of memory"),
        ("instruct", "gist"): "The same.",
        ("instruct", "full"): "The same.",
    }
    app.field("reference").fill("The same.")
    app.compare("Name a tree.")
    app.open_section("What the model sees")
    app.page.locator(".gd-seen").first.wait_for()
    selectors = [selector.strip() for line in READ.strip().splitlines() for selector in line.split("|")]
    found = app.page.evaluate(CONTRASTS, selectors)
    assert found.keys() == set(selectors), f"not on the page: {set(selectors) - found.keys()}"
    pale = {selector: round(ratio, 2) for selector, ratio in found.items() if ratio < 4.5}
    assert not pale, pale
    app.close()


def test_every_field_and_button_has_a_name(app):
    """What a screen reader says: a label or a title, and not just the kind of the widget."""
    app.open_section("Other examples")
    app.open_section("Generation settings")
    named = "e => e.ariaLabel || [...(e.labels ?? [])].map(l => l.textContent).join(' ').trim() || e.textContent.trim() || e.title"
    for kind in ("textbox", "combobox", "checkbox", "radio", "slider", "spinbutton", "button"):
        for element in app.page.get_by_role(kind).all():
            name = element.evaluate(named)
            assert name and name not in ("Dropdown", "Textbox", "Radio"), element.evaluate("e => e.outerHTML")


# --- with the real model ---------------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.timeout(600)
def test_the_shipped_checkpoints_answer_in_the_real_app(browser, tmp_path):
    settings = Settings.from_env()
    usable = [row for row in list_rows(settings) if row.has_gist]
    shown = [row for row in usable if row.name in DEFAULT_ROWS] or usable
    if not shown:
        pytest.skip("no checkpoint is shipped yet")
    for row in shown:
        if row.embedded and not is_ready(row.embedded, settings):
            pytest.skip(f"{row.backbone} is not in {settings.cache_dir}; `make backbone` fetches it")
    port = free_port()
    with (tmp_path / "log.txt").open("w") as log:
        server = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=PROJECT_DIR, stdout=log, stderr=log)
    try:
        until(lambda: server.poll() is None and _answers(port), 120)
        context = browser.new_context()
        app = App(context, f"http://127.0.0.1:{port}/").open(ready=False)
        app.page.set_default_timeout(300_000)
        app.says("Ready")
        app.open_section("Generation settings")
        app.at("limit").locator("input[type=number]").fill("24")
        app.at("limit").locator("input[type=number]").blur()
        app.compare("Name three fruits.")
        assert app.page.locator(".gd-card").count() == 3 * len(shown)
        for card in app.page.locator(".gd-card").all():
            assert card.get_attribute("data-status") == "done" and not card.locator(".gd-error").count()
            assert card.locator(".gd-text").inner_text().strip() and card.locator(".gd-finish").count() == 1
            assert not [value for value in card.locator("dd").all_inner_texts() if value in (DASH, "")]
        app.close()
        context.close()
    except BaseException:
        print((tmp_path / "log.txt").read_text())
        raise
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
