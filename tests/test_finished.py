"""What of an interrupted ranking counts as done: rows whose ids were committed, one for each text."""

import io
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.scale import DATA, make_models, make_rows
from cluster.orphans import left_at_work
from cluster.parquet import RowWriter, count_rows, read_rows
from cluster.progress import Progress
from cluster.run_dir import RunDir
from generation.records import SAMPLED
from scoring.finished import TextIds, finish, read_ids
from scoring.rank_texts import _split
from tests.conftest import ROOT, semtag

TEXTS = 60


class Folder:
    """Texts, rows and ids of blocks, written by hand as Ray Data names them."""

    def __init__(self, root: Path) -> None:
        self.texts, self.rows, self.ids = root / "texts.parquet", root / "rows", root / "ids"
        self.said = io.StringIO()
        self.rows.mkdir()
        self.ids.mkdir()

    def write(self, file: Path, ids: list[int]) -> None:
        pq.write_table(pa.table({"text_id": pa.array(ids, pa.int64())}), file)

    def commit(self, name: str, ids: list[int], rows: list[int] | None = None) -> None:
        """A block with these ids; `rows` are those that its file of rows holds, if others."""
        self.write(self.ids / f"{name}.parquet", ids)
        self.write(self.rows / f"{name}-0.parquet", ids if rows is None else rows)

    def finish(self, *work: Callable[[], None]) -> list[str]:
        """The names of the files that hold the rows, after `work` was called for what is left, each in turn."""
        calls = iter(work)
        with Progress("rank", "texts", self.said) as progress:
            files = finish(self.texts, self.rows, self.ids, progress, lambda last: next(calls)())
        assert next(calls, None) is None, "not all of the work was asked for"
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


@pytest.mark.parametrize("damage", ["gone", "fewer", "cut"])
def test_a_block_whose_rows_are_missing_is_done_again(folder: Folder, damage: str) -> None:
    folder.commit("a_000000", [5, -3])
    folder.commit("a_000001", [8, 2], rows=[8] if damage == "fewer" else None)
    file = folder.rows / "a_000001-0.parquet"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])

    def again() -> None:
        assert not (folder.ids / "a_000001.parquet").exists()  # or Ray would pass over its texts
        folder.commit("b_000000", [8, 2])

    assert folder.finish(again) == ["a_000000-0.parquet", "b_000000-0.parquet"]
    assert "1 block lacks rows" in folder.said.getvalue()


def test_rows_that_were_never_committed_do_not_count(folder: Folder) -> None:
    folder.commit("a_000000", [5, -3, 8, 2])
    folder.write(folder.rows / "z_000000-0.parquet", [5, -3])
    assert folder.finish() == ["a_000000-0.parquet"]
    assert "1 file of rows was never committed" in folder.said.getvalue()


def test_a_committed_block_is_not_pending_any_more(folder: Folder) -> None:
    """As in a store that copies and deletes where it should rename: Ray would delete rows of pending ids alone."""
    folder.commit("a_000000", [5, -3])
    folder.write(folder.ids / "a_000000.pending.parquet", [5, -3])
    folder.write(folder.ids / "a_000001.pending.parquet", [8, 2])
    folder.write(folder.rows / "a_000001-0.parquet", [8])

    def again() -> None:
        assert sorted(file.name for file in folder.ids.iterdir()) == ["a_000000.parquet", "a_000001.pending.parquet"]
        folder.commit("b_000000", [8, 2])

    assert folder.finish(again) == ["a_000000-0.parquet", "b_000000-0.parquet"]
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


def test_rows_are_parted_one_for_each_text(folder: Folder, tmp_path: Path) -> None:
    def row(id_: int, reason: str | None = None) -> dict[str, Any]:
        return dict.fromkeys(SAMPLED.names) | {"text_id": id_, "text": "t", "candidates": [], "reason": reason}

    rows = [row(5), row(-3, "not_a_number"), row(5), row(77), row(8), row(2), row(-3)]
    pq.write_table(pa.Table.from_pylist(rows, SAMPLED), folder.rows / "a_000000-0.parquet")
    out, expected = tmp_path / "out", TextIds(folder.texts)
    out.mkdir()
    counts = _split([folder.rows / "a_000000-0.parquet"], expected, out, tmp_path)
    assert [row["text_id"] for row in read_rows(out)] == [5, 8, 2]
    assert (counts["texts"], counts["ranked"], counts["rejects"]) == (4, 3, {"not_a_number": 1})
    assert (expected.repeated, expected.unknown, expected.left()) == (2, 1, 0)
    [reject] = read_rows(tmp_path / "rows.parquet")
    assert reject["reason"] == "not_a_number"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A ranking by replay, in blocks of five texts."""
    folder = tmp_path_factory.mktemp("replay")
    base, embedding = make_models(folder)
    with RowWriter(folder / "texts.parquet", DATA) as out:
        for row in make_rows(0)[:TEXTS]:
            out.write(row)
    models = [
        f"model.base={base}",
        f"scoring.model={embedding}",
        f"run.root={folder}",
        "data.held_out=0",
        "rounds.count=1",
        "rounds.validation=0",
    ]
    replay = ["sampling.engine=replay", "sampling.candidates=completions", "sampling.batch_size=5"]
    return ["configs/demo.yaml", f"data.path={folder / 'texts.parquet'}", *models, *replay]


def test_a_real_ranking_heals(arguments: list[str]) -> None:
    """Its command line is killed with some blocks done: one loses its rows, one comes twice, one is pending still."""
    run = Path(arguments[4].removeprefix("run.root=")) / "demo"
    layout = RunDir(run).layout.round(1)
    rows, ids = layout.sampled, layout.sampled_ids
    job = subprocess.Popen([sys.executable, "-m", "cluster.cli", "rank", *arguments], cwd=ROOT)
    while len(committed := [file for file in ids.glob("*.parquet") if ".pending" not in file.name]) < 3:
        assert job.poll() is None
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert left_at_work(str(run / ".lock")) == []  # the stage and what Ray started end with the command line
    lost, doubled, pending = sorted(committed)[:3]
    assert sorted(read_ids(ids / lost.name)) == sorted(read_ids(rows / f"{lost.stem}-0.parquet"))
    (rows / f"{lost.stem}-0.parquet").unlink()
    shutil.copy(rows / f"{doubled.stem}-0.parquet", rows / "ffff_000000-0.parquet")
    shutil.copy(pending, pending.with_name(f"{pending.stem}.pending.parquet"))
    done = semtag("rank", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 block lacks rows" in done.stdout and "1 file of rows was never committed" in done.stdout
    assert len({row["text_id"] for row in read_rows(layout.ranked, ["text_id"])}) == count_rows(layout.ranked) == TEXTS
    assert semtag("verify", str(run)).returncode == 0
