"""The report in a real browser: it is accessible, loads nothing and runs nothing of a model, and its controls work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from semtag.evaluation.report.compare_runs import compare_runs
from semtag.evaluation.report.html import render
from tests.report_fixture import ATTACK, run_of, some_judgement, some_report

SHEET = 718  # pixels across A4 within margins of 1 cm
# How far the border of an element stands out from the page, as WCAG 2.2 measures contrast.
BORDER = """element => {
    const light = (style) => style.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0.05);
    const both = [getComputedStyle(element).borderTopColor, getComputedStyle(document.body).backgroundColor].map(light);
    return Math.max(...both) / Math.min(...both);
}"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(some_report(), [some_judgement()]), encoding="utf-8")
    return file


class Watched:
    """A page together with what went wrong on it and what it asked for."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page, self.file = page, file
        self.trouble: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.trouble.append(message.text))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri())

    def check(self) -> None:
        """No message, no error, no dialog, and no request but for the page."""
        assert self.trouble == []
        assert self.requests == [self.file.as_uri()]


@pytest.fixture(params=[1200, 400])
def watched(request: pytest.FixtureRequest, browser: Browser, file: Path) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    watched = Watched(page, file)
    yield watched
    watched.check()
    page.close()


def open_all(page: Page) -> None:
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")


def faults(page: Page, rules: tuple[str, ...] = (), within: str | None = None) -> str:
    """What axe-core has against the page, or a part of it, by all its rules or some."""
    only = {"runOnly": list(rules)} if rules else {}
    found = Axe().run(page, within, {"resultTypes": ["violations"]} | only)
    return found.generate_report() if found.violations_count else ""


@pytest.mark.parametrize(("scheme", "width", "rules"), [("light", 400, ()), ("dark", 1200, ("color-contrast",))])
def test_axe_finds_nothing(browser: Browser, file: Path, scheme: Any, width: int, rules: tuple[str, ...]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(file.as_uri())
    open_all(page)
    page.fill("#find", "tag1")
    page.locator(".topics button").first.click()  # a pressed button has colours of its own
    assert faults(page, rules) == ""
    for control in (".theme", "#find", ".topics button[aria-pressed=false]"):
        assert page.locator(control).first.evaluate(BORDER) >= 3, control
    page.locator(".lead").first.evaluate("one => { one.style.color = '#808080'; one.style.background = '#888888'; }")
    assert "color-contrast" in faults(page, ("color-contrast",), ".lead")
    page.close()


def test_what_a_model_wrote_is_text(watched: Watched) -> None:
    page = watched.page
    assert page.locator("h1").inner_text() == f"demo {ATTACK}"
    for place in (".example .tag", "#found .tag", ".topics button", "#notice td", "#contrasts td", "pre"):
        assert page.locator(place, has_text=ATTACK).count() >= 1, place
    assert page.locator("script").count() == 3  # the data and our own


def test_all_texts_are_searched(watched: Watched) -> None:
    page = watched.page
    found, count = page.locator("#found > li"), page.locator("#found-count")
    assert (found.count(), count.inner_text()) == (40, "40 shown of 90 found in 90 texts")
    page.click("#more")
    page.click("#more")
    assert found.count() == 90 and not page.locator("#more").is_visible()
    page.fill("#find", "ROW 7")
    assert count.inner_text() == "11 shown of 11 found in 90 texts"  # 7, and 70 to 79
    page.fill("#find", "tag89")
    assert found.locator("li").all_inner_texts() == ["base: no tags", "tuned", ATTACK, "tag89"]
    page.fill("#find", ATTACK)
    assert count.inner_text() == "40 shown of 90 found in 90 texts"
    page.fill("#find", "not there")
    assert count.inner_text() == "0 shown of 0 found in 90 texts"


def test_no_single_key_does_anything(watched: Watched) -> None:
    for key in "/?s0123":
        watched.page.keyboard.press(key)
    assert watched.page.evaluate("document.activeElement === document.body")


def test_the_map_by_pointer(watched: Watched) -> None:
    page = watched.page
    page.locator("#map .point").nth(4).hover()
    assert "spot 4" in page.locator("#told").inner_text()
    assert f"label: {ATTACK}" in page.locator("#told").inner_text()
    button = page.locator(".topics button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#map .point.dim").count() == 6
    assert page.locator("#listed > li").count() == 3
    assert page.locator("#listed-title").inner_text() == f"3 texts of {ATTACK}"
    button.click()
    assert page.locator("#map .point.dim").count() == 0
    page.locator(".topics button").last.click()
    assert page.locator("#listed-title").inner_text() == "3 texts of no topic"


def test_the_map_by_keyboard(watched: Watched) -> None:
    page = watched.page
    page.locator("#map svg").focus()
    told = [page.locator("#told").inner_text()]
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        told.append(page.locator("#told").inner_text())
    assert [f"spot {place} " in one for place, one in enumerate(told)] == [True] * 4
    page.keyboard.press("Enter")
    assert page.locator("#map .point.dim").count() == 6
    page.keyboard.press("Escape")
    assert page.locator("#map .point.dim").count() == 0


def test_nothing_is_wider_than_the_window(watched: Watched) -> None:
    open_all(watched.page)
    width = watched.page.evaluate("document.documentElement.clientWidth")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_and_light(watched: Watched) -> None:
    page = watched.page

    def ground() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3]))

    page.emulate_media(color_scheme="light")
    assert ground() > 600
    assert page.locator("#theme").inner_text() == "Dark page"
    page.emulate_media(color_scheme="dark")
    assert ground() < 150
    page.click("#theme")  # the reader's choice goes over the system's
    assert ground() > 600
    page.reload()
    assert ground() > 600
    page.click("#theme")
    assert ground() < 150
    watched.requests.pop()  # the reload


def test_on_paper_all_is_open_fits_the_sheet_and_nothing_is_pressed(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": SHEET, "height": 1000})
    page.emulate_media(media="print")
    for hidden in ("#theme", "#all-texts", ".contents"):
        assert not page.locator(hidden).is_visible()
    for shown in ("pre", "#map svg", "#contrasts table", ".example details .side"):
        assert page.locator(shown).first.is_visible()
    wide = page.locator("table").evaluate_all("all => all.map(one => one.scrollWidth - one.parentElement.clientWidth)")
    assert max(wide) <= 0
    assert page.evaluate("document.documentElement.scrollWidth") <= SHEET


def test_without_a_script_all_but_the_map_and_the_search_is_there(browser: Browser, file: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    watched = Watched(page, file)
    assert page.locator(".example:visible").count() == 2
    assert page.locator("figure svg:visible").count() == 4
    assert page.locator("noscript").count() == 2
    for hidden in ("#all-texts", "#theme", "#map"):
        assert not page.locator(hidden).is_visible()
    watched.check()
    page.close()


def test_a_script_from_the_data_would_not_run_even_unescaped(browser: Browser, file: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.html"
    forged.write_text(file.read_text().replace("<main>", f"<main>{ATTACK}<img src=x onerror=alert(2)>", 1))
    page = browser.new_page()
    watched = Watched(page, forged)
    page.wait_for_timeout(200)
    assert "dialog" not in watched.trouble
    assert any("Content Security Policy" in one for one in watched.trouble)
    page.close()


def test_the_comparison_of_runs(browser: Browser, tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, some_report(run=f"{name} {ATTACK}")) for name in ("one", "two")]
    compare_runs(runs, tmp_path / "comparison.html")
    page = browser.new_page(viewport={"width": 400, "height": 900})
    watched = Watched(page, tmp_path / "comparison.html")
    assert page.locator("#summary tbody tr").count() == 2
    assert ATTACK in page.locator("#summary tbody").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert faults(page) == ""
    watched.check()
    page.close()
