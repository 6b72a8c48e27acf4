"""The Evaluate tab in a real browser, with a real evaluation of the toy model in a process of its own."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from lessons import lesson, write_rows
from scripted import ScriptedPool
from test_browser import browser, serving  # noqa: F401  (browser is a fixture)
from test_browser_train import home  # noqa: F401
from toy import save_toy

from gistdemo.train.run import train

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("default:BROWSER TESTS"),
]
ROWS = [(f"Name thing number {n}.", f"thing {n}") for n in range(6)]


@pytest.fixture
def page(home, browser, tmp_path):  # noqa: F811
    """The Evaluate tab of an installation that has a checkpoint of the toy model."""
    config = lesson(tmp_path / "lesson", "compressor", backbone=str(save_toy(tmp_path / "toy")), name="made", steps=2)
    train(config, tmp_path / "run", home, home.data_dir / "checkpoints" / "made")
    with serving(ScriptedPool(home)) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.goto(address)
        page.get_by_role("tab", name="Evaluate").click()
        page.locator("#gd-ev-start").wait_for()
        yield page
        context.close()


def evaluate(page, data: str) -> None:
    for name in ("base", "instruct"):
        page.locator("#gd-ev-checkpoints").get_by_label(name, exact=True).uncheck()
    page.locator("#gd-ev-ks").get_by_label("1", exact=True).check()
    page.locator("#gd-ev-data").get_by_role("textbox").fill(data)
    page.locator("#gd-ev-limit input").fill("6")
    page.locator("#gd-ev-start").click()
    page.locator("#gd-ev-figures", has_text="6 rows of things.jsonl").wait_for(timeout=90_000)


def upload(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#gd-ck-import").click()
    chooser.value.set_files(path)


def test_from_a_run_to_a_row_to_compare_and_to_the_report(page, tmp_path):
    evaluate(page, write_rows(tmp_path / "things.jsonl", ROWS))
    figures = page.locator("#gd-ev-figures")
    assert figures.locator("tr[data-condition]").count() == 6 and "6 rows of things.jsonl" in figures.inner_text()
    assert "swapped" in figures.inner_text(), "recovery stands beside its control"
    page.locator("#gd-ev-picture").get_by_label("Gist against full").click()
    page.locator("#gd-ev-plot .scatterlayer .point").first.wait_for()
    page.locator("#gd-ev-order input").click()
    page.get_by_role("option", name="worst against full").click()
    page.locator("#gd-ev-table .body-cell span", has_text="Name thing number 3.").first.click()
    detail = page.locator(".gd-detail[data-row='3']")
    detail.wait_for()
    assert detail.locator("article").count() == 4, "full, gist and truncated at the chosen k, no instruction"
    page.locator("#gd-ev-report").click()
    link = page.locator("#gd-ev-files a[download='report.html']")
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "report.html")
    assert "Name thing number 3." in (tmp_path / "report.html").read_text()
    page.locator("#gd-ev-open").click()
    page.locator(".gd-grid[data-finished=true]").wait_for()
    assert "Name thing number 3." in page.locator("#gd-grid").inner_text()
    assert page.locator("#gd-instruction textarea").input_value() == "Name thing number 3."
    assert page.locator("#gd-checkpoints input:checked").count() == 1
    page.reload()
    page.get_by_role("tab", name="Evaluate").click()
    page.locator("#gd-ev-figures", has_text="6 rows of things.jsonl").wait_for()
    assert page.locator("#gd-ev-chosen input").input_value().startswith("made on 6 things.jsonl"), "the newest is chosen again"


def test_a_point_of_the_scatter_chooses_its_row(page, tmp_path):
    evaluate(page, write_rows(tmp_path / "things.jsonl", ROWS))
    page.locator("#gd-ev-picture").get_by_label("Gist against full").click()
    point = page.locator("#gd-ev-plot .scatterlayer .point").last
    point.wait_for()
    detail = page.locator(".gd-detail")
    for _ in range(10):  # while the picture is drawn anew, as after every choice, a click is lost
        point.hover(force=True)
        point.click(force=True)
        page.wait_for_timeout(1000)
        if detail.count():
            break
    detail.wait_for(timeout=1000)


def test_a_checkpoint_goes_out_and_comes_in_as_a_zip(page, home, tmp_path):  # noqa: F811
    page.get_by_role("tab", name="Checkpoints").click()
    page.locator("#gd-ck-chosen input").click()
    page.get_by_role("option", name="made").click()
    page.locator("#gd-ck-zip").click()
    page.locator(".gd-s-info", has_text="made.zip is ready").wait_for()
    with page.expect_download() as download:
        page.locator("#gd-ck-download").click()
    path = tmp_path / "made.zip"
    download.value.save_as(path)
    assert zipfile.is_zipfile(path)
    page.locator("#gd-ck-sure input").check()
    page.locator("#gd-ck-delete").click()
    page.locator(".gd-s-info", has_text="Deleted").wait_for()
    assert not (home.data_dir / "checkpoints" / "made").exists()
    upload(page, path)
    page.locator(".gd-s-info", has_text="Imported").wait_for()
    assert (home.data_dir / "checkpoints" / "made" / "manifest.json").exists()
    shutil.copy(Path(__file__), tmp_path / "fake.zip")
    upload(page, tmp_path / "fake.zip")
    page.locator(".gd-s-error", has_text="is not a zip file").wait_for()
