"""Documents: split at the ends of sentences, held out whole, tagged by what most of their parts say."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.generation.documents import split_document
from semtag.generation.readers import read_rows
from semtag.generation.texts import prepare
from semtag.store.layout import Step
from semtag.store.parquet import read_rows as read_parquet
from semtag.store.run_dir import RunDir
from semtag.verify import verify
from tests.conftest import ROOT
from tests.test_tag_files import lines, tagged

STORY = " ".join(f"Mill number {number} grinds the grain of Dr. Smith. It is old." for number in range(20))
WORDS = ["mill", "Dr.", "old.", "3.5", "\n\n", "(so", "on)", '"Yes!"', "这。", "e.g."]


def test_the_example() -> None:
    assert split_document("One two. Three. Four five.", 3) == ["One two. Three.", "Four five."]
    assert split_document(" One  two.\nThree. ", 3) == [" One  two.\nThree. "]  # it fits
    assert split_document("a b c d e", 2) == ["a b", "c d", "e"]  # a sentence that is too long


def test_parts_end_with_sentences_and_are_about_equally_long() -> None:
    parts = split_document(STORY, 60)
    assert all(part.endswith(("Smith.", "old.")) and not part.startswith("Smith") for part in parts)
    lengths = [len(part.split()) for part in parts]
    assert sum(lengths) == len(STORY.split()) and max(lengths) <= 60 and min(lengths) >= 30


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(1, 20))
def test_no_word_is_lost(words: list[str], most: int) -> None:
    text = " ".join(words)
    parts = split_document(text, most)
    assert " ".join(parts).split() == text.split()
    assert all(len(part.split()) <= most for part in parts)


def test_a_part_has_the_columns_of_its_row(tmp_path: Path) -> None:
    rows = [{"text": STORY, "by": "x"}, {"text": "Short.", "by": "y"}, {"text": None}, {"text": STORY, "part": "old"}]
    data = lines(tmp_path / "a.jsonl", *rows)
    config = load_config("demo", [f"data.path={data}", "data.max_words=100", "data.limit=null"])
    first, second, third, short, nothing, *old = read_rows(config.data)
    assert [row.values["part"] for row in (first, second, third)] == [1, 2, 3]
    assert {row.values["parts"] for row in (first, second, third)} == {3} and first.values["by"] == "x"
    assert first.part and third.part and first.part.whole == rows[0] and first.part.document == third.part.document
    assert short.values == rows[1] and nothing.values == rows[2]
    assert {row.values["part"] for row in old} == {"old"}  # a column of the data keeps its value


@pytest.mark.parametrize("by", ["text", "article"])
def test_the_parts_of_a_document_are_held_out_together(by: str, tmp_path: Path) -> None:
    rows = [{"text": STORY.replace("Mill", f"Mill{number}")} for number in range(30)]
    data = lines(tmp_path / "a.jsonl", *rows, {"text": "A short text."})
    settings = [f"data.path={data}", f"run.root={tmp_path}", "data.max_words=80", "data.limit=null"]
    settings += ["data.held_out=0.3", f"data.held_out_by={by}", "rounds.count=1"]
    config = load_config(ROOT / "configs" / "demo.yaml", settings)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(Step("texts"), config)
    with Progress("texts", "rows") as progress:
        counts = prepare(run, config, progress)
    run.finish(Step("texts"), counts, {})
    assert counts["split"]["documents"] == 30 and counts["rows"] == counts["split"]["parts"] + 1 > 90
    held_out = {row["article"] for row in read_parquet(run.layout.held_out)}
    learned = {row["article"] for row in read_parquet(run.layout.train_texts(1, reuse=False))}
    assert held_out and learned and not held_out & learned and len(held_out | learned) >= 30
    assert [problems for problems in verify(run).values() if problems] == []


def test_a_document_gets_the_tags_of_most_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is answered by its last word."""
    document = "This is about a mill. Here is more of a mill. At last there comes a boat."
    rows = [
        {"text": document, "by": "x"},
        {"text": "One refused text. And a longer text about a loom."},
        {"text": "kiln"},
    ]
    out = tmp_path / "tags.jsonl"
    said = tagged(lines(tmp_path / "a.jsonl", *rows), out, monkeypatch, "data.max_words=8")
    assert "2 documents were split into 5 parts" in said
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["tags"] for row in found] == [["mill."], ["loom."], ["kiln"]]
    for row, own in zip(found, rows, strict=True):
        assert {key: row[key] for key in own} == own
    assert "part" not in found[0] and found[0]["tags_score"] == 0.5


def test_candidates_of_whole_texts_are_not_split() -> None:
    with pytest.raises(UserError, match=r"data.max_words splits texts"):
        load_config("demo", ["data.max_words=100", "sampling.engine=replay"])


def test_a_broken_character_in_a_long_text_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"{STORY} \\ud83d end."}).replace("\\\\u", "\\u") + "\n")
    rows = [*read_rows(load_config("demo", [f"data.path={tmp_path / 'a.jsonl'}", "data.max_words=100"]).data)]
    assert len(rows) == 3 and "\ud83d" in rows[-1].values["text"]
