"""Reading Parquet a part at a time."""

import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semtag.configs.data import Data
from semtag.generation.readers import read_rows
from semtag.store.parquet import ROWS_PER_GROUP, ROWS_PER_LARGE_GROUP, RowWriter, TableWriter, read_tables

GROUPS = 30
SCHEMA = pa.schema([("text", pa.binary())])


def test_a_long_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "long.parquet"
    with RowWriter(file, SCHEMA) as out:
        for _ in range(GROUPS * ROWS_PER_GROUP):
            out.write({"text": os.urandom(512)})
    for rows in (read_tables(file), read_rows(Data(path=str(file)))):
        tracemalloc.start()  # Arrow reads through Python's file, so what it holds is Python's
        for _ in rows:
            pass
        assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 3
        tracemalloc.stop()


def groups(file: Path) -> list[int]:
    metadata = pq.read_metadata(file)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_large_rows_are_flushed_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semtag.store.parquet.BYTES_PER_GROUP", 1000)
    schema = pa.schema([("text", pa.string()), ("number", pa.int64())])
    with RowWriter(tmp_path / "rows.parquet", schema) as out:
        for number in range(10):
            out.write({"text": "x" * 400, "number": number})
    assert groups(tmp_path / "rows.parquet") == [3, 3, 3, 1]
    with TableWriter(tmp_path / "tables.parquet", schema) as tables:
        for number in range(5):
            tables.write(pa.Table.from_pylist([{"text": "x" * 400, "number": number}], schema))
    assert groups(tmp_path / "tables.parquet") == [3, 2]


def test_a_last_row_that_does_not_fit_leaves_no_open_file(tmp_path: Path) -> None:
    out = RowWriter(tmp_path / "rows.parquet", pa.schema([("number", pa.int64())]))
    with pytest.raises(pa.ArrowInvalid), out:
        out.write({"number": "one"})
    assert out._sink.closed and not out._writer.is_open


def test_small_tables_share_a_large_group(tmp_path: Path) -> None:
    rows = pa.table({"text": [b"x"] * 1000})
    with TableWriter(tmp_path / "tables.parquet", SCHEMA) as out:
        for _ in range(40):
            out.write(rows)
            out.write(rows[:0])
    assert groups(tmp_path / "tables.parquet") == [17000, 17000, 6000]
    assert ROWS_PER_LARGE_GROUP == 16384
    with TableWriter(tmp_path / "empty.parquet", SCHEMA):
        pass
    assert pq.read_table(tmp_path / "empty.parquet").schema == SCHEMA
