"""The rows of sources that have types, as Arrow tables: Parquet, and datasets on disk or of the hub."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.parquet import read_tables
from cluster.places import place_at
from configs.schema import Data
from generation.readers import _files, detect_format

ROWS_AT_ONCE = 1024  # of a dataset


def typed_tables(data: Data) -> Iterator[pa.Table] | None:
    """The rows that `read_rows` reads, in their order; None where they have no types, or no common ones.

    No value passes through Python, so none changes. Class labels are their names.
    """
    format_ = detect_format(data)
    if format_ == "parquet":
        return _of_parquet(data)
    if format_ not in ("hub", "disk"):
        return None
    import datasets

    if format_ == "hub":
        dataset = datasets.load_dataset(data.path, data.subset, split=data.split, streaming=True)
    else:
        loaded = datasets.load_from_disk(data.path)
        dataset = loaded[data.split] if isinstance(loaded, datasets.DatasetDict) else loaded
    return _first(map(_named, dataset.with_format("arrow").iter(ROWS_AT_ONCE)), data.limit)


def _of_parquet(data: Data) -> Iterator[pa.Table] | None:
    files, schemas = _files(place_at(data.path), "parquet"), []
    for file in files:
        with file.open("rb") as source:
            schemas.append(_named(pq.read_schema(source).empty_table()).schema)
    try:
        empty = pa.unify_schemas(schemas, promote_options="permissive").empty_table()
    except pa.ArrowException:
        return None
    tables = map(_named, read_tables(files))
    return _first((pa.concat_tables([empty, table], promote_options="permissive") for table in tables), data.limit)


def _named(table: pa.Table) -> pa.Table:
    """The table with names in place of class labels, which are numbers, and without what noted these names."""
    for name, feature in _features(table.schema).items():
        if names := getattr(feature, "names", None):
            place, numbers = table.column_names.index(name), table[name]
            known = pc.if_else(pc.greater_equal(numbers, 0), numbers, None)  # -1 is no label
            table = table.set_column(place, name, pa.chunked_array([pa.array(names).take(known.combine_chunks())]))
    return table.replace_schema_metadata()


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the `datasets` library noted of the columns."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    return dict(datasets.Features.from_arrow_schema(schema))


def _first(tables: Iterator[pa.Table], rows: int | None) -> Iterator[pa.Table]:
    """The first rows, or all for None."""
    for table in tables:
        if rows is not None:
            table, rows = table[:rows], max(0, rows - len(table))
        if len(table):
            yield table
        if rows == 0:
            return
