"""Rows to and from Parquet, a bounded number in memory at a time."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 2048


class RowWriter:
    """Writes dicts to one Parquet file of a fixed schema; the file exists even when no row came."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._buffer: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.rows += 1
        self._buffer.append(row)
        if len(self._buffer) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.Table.from_pylist(self._buffer, self.schema))
            self._buffer.clear()

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def read_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, or of all Parquet files of a folder in order of their names."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()


def count_rows(path: Path) -> int:
    """Number of rows of a Parquet file, or of all in a folder, from their footers alone."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    return sum(pq.read_metadata(file).num_rows for file in files)
