"""The report of an evaluation as a file in a real browser, without any network: drawn, harmless, on a phone, in the dark, on paper."""

from __future__ import annotations

import evaluated
import pytest
from test_browser import browser  # noqa: F401  (a fixture)

from gistdemo.present.report import html_report
from gistdemo.results.references import reference_table

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default:BROWSER TESTS")]
ATTACK = "</script><img src=x onerror='window.hacked=1'><script>window.hacked=2</script><a href='javascript:window.hacked=3'>x</a>"
LONG = "a-name-without-any-blank-" * 4


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """The address of a report whose every name and text is an attack or very long."""
    results, name = evaluated.results(), ATTACK + LONG
    results |= {"title": ATTACK, "notes": [ATTACK], "command": ATTACK + LONG, "digest": "sha256:" + "0" * 64}
    results["answers"] = [entry | {"checkpoint": name} for entry in results["answers"] if entry["checkpoint"] == "joint"]
    results["recovery"] = {name: results["recovery"]["joint"]}
    rows = [row | {"checkpoint": name, "text": ATTACK + LONG} for row in evaluated.rows() if row["checkpoint"] == "joint"]
    examples = [{"instruction": ATTACK, "input": ATTACK, "output": ATTACK} for _ in evaluated.examples()]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_report(results, rows, examples, reference_table()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def pages(browser, report):  # noqa: F811
    """The report on a light desk and on a dark phone. Nothing may fail, ask for another file, or do what a text says."""
    opened, trouble = {}, []
    for width, scheme in ((1200, "light"), (390, "dark")):
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True).new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: trouble.append(f"script error: {error}"))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith((report, "data:", "blob:")) else None)
        page.goto(report)
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 12")
        opened[width] = page
    yield opened
    for page in opened.values():
        assert page.evaluate("window.hacked === undefined")
        page.context.close()
    assert not trouble


def test_every_figure_is_drawn_and_texts_are_shown_as_texts(pages):
    page = pages[1200]
    assert page.locator(".js-plotly-plot").count() == 7
    assert page.locator("a, img").count() == 0 and page.title().startswith("</script><img")
    page.locator("summary").first.click()
    assert page.locator(".row dd", has_text="</script><img src=x").first.is_visible()
    page.locator("summary").first.click()


def test_hovering_a_point_shows_the_instruction_as_text(pages):
    page = pages[1200]
    point = page.locator("#figure-6 .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#figure-6 .hovertext", has_text="</script><img src=x onerror=").wait_for()


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(pages, width):
    page = pages[width]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for figure in page.locator(".js-plotly-plot .main-svg").all():
        assert figure.bounding_box()["width"] <= width
    first = page.locator("#figure-1 .barlayer").bounding_box()
    assert first["width"] > 0.5 * width and first["height"] > 100, "labels leave room for the bars"


def luminance(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_text_in_figures_follows_the_theme_of_the_page(pages, width, dark):
    page = pages[width]
    colour = "(element, name) => getComputedStyle(element)[name]"
    paper = luminance(page.locator("body").evaluate(colour, "backgroundColor"))
    for label in ("#figure-1 .ytick text", "#figure-1 .ytitle", "#figure-2 .legendtext"):
        ink = luminance(page.locator(label).first.evaluate(colour, "fill"))
        assert (ink > paper) == dark and abs(ink - paper) > 0.6


def test_on_paper_everything_is_shown_and_the_screen_comes_back_after(pages):
    page = pages[1200]
    wide = page.locator("#figure-1 .main-svg").first.bounding_box()["width"]
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert page.locator("#figure-1 .main-svg").first.bounding_box()["width"] == 680
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => !d.open)")
    page.wait_for_function(f"document.querySelector('#figure-1 .main-svg').getBoundingClientRect().width === {wide}")
