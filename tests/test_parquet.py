"""Reading Parquet a part at a time."""

import os
import tracemalloc
from pathlib import Path

import pyarrow as pa

from cluster.parquet import ROWS_PER_GROUP, RowWriter, read_tables
from configs.data import Data
from generation.readers import read_rows

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
