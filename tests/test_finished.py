"""What of an interrupted ranking counts as done: rows whose ids were committed, one for each text."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semtag.cluster.progress import Progress
from semtag.configs.load import load_config
from semtag.configs.schema import Example, Pairs, Prompt
from semtag.generation.records import SAMPLED, read_candidate
from semtag.scoring.finished import TextIds, among, finish
from semtag.scoring.pipeline import rows_per_file
from semtag.scoring.rank import RankCounts, _check_counts, _look_at, _split, _tags_shown
from semtag.scoring.records import RANKED
from semtag.store.parquet import count_rows, read_rows, read_tables
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"


class Folder:
    """Texts, rows and ids of blocks, written by hand as Ray Data names them."""

    def __init__(self, root: Path) -> None:
        self.texts, self.rows, self.ids = root / "texts.parquet", root / "rows", root / "ids"
        self.said = io.StringIO()
        self.rows.mkdir()
        self.ids.mkdir()

    def write(self, file: Path, ids: list[int]) -> None:
        table = pa.table({"text_id": pa.array(ids, pa.int64()), "text": [f"text {number}" for number in ids]})
        pq.write_table(table, file)

    def commit(self, name: str, ids: list[int], rows: list[int] | None = None) -> None:
        """A block with these ids; `rows` are those that its file of rows holds, if others."""
        self.write(self.ids / f"{name}.parquet", ids)
        self.write(self.rows / f"{name}-0.parquet", ids if rows is None else rows)

    def said_of(self, counts: RankCounts) -> str:
        """What ranking says of counts, where each text has its row."""
        texts = TextIds(self.texts)
        texts.take(texts.ids)
        with Progress("rank", "texts", self.said) as progress:
            _check_counts(counts, texts, progress)
        return self.said.getvalue()

    def finish(self, *work: Callable[[], None]) -> list[str]:
        """The names of the files that hold the rows, after `work` was called for what is left, each in turn."""
        calls = iter(work)
        with Progress("rank", "texts", self.said) as progress:
            files = finish(self.texts, self.rows, self.ids, progress, lambda done, last: next(calls)(), self.use)
        assert next(calls, None) is None, "not all of the work was asked for"
        return files

    def use(self, files: list[Path]) -> list[str]:
        assert sum(len(table["text"]) for table in read_tables(list(files))) >= count_rows(self.texts)
        return [file.name for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write(folder.texts, [5, -3, 8, 2])
    return folder


def test_what_is_complete_is_not_done_again(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3])
    folder.commit("a_000001", [8, 2])
    assert folder.finish() == ["a_000000-0.parquet", "a_000001-0.parquet"]
    assert "rows" not in folder.said.getvalue()


def test_what_is_left_is_done(folder: Folder) -> None:
    assert folder.finish(lambda: folder.commit("a_000000", [5, -3, 8, 2])) == ["a_000000-0.parquet"]


@pytest.mark.parametrize("damage", ["gone", "fewer", "cut", "empty", "page", "ids_cut", "ids_empty", "ids_page"])
def test_a_block_whose_rows_are_missing_is_done_again(folder: Folder, damage: str) -> None:
    folder.commit("a_000000", [5, -3])
    folder.commit("a_000001", [8, 2], rows=[8] if damage == "fewer" else None)
    file = folder.ids / "a_000001.parquet" if "ids" in damage else folder.rows / "a_000001-0.parquet"
    if damage == "gone":
        file.unlink()
    elif damage != "fewer":
        spoil(file, damage.removeprefix("ids_"))

    def again() -> None:
        assert not (folder.ids / "a_000001.parquet").exists()  # or the block would be looked at once more
        folder.commit("b_000000", [8, 2])

    assert folder.finish(again) == ["a_000000-0.parquet", "b_000000-0.parquet"]
    assert "1 block lacks rows" in folder.said.getvalue()


def spoil(file: Path, how: str, column: int = 0) -> None:
    """Leave a Parquet file as a loss of power or a sick disk does."""
    content = bytearray(file.read_bytes())
    if how == "page":
        start = pq.read_metadata(file).row_group(0).column(column)
        place = start.dictionary_page_offset or start.data_page_offset
        content[place : place + 16] = b"\xff" * 16
    file.write_bytes({"cut": content[:-9], "empty": b"", "page": content}[how])


def test_rows_that_turn_out_to_be_damaged_when_they_are_used_are_done_again(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3])
    folder.commit("a_000001", [8, 2])
    spoil(folder.rows / "a_000001-0.parquet", "page", column=1)  # their ids can be read
    files = folder.finish(lambda: folder.commit("b_000000", [8, 2]))
    assert files == ["a_000000-0.parquet", "b_000000-0.parquet"]
    assert "1 block has damaged rows" in folder.said.getvalue()


def test_what_fails_for_another_reason_is_not_done_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> list[str]:
        raise ZeroDivisionError

    folder.commit("a_000000", [5, -3, 8, 2])
    monkeypatch.setattr(folder, "use", fail)
    with pytest.raises(ZeroDivisionError):
        folder.finish()
    assert (folder.ids / "a_000000.parquet").exists()


def test_a_disk_that_fails_costs_no_block(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3, 8, 2])
    (folder.rows / "a_000000-0.parquet").rename(folder.rows / "kept")
    (folder.rows / "a_000000-0.parquet").symlink_to(folder.rows / "a_000000-0.parquet")
    with pytest.raises(OSError, match="Too many levels"):
        folder.finish()
    assert (folder.ids / "a_000000.parquet").exists()


@pytest.mark.parametrize("folder_of", ["ids", "rows"])
def test_a_store_that_fails_costs_no_block(folder: Folder, monkeypatch: pytest.MonkeyPatch, folder_of: str) -> None:
    """Some clients raise a bare OSError, which is what Arrow says of a damaged page as well."""
    folder.commit("a_000000", [5, -3, 8, 2])

    def failing(path: Any, columns: Any = None) -> Any:
        if isinstance(path, list) and path[0].parent == getattr(folder, folder_of):
            raise OSError("Forbidden: a_000000.parquet")
        return read_tables(path, columns)

    monkeypatch.setattr("semtag.scoring.finished.read_tables", failing)
    with pytest.raises(OSError, match="Forbidden"):
        folder.finish()
    assert (folder.ids / "a_000000.parquet").exists()


def test_each_start_has_a_folder_of_its_own(folder: Folder) -> None:
    for name, ids in (("a", [5, -3]), ("b", [8])):
        folder.commit(f"{name}_000000", ids)
        (folder.ids / name).mkdir()
        (folder.ids / f"{name}_000000.parquet").rename(folder.ids / name / f"{name}_000000.parquet")
    told = list[list[int]]()

    def work(done: np.ndarray, last: bool) -> None:
        told.append(done.tolist())
        folder.commit("c_000000", [2])

    with Progress("rank", "texts", folder.said) as progress:
        files = finish(folder.texts, folder.rows, folder.ids, progress, work, folder.use)
    assert told == [[-3, 5, 8]]
    assert files == ["a_000000-0.parquet", "b_000000-0.parquet", "c_000000-0.parquet"]


def test_rows_that_were_never_committed_do_not_count(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3, 8, 2])
    folder.write(folder.rows / "z_000000-0.parquet", [5, -3])
    assert folder.finish() == ["a_000000-0.parquet"]
    assert "1 file of rows was never committed" in folder.said.getvalue()


def test_a_committed_block_is_not_pending_any_more(folder: Folder) -> None:
    """As in a store that copies and deletes where it should rename."""
    folder.commit("a_000000", [5, -3])
    folder.write(folder.ids / "a_000000.pending.parquet", [5, -3])
    folder.write(folder.ids / "a_000001.pending.parquet", [8, 2])
    folder.write(folder.rows / "a_000001-0.parquet", [8])
    files = folder.finish(lambda: folder.commit("b_000000", [8, 2]))
    assert files == ["a_000000-0.parquet", "b_000000-0.parquet"]
    assert "never committed" not in folder.said.getvalue()  # it was about to be


def test_equal_totals_hide_nothing(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3])
    folder.commit("a_000001", [5, 77])  # as many rows as texts: one text twice, one that is none, two lost
    files = folder.finish(lambda: folder.commit("b_000000", [8, 2]))
    assert len(files) == 3


def test_a_pipeline_that_loses_texts_again_and_again_is_an_error(folder: Folder) -> None:
    with pytest.raises(RuntimeError, match="lost 3 of 4 texts"):
        folder.finish(lambda: folder.commit("a_000000", [5]), lambda: None)


def test_each_text_is_taken_once(folder: Folder) -> None:
    texts = TextIds(folder.texts)
    assert texts.take(pa.array([8, 8, 77, -3, 9]).to_numpy()).tolist() == [True, False, False, True, False]
    assert texts.take(pa.array([-3, 2]).to_numpy()).tolist() == [False, True]
    assert (texts.repeated, texts.unknown, texts.left()) == (2, 2, 1)


@given(st.lists(st.integers(-9, 9)), st.sets(st.integers(-9, 9)))
def test_ids_are_looked_up_among_sorted_ones(ids: list[int], known: set[int]) -> None:
    found = among(np.array(ids, dtype=np.int64), np.array(sorted(known), dtype=np.int64))
    assert found.tolist() == [number in known for number in ids]


def test_rows_are_parted_one_for_each_text(folder: Folder, tmp_path: Path) -> None:
    def row(id_: int, reason: str | None = None, in_parts: bool | None = False) -> dict[str, Any]:
        own = {"text_id": id_, "text": "t", "candidates": [], "reason": reason}
        own["in_parts"] = None if reason else in_parts
        return dict.fromkeys(SAMPLED.names) | own

    rows = [row(5, in_parts=True), row(-3, "not_a_number"), row(5, in_parts=True), row(77), row(8), row(2), row(-3)]
    pq.write_table(pa.Table.from_pylist(rows, SAMPLED), folder.rows / "a_000000-0.parquet")
    out, expected = tmp_path / "out", TextIds(folder.texts)
    out.mkdir()
    counts = _split([folder.rows / "a_000000-0.parquet"], expected, out, tmp_path, load_config(DEMO))
    assert [row["text_id"] for row in read_rows(out)] == [5, 8, 2]
    assert (counts.texts, counts.ranked, counts.rejects) == (4, 3, {"not_a_number": 1})
    assert (expected.repeated, expected.unknown, expected.left()) == (2, 1, 0)
    [reject] = read_rows(tmp_path / "rows.parquet")
    assert reject["reason"] == "not_a_number"
    with Progress("rank", "texts", folder.said) as progress:
        _check_counts(counts, expected, progress)
    assert "skipped 2 rows of texts that already have a row, and 1 rows of unknown texts" in folder.said.getvalue()
    assert "1 texts are longer than the embedding model reads, and are scored in parts" in folder.said.getvalue()


@pytest.mark.parametrize(("longer", "shorter", "warned"), [(71, 29, True), (70, 30, False), (70, 20, False)])
def test_a_score_that_rewards_words_is_told(longer: int, shorter: int, warned: bool, folder: Folder) -> None:
    counts = RankCounts(texts=100, ranked=100, lengths=Counter({1: longer, -1: shorter, 0: 9}))
    told = "warning: in 71% of 100 texts the best answer has more words than the text's answers have in the mean"
    assert (told in folder.said_of(counts)) is warned


def answers(text_id: int, text: str, *completions: str) -> dict[str, Any]:
    candidates = [vars(read_candidate(Prompt(), place, one, "stop")) for place, one in enumerate(completions)]
    return dict.fromkeys(RANKED.names) | {"text_id": text_id, "text": text, "candidates": candidates}


def test_copies_of_the_examples_tags_are_counted_where_the_text_does_not_spell_them() -> None:
    rows = [
        answers(1, "Roads of the inca empire.", "[Inca Empire][road]", "[inca  empire]"),  # the text's own
        answers(2, "A shrimp strikes.", "[Inca  empire][shrimp]", "[quipu][INCA EMPIRE]", "[shrimp]", "Inca Empire"),
    ]
    prompt = Prompt(examples=[Example(text="Knots keep records.", answer="[Inca Empire][quipu]")])
    counts = RankCounts()
    _look_at(pa.Table.from_pylist(rows, RANKED), counts, _tags_shown(prompt), Pairs())
    assert (counts.looked_at, counts.copied) == (5, {"Inca Empire": 2, "quipu": 1})


@pytest.mark.parametrize(("copies", "looked_at", "warned"), [(3, 100, True), (2, 100, False), (3, 99, False)])
def test_a_tag_that_answers_copy_from_the_examples_is_told(
    copies: int, looked_at: int, warned: bool, folder: Folder
) -> None:
    counts = RankCounts(texts=1, ranked=1, looked_at=looked_at, copied=Counter({"Inca Empire": copies, "quipu": 1}))
    assert ("warning: 3.0% of 100 valid answers have the tag 'Inca Empire'" in folder.said_of(counts)) is warned


def test_a_file_holds_a_batch_or_a_thousandth_of_all() -> None:
    assert [rows_per_file(64, total) for total in (60, 100_000, 1_000_000, 100_000_000)] == [64, 100, 1000, 4096]
    assert rows_per_file(8192, 100_000_000) == 8192
