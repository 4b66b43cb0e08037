"""The steps of Ray's own commits, as `benchmarks.chaos` meets them: held by a server, or seen on a disk."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import commits, stores
from benchmarks.stores import Store, store_on_loopback
from semtag.store.layout import RoundLayout
from semtag.store.locations import Place, place_at, uri

IDS = pa.table({"text_id": [1, 2, 3]})
BLOCK = "abc_000000"
PENDING, COMMITTED, ROWS = f"ids/start/{BLOCK}.pending.parquet", f"ids/start/{BLOCK}.parquet", f"rows/{BLOCK}-0.parquet"


def commit(layout: RoundLayout) -> Iterator[None]:
    """Commit a block as Ray does, step by step."""
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.checkpoint.checkpoint_writer import CheckpointWriter

    place = uri(layout.sampled_ids / "start")
    writer = CheckpointWriter.create(CheckpointConfig(id_column="text_id", checkpoint_path=place))
    pending = writer.write_pending_checkpoint(IDS["text_id"], BLOCK)
    yield
    filesystem, path = pa.fs.FileSystem.from_uri(uri(layout.sampled / f"{BLOCK}-0.parquet"))
    pq.write_table(IDS, path, filesystem=filesystem)
    yield
    assert pending
    writer.commit_checkpoint(pending)
    yield


def files(layout: RoundLayout) -> set[str]:
    """The names of the Parquet files that the ranking has written so far."""
    folder = layout.sampled.parent
    return {str(file).removeprefix(f"{folder}/") for file in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_on_loopback("commits", tmp_path_factory.mktemp("cache")) as store:
        yield store


def layout_in(folder: Place, local: Path) -> RoundLayout:
    return RoundLayout(folder / "round-1", local)


@pytest.mark.parametrize(
    ("step", "there"),
    [
        (stores.PENDING, {PENDING}),
        (stores.ROWS, {PENDING, ROWS}),
        (stores.COPIED, {PENDING, ROWS, COMMITTED}),
        (stores.REMOVING, {PENDING, ROWS, COMMITTED}),
    ],
)
def test_the_server_holds_a_commit_at_each_step(step: str, there: set[str], store: Store, tmp_path: Path) -> None:
    layout = layout_in(place_at(f"s3://commits/{stores.STEPS.index(step)}"), tmp_path)
    store.hold(step)
    writer = threading.Thread(target=list, args=[commit(layout)])
    writer.start()
    assert store.held.wait(60)
    assert files(layout) == there
    assert writer.is_alive()
    store.let_go()
    writer.join()
    assert files(layout) == {ROWS, COMMITTED}


def test_a_removal_that_is_dropped_is_not_done(store: Store) -> None:
    pending = place_at("s3://commits/run/.rank.unfinished/ids/start/abc.pending.parquet")
    pending.write_bytes(b"ids")
    store.hold(stores.REMOVING)
    request = urllib.request.Request(f"{store.url}/{str(pending).removeprefix('s3://')}", method="DELETE")
    answers = list[int]()

    def remove() -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        answers.append(caught.value.code)

    remover = threading.Thread(target=remove)
    remover.start()
    assert store.held.wait(60)
    store.let_go(drop=True)
    remover.join()
    assert answers == [503] and pending.exists()


def test_the_files_on_a_disk_say_which_step_was_reached(tmp_path: Path) -> None:
    layout = layout_in(tmp_path, tmp_path)
    ids, rows = tmp_path / "round-1/.rank.unfinished/ids", tmp_path / "round-1/.rank.unfinished/rows"
    rows.mkdir(parents=True)
    assert commits.last_commit(ids, rows) is None
    assert [commits.last_commit(ids, rows) for _ in commit(layout)] == [(BLOCK, step) for step in commits.ON_DISK]
