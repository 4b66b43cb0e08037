"""The page of `semtag judge` in a real browser: keys, saving, resuming, and texts that would like to be code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semtag.evaluation.judging.page import render
from semtag.evaluation.judging.people import Results, person, read_file
from semtag.evaluation.judging.selection import Selection, select
from semtag.store.run_dir import RunDir
from tests.conftest import TEXTS
from tests.test_judge import ATTACK, judged_run

LONG = "A long text, with اللغة العربية in it, goes on and on. " * 60
SAVED = "#said:has-text('Saved')"

# Contrasts of all that is in view and not disabled, of text and of the borders of controls (WCAG 2.2, 1.4.3, 1.4.11).
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const seen = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => color.slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((left, right) => left - right);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (node) => {
    const own = seen(getComputedStyle(node).backgroundColor);
    return own[3] ? own : ground(node.parentElement);
  };
  const all = [...document.querySelectorAll("body *:not(:disabled, :disabled *)")].filter((it) => it.checkVisibility());
  const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const texts = all.filter(own).map((node) => contrast(seen(getComputedStyle(node).color), ground(node)));
  const edges = all.filter((node) => node.matches("button, #judge"))
    .map((node) => contrast(seen(getComputedStyle(node).borderTopColor), ground(node.parentElement)));
  return [texts, edges];
}"""


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    texts = [f"{ATTACK} {ATTACK} says text {place}, and {ATTACK}" for place in range(5)] + [LONG, *TEXTS[:4]]
    return select(RunDir(str(judged_run(tmp_path_factory.mktemp("judged"), texts))), "base", "tuned", 8)


@pytest.fixture(scope="module")
def file(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "judge.html"
    file.write_text(render(selection), encoding="utf-8")
    return file


class Opened:
    """A page in a profile of its own, with all that it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, script: str = "", **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.add_init_script(script)
        self.troubles: list[str] = []
        self.file = file
        self.page = self.open()

    def open(self) -> Any:
        """One more page of the same profile."""
        page = self.context.new_page()
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("dialog", self.accept)
        page.on("request", lambda request: self.troubles.extend([request.url] * (request.url != self.file.as_uri())))
        page.goto(self.file.as_uri())
        return page

    def accept(self, dialog: Any) -> None:
        self.troubles.append(dialog.message)
        dialog.accept()


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    """A page of which nothing may complain in the end."""
    opened = Opened(browser, file)
    yield opened
    opened.context.close()
    assert opened.troubles == []


def begin(page: Any, name: str = "Ann 2") -> None:
    page.fill("#judge", name)
    page.keyboard.press("Enter")


def place(page: Any) -> str:
    return str(page.inner_text("#count"))


def tags(page: Any, side: str) -> list[str]:
    return list(page.locator(f"#{side} .tag").all_text_contents())


def save(page: Any, folder: Path) -> Results:
    with page.expect_download() as download:
        page.keyboard.press("s")
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    assert page.is_visible(SAVED)
    results = read_file(target)
    assert isinstance(results, Results)
    assert target.name.startswith(f"judgement-{results.page}-")
    return results


def choices(results: Results) -> list[str]:
    return [one.choice for one in results.choices]


def test_judging_by_keyboard_ends_in_a_file_that_is_analysed(
    opened: Opened, selection: Selection, tmp_path: Path
) -> None:
    page, preferred = opened.page, []
    page.keyboard.type("Ann 2")  # into the field, not a choice
    page.keyboard.press("Enter")
    assert place(page) == "1 / 8"
    for item, wanted in zip(selection.items, ["fine"] * 5 + ["plain"] + ["3"] * 2, strict=True):
        assert page.text_content("#text") == item.text
        assert page.locator("#text *, .tag *").count() == 0  # ATTACK stays text
        assert {tuple(tags(page, "left")), tuple(tags(page, "right"))} == {tuple(item.first), tuple(item.second)}
        key = wanted if wanted == "3" else "1" if tags(page, "left")[0].startswith(wanted) else "2"
        page.keyboard.press(key)
        preferred.append({"1": "left", "2": "right", "3": "tie"}[key])
    assert page.is_visible("#done")
    results = save(page, tmp_path)
    assert (results.page, results.judge, choices(results)) == (selection.page, "Ann 2", preferred)
    assert [one.item for one in results.choices] == [item.id for item in selection.items]
    found = person(selection, results)
    assert (found.wins, found.losses, found.ties) == (5, 1, 2)


def test_keys_to_read_on_with_never_judge(browser: Any, file: Path, selection: Selection) -> None:
    opened = Opened(browser, file, viewport={"width": 900, "height": 500})
    page, [longest] = opened.page, [number for number, item in enumerate(selection.items) if item.text == LONG]
    begin(page)
    for _ in range(longest):
        page.keyboard.press("1")
    assert page.evaluate("document.activeElement.id") == "text"
    for key in (
        "ArrowDown",
        "ArrowRight",
        "PageDown",
        "Space",
        "End",
        "ArrowUp",
        "ArrowLeft",
        "PageUp",
        "Home",
        "Backspace",
    ):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        assert place(page) == f"{longest + 1} / 8", key
        if key == "End":
            page.wait_for_function("document.getElementById('text').scrollTop > 100")
    assert page.inner_text("#said") == f"{longest} of 8 texts are judged."
    opened.context.close()


def test_the_switch_turns_the_keys_off_and_stays_off(opened: Opened) -> None:
    page = opened.page
    begin(page)
    page.keyboard.press("Control+1")
    page.uncheck("#shortcuts")
    for key in "123bs":
        page.keyboard.press(key)
    assert place(page) == "1 / 8"
    page = opened.open()
    page.click("#go")
    page.keyboard.press("1")
    assert place(page) == "1 / 8"
    page.check("#shortcuts")
    page.keyboard.press("1")
    assert place(page) == "2 / 8"


def test_back_chooses_again_and_returns_to_the_first_open_text(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    begin(page)
    page.keyboard.type("111bb")
    assert place(page) == "2 / 8"
    assert page.get_attribute("#left", "aria-pressed") == "true"
    page.keyboard.press("2")
    assert place(page) == "4 / 8"
    page.keyboard.type("33333")
    page.click("#back-in")
    assert place(page) == "8 / 8"
    page.keyboard.press("2")
    assert page.is_visible("#done")
    assert choices(save(page, tmp_path)) == ["left", "right", "left", "tie", "tie", "tie", "tie", "right"]


def test_a_closed_page_resumes_or_begins_again(opened: Opened, tmp_path: Path) -> None:
    begin(opened.page, "Ben")
    opened.page.keyboard.type("222")
    opened.page.close()
    page = opened.open()
    assert page.inner_text("#go") == "Resume: 3 of 8 are judged"
    page.keyboard.press("Enter")
    assert place(page) == "4 / 8"
    results = save(page, tmp_path)
    assert (results.judge, len(results.choices)) == ("Ben", 3)
    page = opened.open()
    page.click("#again")
    assert page.inner_text("#go") == "Begin"
    page.keyboard.press("Enter")
    assert page.is_visible("#start"), "a judge has a name"
    assert opened.troubles.pop() == "Forget the choices on 3 texts?"


@pytest.mark.parametrize("kept", ["{", "null", '{"judge": 3, "choices": {"x": 1}}', '{"choices": []}'])
def test_what_others_left_in_the_browser_does_no_harm(opened: Opened, selection: Selection, kept: str) -> None:
    opened.page.evaluate("([key, value]) => localStorage.setItem(key, value)", [f"semtag-judge-{selection.page}", kept])
    page = opened.open()
    begin(page)
    assert place(page) == "1 / 8"


def test_a_browser_that_keeps_nothing_is_said_to(browser: Any, file: Path, tmp_path: Path) -> None:
    nothing = "Object.defineProperty(window, 'localStorage', {get() { throw new Error(); }})"
    opened = Opened(browser, file, nothing)
    begin(opened.page)
    opened.page.keyboard.press("1")
    assert "save before you close" in opened.page.inner_text("#said")
    assert len(save(opened.page, tmp_path).choices) == 1
    assert opened.troubles == []
    opened.context.close()


@pytest.mark.parametrize("width", [320, 400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_eyes_and_fingers_can_use_it(browser: Any, file: Path, width: int, scheme: str) -> None:
    touch = width < 1000
    size = {"width": width, "height": 800}
    opened = Opened(browser, file, viewport=size, has_touch=touch, is_mobile=touch, color_scheme=scheme)
    page = opened.page
    use = page.tap if touch else page.click

    def readable() -> None:
        texts, edges = page.evaluate(CONTRASTS)
        assert min(texts) >= 4.5
        assert min(edges, default=3) >= 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("[role=status]:empty, [aria-live]:empty").count() == 0

    page.fill("#judge", "Ann")
    readable()
    use("#go")
    for number in range(8):
        readable()
        for name in ("left", "right", "tie", "back"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["height"] >= 44
            assert box["y"] + box["height"] <= 800, "in view without scrolling, however long the text"
        use(["#left", "#right", "#tie"][number % 3])
    assert page.is_visible("#done")
    readable()
    assert opened.troubles == []
    opened.context.close()
