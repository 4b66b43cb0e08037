"""`semtag preview`: what a user reads before a run spends anything."""

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.preview import Preview, lines_of, page_of, preview
from tests.conftest import ROOT, TINY, semtag, tiny_model
from tests.test_cli import fails

ROWS = [
    {"text": "A mill grinds grain.", "completions": ["[mill][grain]", "[bees]", "[mill", "[mill][grain]"]},
    {"text": "  ", "completions": ["[a]"]},
    {"text": "Bees fly <b>far</b>.", "completions": ["<script>alert(1)</script>", "[\x1b[31mred]"]},
    {"text": "The oven is hot.", "completions": []},
    {"text": "A fourth text.", "completions": ["[text]"]},
]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that read the rows above, with their candidates."""
    file = tmp_path_factory.mktemp("preview") / "texts.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return [*TINY, f"data.path={file}", f"model.base={tiny_model()}", "sampling.engine=replay"]


@pytest.fixture(scope="module")
def found(replay: list[str]) -> Preview:
    """The preview of the first three rows that have a text. It comes before a browser, whose event loop runs."""
    return preview(load_config(ROOT / "configs" / "demo.yaml", replay), 3, lambda _: None)


def test_the_first_texts_are_shown_with_what_would_be_learnt(found: Preview) -> None:
    mill, bees, oven = found.texts
    assert sorted(str(candidate.reason or "valid") for candidate in mill.text.candidates) == [
        "unbalanced",
        *3 * ["valid"],
    ]
    [(best, worst)] = mill.preferences.similarity
    assert {best.completion, worst.completion} == {"[mill][grain]", "[bees]"} and best.score > worst.score
    [(chosen, malformed)] = mill.preferences.format
    assert (chosen, malformed.completion) == (best, "[mill")
    assert (oven.text.reason, len(bees.text.candidates)) == ("no_candidates", 2)
    assert [reject.reason for reject in found.rejects] == ["empty_text"]
    lines = lines_of(found)
    text = "\n".join(lines)
    assert lines[0] == "1  A mill grinds grain." and "\x1b" not in text
    assert f"pair: {best.completion}  over  [mill" in text and "rejected as no_candidates" in text
    assert "empty_text" in text and "A fourth text" not in text
    page = page_of(found, "demo: preview")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<b>far" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_for_all_eyes_and_runs_nothing_of_a_model(
    found: Preview, scheme: str, browser: Any, tmp_path: Path
) -> None:
    page, said = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme=scheme), list[str]()
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("pageerror", lambda error: said.append(str(error)))
    (tmp_path / "preview.html").write_text(page_of(found, "demo: preview"), encoding="utf-8")
    page.goto((tmp_path / "preview.html").as_uri())
    assert Axe().run(page).response["violations"] == []
    assert page.get_by_text("<script>alert(1)</script>").count() == 1 and said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_it_says_where_no_gpu_is(replay: list[str]) -> None:
    with pytest.raises(UserError, match="has no GPU"):
        preview(load_config(ROOT / "configs" / "demo.yaml", [*replay, "scoring.gpus_per_actor=0.5"]), 3, print)


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    assert "No such file" in fails("preview", "configs/demo.yaml", f"data.path={tmp_path / 'none.jsonl'}")


@pytest.mark.cluster
def test_a_csv_is_previewed_by_the_real_engine(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,by\nA mill grinds grain.,x\nBees make honey.,y\n,z\n")
    data = [f"data.path={tmp_path / 'texts.csv'}", "data.format=auto", f"model.base={tiny_model()}"]
    page = tmp_path / "preview.html"
    done = semtag("preview", "configs/demo.yaml", *TINY, *data, "--texts", "5", "--page", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1  A mill grinds grain." in done.stdout and "2  Bees make honey." in done.stdout
    assert done.stdout.count("score  form") == 2 and "Rejected rows" in done.stdout
    assert "A mill grinds grain." in page.read_text(encoding="utf-8")
