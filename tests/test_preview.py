"""`semtag preview`: what a user reads before a run spends anything."""

import json
from pathlib import Path

import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.preview import lines_of, page_of, preview
from tests.conftest import ROOT, TINY, semtag, tiny_model
from tests.test_cli import fails

ROWS = [
    {"text": "A mill grinds grain.", "completions": ["[mill][grain]", "[bees]", "[mill", "[mill][grain]"]},
    {"text": "  ", "completions": ["[a]"]},
    {"text": "Bees fly <b>far</b>.", "completions": ["<script>alert(1)</script>", "[\x1b[31mred]"]},
    {"text": "The oven is hot.", "completions": []},
    {"text": "A fourth text.", "completions": ["[text]"]},
]


@pytest.fixture
def replay(tmp_path: Path) -> list[str]:
    """Overrides that read the rows above, with their candidates."""
    (tmp_path / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return [*TINY, f"data.path={tmp_path / 'texts.jsonl'}", f"model.base={tiny_model()}", "sampling.engine=replay"]


def test_the_first_texts_are_shown_with_what_would_be_learnt(replay: list[str]) -> None:
    said = list[str]()
    found = preview(load_config(ROOT / "configs" / "demo.yaml", replay), 3, said.append)
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
