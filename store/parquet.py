"""Writers and readers of Parquet files, which keep a bounded number of rows in memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semtag.store.locations import Place

ROWS_PER_GROUP = 2048
BYTES_PER_GROUP = 64 * 2**20  # a row group of larger rows ends here
ROWS_PER_LARGE_GROUP = 8 * ROWS_PER_GROUP  # of TableWriter
ROWS_PER_PART = 16 * ROWS_PER_GROUP  # of PartWriter


class RowWriter(AbstractContextManager["RowWriter"]):
    """A writer of dicts to one Parquet file of a fixed schema. The file exists even without rows."""

    def __init__(self, file: Place, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._buffer: list[dict[str, Any]] = []
        self._size = 0  # of the buffer's strings, in characters or bytes
        self._sink = file.open("wb")
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.rows += 1
        self._buffer.append(row)
        self._size += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if len(self._buffer) == ROWS_PER_GROUP or self._size >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.Table.from_pylist(self._buffer, self.schema))
            self._buffer.clear()
            self._size = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()
            self._sink.close()


class TableWriter(AbstractContextManager["TableWriter"]):
    """A writer of tables to one Parquet file. Row groups are large, because each row group adds metadata."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        self._tables.append(table)
        self._rows, self._bytes = self._rows + len(table), self._bytes + table.nbytes
        if self._rows >= ROWS_PER_LARGE_GROUP or self._bytes >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables.clear()
        self._rows = self._bytes = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class PartWriter(AbstractContextManager["PartWriter"]):
    """A writer of tables to part-00000.parquet and so on, ROWS_PER_PART rows each, which readers can share out."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.rows = self._parts = 0
        self._writer: pq.ParquetWriter | None = None
        self._room = 0

    def write(self, table: pa.Table) -> None:
        """Add the rows of a table, without columns that the schema does not name."""
        table = table.select(self.schema.names).cast(self.schema)
        self.rows += len(table)
        while len(table):
            if not self._room:
                self._next()
            part, table = table[: self._room], table[self._room :]
            self._writer.write_table(part, row_group_size=ROWS_PER_GROUP)  # type: ignore[union-attr]
            self._room -= len(part)

    def _next(self) -> None:
        self._close()
        self._writer = pq.ParquetWriter(self.folder / f"part-{self._parts:05}.parquet", self.schema, compression="zstd")
        self._parts, self._room = self._parts + 1, ROWS_PER_PART

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def read_tables(path: Place | list[Place], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of the files of `parquet_files`, as tables of at most ROWS_PER_GROUP rows."""
    for file in parquet_files(path):
        # pre_buffer would keep all bytes read in memory until the end.
        with file.open("rb") as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(ROWS_PER_GROUP, columns=columns):
                yield pa.Table.from_batches([batch])


def read_rows(path: Place, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of `read_tables` as dicts."""
    for table in read_tables(path, columns):
        yield from table.to_pylist()


def count_rows(path: Place) -> int:
    """Count the rows of a Parquet file, or of all files of a folder, from their footers alone."""
    return sum(_count(file) for file in parquet_files(path))


def count_values(values: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """Count how often each string occurs."""
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()})


def _count(file: Place) -> int:
    with file.open("rb") as source:
        return pq.read_metadata(source).num_rows


def parquet_files(path: Place | list[Place]) -> list[Place]:
    """Return a file or files as a list, or the Parquet files of a folder in order of their names."""
    if isinstance(path, list):
        return path
    return [path] if path.is_file() else sorted(path.glob("*.parquet"), key=str)
