"""The rows of sources that have types, as Arrow tables: Parquet, and datasets on disk or of the hub."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.parquet import read_tables
from cluster.places import place_at
from configs.schema import Data
from generation.readers import _files, detect_format

ROWS_AT_ONCE = 1024  # of a dataset


def typed_tables(data: Data) -> Iterator[pa.Table] | None:
    """The rows that `read_rows` reads, in their order; None where they have no types, or no common ones.

    No value passes through Python, so none changes.
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
    return _first(dataset.with_format("arrow").iter(ROWS_AT_ONCE), data.limit)


def _of_parquet(data: Data) -> Iterator[pa.Table] | None:
    files, schemas = _files(place_at(data.path), "parquet"), []
    for file in files:
        with file.open("rb") as source:
            schemas.append(pq.read_schema(source).remove_metadata())
    try:
        empty = pa.unify_schemas(schemas, promote_options="permissive").empty_table()
    except pa.ArrowException:
        return None
    tables = (table.replace_schema_metadata() for table in read_tables(files))
    return _first((pa.concat_tables([empty, table], promote_options="permissive") for table in tables), data.limit)


def _first(tables: Iterator[pa.Table], rows: int | None) -> Iterator[pa.Table]:
    """The first rows, or all for None, without what other programs noted of the columns."""
    for table in tables:
        if rows is not None:
            table, rows = table[:rows], max(0, rows - len(table))
        if len(table):
            yield table.replace_schema_metadata()
        if rows == 0:
            return
