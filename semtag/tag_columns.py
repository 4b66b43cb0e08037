"""The columns of a tagged corpus in Parquet, with the types of the source or of the values."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.generation.cells import encodable
from semtag.generation.typed import typed_tables
from semtag.store.parquet import count_rows, read_rows

CHUNK = 1024  # rows of a table, to bound memory
Types = dict[str, pa.DataType | None]  # column -> type; None: values of several types, which become JSON text
Rows = list[dict[str, Any]]


def keep_columns(file: Path, data: Data, rows: Path, names: list[str]) -> list[str]:
    """Write the data's columns to `file`, with a row for each row of the file `rows`; return the columns of JSON text.

    Rows that cannot be tagged are included. Where the source has no types, each value keeps its JSON type: text that
    looks like a date stays text. A column with values of several types becomes JSON text. Raises UserError when the
    data changed while Semtag read the data.
    """
    # Take the tables of a source with types, or find types that hold all values.
    tables, mixed = typed_tables(data), list[str]()
    if tables is None:
        types = _types(rows, names)
        mixed = [name for name, type_ in types.items() if type_ is None]
        tables = (_table(chunk, types) for chunk in _chunks(rows, names))
    first = next(tables)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as out:
        out.write_table(first)
        for table in tables:
            out.write_table(table)
    if count_rows(file) != count_rows(rows):
        raise UserError(f"{data.where} changed while Semtag read this data.", "Run the same command again.")
    return mixed


def _chunks(rows: Path, names: list[str]) -> Iterator[Rows]:
    """Yield the rows in chunks, as values of the columns `names`. A row that cannot be tagged has only nulls."""
    records = read_rows(rows)
    while chunk := list(islice(records, CHUNK)):
        values = [json.loads(record["row"]) if record["reason"] is None else {} for record in chunk]
        yield [dict.fromkeys(names) | row for row in values]


def _types(rows: Path, names: list[str]) -> Types:
    """Find the types that hold all values of the columns. Tries each value, because no row may fail after tagging."""
    types: Types = dict.fromkeys(names, pa.null())
    for chunk in _chunks(rows, names):
        for name in names:
            types[name] = _common(types[name], [row[name] for row in chunk])
    types = {name: type_ if type_ is not None and _fits_parquet(type_) else None for name, type_ in types.items()}
    while failing := {name for chunk in _chunks(rows, names) for name in names if not _holds(types[name], chunk, name)}:
        types |= dict.fromkeys(failing)
    return types


def _common(known: pa.DataType | None, values: list[Any]) -> pa.DataType | None:
    """Return a type that holds the `values` and all values of the type `known`, or None."""
    if known is None:
        return None
    try:
        schemas = [pa.schema([("", type_)]) for type_ in (known, _array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None


def _fits_parquet(type_: pa.DataType) -> bool:
    try:
        pq.write_table(pa.schema([("", type_)]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowException:  # Parquet has no type for an object without keys
        return False
    return True


def _holds(type_: pa.DataType | None, chunk: Rows, name: str) -> bool:
    try:
        _column(chunk, name, type_)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _table(chunk: Rows, types: Types) -> pa.Table:
    return pa.table({_spelled(name): _column(chunk, name, type_) for name, type_ in types.items()})


def _column(chunk: Rows, name: str, type_: pa.DataType | None) -> pa.Array:
    values = [row[name] for row in chunk]
    if type_ is not None:
        return _array(values, type_)
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _array(values: list[Any], type_: pa.DataType | None = None) -> pa.Array:
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array(_spelled(values), type_)


def _spelled(value: Any) -> Any:
    """Return the value with each character that UTF-8 lacks as an escape. Example: U+D83D becomes `\\ud83d`."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [*map(_spelled, value)]
    return {_spelled(key): _spelled(one) for key, one in value.items()} if isinstance(value, dict) else value
