"""The report in a real browser: it asks for nothing, runs nothing that a model wrote, and its controls work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from semtag.evaluation.compare_runs import compare_runs
from semtag.evaluation.report import write_pages
from tests.report_fixture import ATTACK, some_report
from tests.test_report import run_of


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(json.dumps(some_report()))


@pytest.fixture(scope="module")
def file(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_pages(report, folder)
    return folder / "report.html"


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
        """No message, no error, no dialog, and no request but for the page and the pictures inside it."""
        assert self.trouble == []
        assert [url for url in self.requests if not url.startswith("data:image/png")] == [self.file.as_uri()]


@pytest.fixture(params=[1200, 400])
def watched(request: pytest.FixtureRequest, browser: Browser, file: Path) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    watched = Watched(page, file)
    yield watched
    watched.check()
    page.close()


def examples_left(page: Page) -> list[str]:
    return page.locator(".example:visible .text").all_text_contents()


def test_what_a_model_wrote_is_text(watched: Watched) -> None:
    page = watched.page
    assert page.locator("h1").inner_text() == f"demo {ATTACK}"
    assert page.locator(".example .tag", has_text=ATTACK).count() >= 1
    assert page.locator(".topics button", has_text=ATTACK).count() == 1
    assert ATTACK in (page.locator("#classification details").first.text_content() or "")
    assert ATTACK in (page.locator("pre").text_content() or "")
    assert page.locator("script").count() == 2  # the data and our own


def test_search_and_filters(watched: Watched) -> None:
    page = watched.page
    assert len(examples_left(page)) == 4
    assert page.locator("#example-count").inner_text() == "4 of 4"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("TEXT 2")
    assert [text[:6] for text in examples_left(page)] == ["text 2"]
    page.fill("#find", ATTACK)
    assert len(examples_left(page)) == 4
    page.fill("#find", "not there")
    assert page.locator("#example-count").inner_text() == "0 of 4"
    page.keyboard.press("Escape")
    for name, count in (("tuned", 3), ("base", 1), ("malformed", 3), ("all", 4)):
        page.click(f"[data-filter={name}]")
        assert len(examples_left(page)) == count, name
        assert page.locator(f"[data-filter={name}]").get_attribute("aria-pressed") == "true"


def test_further_arms_can_be_set_beside(watched: Watched) -> None:
    page = watched.page
    first = page.locator(".example").first
    assert first.locator(".side:visible").count() == 2
    page.check("[data-pick=keybert]")
    assert first.locator(".side:visible").evaluate_all("sides => sides.map(side => side.dataset.arm)") == [
        "base", "tuned", "keybert"
    ]  # fmt: skip
    assert "keybert tag" in first.locator(".side:visible").last.inner_text()
    page.uncheck("[data-pick=keybert]")
    assert first.locator(".side:visible").count() == 2


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


def test_the_map_by_keyboard(watched: Watched) -> None:
    page = watched.page
    page.locator("#map svg").focus()
    told = [page.locator("#told").inner_text()]
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        told.append(page.locator("#told").inner_text())
    assert len(set(told)) > 1
    page.keyboard.press("Enter")
    assert page.locator("#map .point.dim").count() == 6
    page.keyboard.press("Escape")
    assert page.locator("#map .point.dim").count() == 0


def test_nothing_is_wider_than_the_window(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for section in ("summary", "arms", "examples"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        size = page.locator(f"#{section}").bounding_box()
        assert size is not None
        assert size["width"] > 0.7 * min(width, 900)
    assert float(page.evaluate("parseFloat(getComputedStyle(document.querySelector('.findings li')).fontSize)")) >= 14
    picture = tmp_path / f"report-{width}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000


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


def test_on_paper_all_is_open_and_nothing_is_pressed(watched: Watched) -> None:
    page = watched.page
    page.emulate_media(media="print")
    assert not page.locator("#theme").is_visible()
    assert not page.locator("#example-controls").is_visible()
    assert page.locator("pre").is_visible()
    assert page.locator(".example details .side").first.is_visible()


def test_without_a_script_all_is_there_to_read(browser: Browser, file: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    watched = Watched(page, file)
    assert len(examples_left(page)) == 4
    assert not page.locator("#example-controls").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".topics button").count() == 2
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


def test_the_comparison_of_runs(browser: Browser, report: dict[str, Any], tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, report | {"run": f"{name} {ATTACK}"}) for name in ("one", "two")]
    compare_runs(runs, tmp_path / "comparison.html")
    page = browser.new_page(viewport={"width": 400, "height": 900})
    watched = Watched(page, tmp_path / "comparison.html")
    assert page.locator("#summary tbody tr").count() == 2
    assert ATTACK in page.locator("#summary tbody").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    watched.check()
    page.close()
