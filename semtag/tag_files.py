"""The writers of a tagged corpus: JSON lines, CSV and Parquet. The columns of the tags come last."""

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
# Rows of the data, each with its columns of tags. A rejected row has None in their place.
Tagged = Iterator[tuple[Row, Row | None]]
TAGS = pa.schema([("tags", pa.list_(pa.string())), ("tags_format", pa.string()), ("tags_score", pa.float64())])


def json_line(value: Row) -> bytes:
    """Format a line of JSON in UTF-8, or in ASCII with escapes if a string is not valid UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def write_lines(file: Path, rows: Tagged, texts: Path) -> None:
    """Write JSON lines. Leaves out rejected rows, as all writers do."""
    with file.open("wb") as out:
        for row, tags in rows:
            if tags:
                out.write(json_line(row | tags))


def write_csv(file: Path, rows: Tagged, texts: Path) -> None:
    """Write CSV. Tags are in canonical form, `[tag1][tag2]`, and other nested values are JSON."""
    columns = json.loads((texts / "columns.json").read_text(encoding="utf-8"))
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        writer = csv.DictWriter(out, [*map(_cell, columns), *TAGS.names])
        writer.writeheader()
        for row, tags in rows:
            if tags:
                cells = {_cell(name): _cell(value) for name, value in row.items()}
                writer.writerow(cells | tags | {"tags": answer_of(tags["tags"])})


def _cell(value: Any) -> Any:
    """Return the content of a cell: lists and objects as JSON, all else as it is.

    Bytes that were not UTF-8 stay the same bytes. Other lone surrogates become escapes: U+D83D becomes `\\ud83d`.
    """
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
    """Write Parquet, with the data's columns and their types from `columns.parquet` in the folder `texts`."""
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
