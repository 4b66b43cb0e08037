"""How a tagged corpus is written: JSON lines, CSV or Parquet. The columns of the tags come last."""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semtag.generation.parse import answer_of
from semtag.store.parquet import read_tables

Row = dict[str, Any]
# A row of the data with its tags, or None in their place where it has none and goes to the rejects.
Tagged = Iterator[tuple[Row, Row | None]]
TAGS = pa.schema([("tags", pa.list_(pa.string())), ("tags_format", pa.string()), ("tags_score", pa.float64())])


def json_line(value: Row) -> bytes:
    """JSON for people to read, or in ASCII where a column holds bytes that were no UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def write_lines(file: Path, rows: Tagged, texts: Path) -> None:
    """Write JSON lines."""
    with file.open("wb") as out:
        for row, tags in rows:
            if tags:
                out.write(json_line(row | tags))


def write_csv(file: Path, rows: Tagged, texts: Path) -> None:
    """Write CSV: tags in canonical form, `[tag1][tag2]`; other nested values as JSON."""
    columns = json.loads((texts / "columns.json").read_text(encoding="utf-8"))
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        writer = csv.DictWriter(out, [*map(_cell, columns), *TAGS.names])
        writer.writeheader()
        for row, tags in rows:
            if tags:
                cells = {_cell(name): _cell(value) for name, value in row.items()}
                writer.writerow(cells | tags | {"tags": answer_of(tags["tags"])})


def _cell(value: Any) -> Any:
    """What a cell holds: bytes that were no UTF-8 as they were, other halves of characters spelled out."""
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return value
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def write_parquet(file: Path, rows: Tagged, texts: Path) -> None:
    """Write Parquet: the data's columns as `columns.parquet` holds them, with their types."""
    columns = texts / "columns.parquet"
    schema = pa.schema([*pq.read_schema(columns), *TAGS])
    with pq.ParquetWriter(file, schema, compression="zstd") as out:
        for table in read_tables(columns):
            found = [tags for _, tags in islice(rows, len(table))]
            table = table.filter(pa.array([tags is not None for tags in found]))
            tags = pa.Table.from_pylist([tags for tags in found if tags], TAGS)
            out.write_table(pa.Table.from_arrays([*table.columns, *tags.columns], schema=schema))


WRITERS: dict[str, Callable[[Path, Tagged, Path], None]] = {
    ".jsonl": write_lines,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
