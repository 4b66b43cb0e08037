"""The page of `semtag judge` in a real browser: keys, saving, going on, and texts that would like to be code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semtag.evaluation.judge import Selection, render, select
from semtag.store.run_dir import RunDir
from tests.conftest import TEXTS, semtag
from tests.test_judge import ATTACK, judged_run

LONG = "A long text, with اللغة العربية in it, goes on and on. " * 60
SAVED = "#said:has-text('Saved')"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    texts = [f"{ATTACK} {ATTACK} says text {place}, and {ATTACK}" for place in range(5)] + [LONG, *TEXTS[:4]]
    return RunDir(str(judged_run(tmp_path_factory.mktemp("judged"), texts)))


@pytest.fixture(scope="module")
def selection(run: RunDir) -> Selection:
    return select(run, "base", "tuned", 8)


@pytest.fixture(scope="module")
def file(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "judge.html"
    file.write_text(render(selection), encoding="utf-8")
    return file


class Opened:
    """A page in a profile of its own, with all that it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.troubles: list[str] = []
        self.file = file
        self.page = self.open()

    def open(self) -> Any:
        """One more page of the same profile."""
        page = self.context.new_page()
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("dialog", lambda dialog: self.troubles.append(dialog.message))
        page.on("request", lambda request: self.troubles.extend([request.url] * (request.url != self.file.as_uri())))
        page.goto(self.file.as_uri())
        return page


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    opened = Opened(browser, file)
    yield opened
    opened.context.close()


def shown(page: Any) -> str:
    return str(page.inner_text("#count"))


def tags(page: Any, side: str) -> list[str]:
    return list(page.locator(f"#{side} .tag").all_text_contents())


def save(page: Any, folder: Path, press: str = "s") -> Path:
    with page.expect_download() as download:
        page.keyboard.press(press)
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def test_judging_by_keyboard_ends_in_a_file_that_is_analysed(
    opened: Opened, run: RunDir, selection: Selection, tmp_path: Path
) -> None:
    page = opened.page
    page.keyboard.type("Ann 2")  # into the field, not a choice
    page.keyboard.press("Enter")
    assert shown(page) == "1 / 8"
    preferred = []
    for item, key in zip(selection.items, ["fine"] * 5 + ["plain"] + ["0"] * 2, strict=True):
        assert page.text_content("#text") == item.text
        assert {tuple(tags(page, "left")), tuple(tags(page, "right"))} == {tuple(item.first), tuple(item.second)}
        left = tags(page, "left")[0].startswith(key)
        keys = ["ArrowDown", "0"] if key == "0" else ["ArrowLeft", "1"] if left else ["ArrowRight", "2"]
        page.keyboard.press(keys[len(preferred) % 2])
        preferred.append("tie" if key == "0" else "left" if left else "right")
    assert page.is_visible("#done")
    results = save(page, tmp_path)
    assert page.is_visible(SAVED)
    content = json.loads(results.read_text(encoding="utf-8"))
    assert results.name == f"judgement-{selection.page}-ann-2.json"
    assert (content["page"], content["judge"]) == (selection.page, "Ann 2")
    assert [one["item"] for one in content["choices"]] == [item.id for item in selection.items]
    assert [one["choice"] for one in content["choices"]] == preferred
    assert all(0 <= one["seconds"] < 60 for one in content["choices"])
    done = semtag("judge", str(run.path), "--results", str(results))
    assert done.returncode == 0, done.stderr
    [ann] = json.loads((tmp_path / "judgement.json").read_text())["judges"]
    assert (ann["judge"], ann["wins"], ann["losses"], ann["ties"]) == ("Ann 2", 5, 1, 2)
    assert opened.troubles == []


def test_texts_and_tags_stay_text(opened: Opened, selection: Selection) -> None:
    page = opened.page
    page.keyboard.press("Enter")
    seen = 0
    for _ in selection.items:
        seen += page.inner_text("#text").count(ATTACK)
        assert page.locator("#text *, .tag *").count() == 0
        page.keyboard.press("1")
    assert seen >= 9
    assert opened.troubles == []


def test_back_chooses_anew_and_returns_to_where_one_was(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("1")
    page.keyboard.press("Backspace")
    page.keyboard.press("ArrowUp")
    assert shown(page) == "2 / 8"
    assert page.get_attribute("#left", "aria-pressed") == "true"
    page.keyboard.press("2")
    assert shown(page) == "4 / 8"
    for _ in range(5):
        page.keyboard.press("0")
    page.keyboard.press("ArrowUp")
    assert shown(page) == "8 / 8"
    page.keyboard.press("2")
    assert page.is_visible("#done")
    choices = json.loads(save(page, tmp_path).read_text())["choices"]
    assert [one["choice"] for one in choices] == ["left", "right", "left", "tie", "tie", "tie", "tie", "right"]
    assert opened.troubles == []


def test_a_closed_page_goes_on_where_it_was(opened: Opened, tmp_path: Path) -> None:
    opened.page.keyboard.type("Ben")
    opened.page.keyboard.press("Enter")
    for _ in range(3):
        opened.page.keyboard.press("2")
    opened.page.close()
    page = opened.open()
    assert page.inner_text("#go") == "Go on: 3 of 8 are judged"
    page.keyboard.press("Enter")
    assert shown(page) == "4 / 8"
    content = json.loads(save(page, tmp_path).read_text())
    assert (content["judge"], len(content["choices"])) == ("Ben", 3)
    page = opened.open()
    page.click("#anew")
    assert page.inner_text("#anew") == "Really forget 3 choices?"
    page.click("#anew")
    assert page.inner_text("#go") == "Begin"
    assert opened.troubles == []


@pytest.mark.parametrize("kept", ["{", "null", '{"judge": 3, "choices": {"x": 1}}', '{"choices": []}'])
def test_what_others_left_in_the_browser_does_no_harm(opened: Opened, selection: Selection, kept: str) -> None:
    opened.page.evaluate("([key, value]) => localStorage.setItem(key, value)", [f"semtag-judge-{selection.page}", kept])
    page = opened.open()
    page.click("#go")
    assert shown(page) == "1 / 8"
    assert opened.troubles == []


def test_a_browser_that_keeps_nothing_is_said_to(browser: Any, file: Path, tmp_path: Path) -> None:
    opened = Opened(browser, file)
    opened.context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error(); }})")
    page = opened.open()
    page.click("#go")
    page.keyboard.press("1")
    assert "save before you close" in page.inner_text("#said")
    assert len(json.loads(save(page, tmp_path).read_text())["choices"]) == 1
    assert opened.troubles == []
    opened.context.close()


def test_help_opens_and_closes_and_keys_do_nothing_behind_it(opened: Opened) -> None:
    page = opened.page
    page.click("#go")
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    page.keyboard.press("1")
    page.keyboard.press("?")
    assert not page.is_visible("#keys")
    assert shown(page) == "1 / 8"
    page.keyboard.press("Control+1")
    assert shown(page) == "1 / 8"
    page.keyboard.press("?")
    page.keyboard.press("Escape")
    assert not page.is_visible("#keys")
    assert opened.troubles == []


@pytest.mark.parametrize("width", [320, 400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_fingers_can_use_it(browser: Any, file: Path, width: int, scheme: str) -> None:
    touch = width < 1000
    size = {"width": width, "height": 800}
    opened = Opened(browser, file, viewport=size, has_touch=touch, is_mobile=touch, color_scheme=scheme)
    page = opened.page
    use = page.tap if touch else page.click
    use("#go")
    for place in range(8):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for name in ("left", "right", "tie", "back"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["height"] >= 44
            assert box["y"] + box["height"] <= 800, "in view without scrolling, however long the text"
        use(["#left", "#right", "#tie"][place % 3])
    assert page.is_visible("#done")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.troubles == []
    opened.context.close()
