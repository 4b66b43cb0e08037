"""Typed sources: Parquet files, and datasets on a disk or a hub, as rows and as Arrow tables."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semtag.configs.data import Data
from semtag.generation.cells import named, rows_of
from semtag.generation.files import File, locate, opened
from semtag.store.parquet import ROWS_PER_GROUP

ROWS_AT_ONCE = 256  # rows of a dataset; few, because other columns may hold sounds and pictures


def load_dataset(path: str, data: Data, format_: str) -> Any:
    """Load a dataset from a hub, as a stream, or from a disk. Raises any error of the `datasets` library."""
    import datasets

    if format_ == "hub":
        return datasets.load_dataset(path, data.subset, split=data.split, revision=data.revision, streaming=True)
    loaded = datasets.load_from_disk(path)
    return loaded[data.split] if isinstance(loaded, datasets.DatasetDict) else loaded


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the types of columns that the `datasets` library noted in a file; empty where it noted none."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    try:
        return dict(datasets.Features.from_arrow_schema(schema))
    except Exception:  # notes of another version, or damaged notes: the columns keep Arrow's types
        return {}


def rows_of_dataset(dataset: Any, features: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset, without decoding sounds or pictures."""
    if not _has_tables(dataset):
        for values in dataset.decode(False) if features else dataset:
            yield {name: named(value, features.get(name)) for name, value in values.items()}
        return
    for table in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
        yield from rows_of(table, features)


def typed_tables(data: Data) -> Iterator[pa.Table] | None:
    """Return the rows that `read_rows` yields, in the same order, as tables; None where they share no types.

    No value changes, because only class labels pass through Python. They become their names.
    """
    sources = [(path, locate(path, data.format)) for path in data.paths]
    if {located.format for _, located in sources} == {"parquet"}:
        return _of_parquet([file for _, located in sources for file in located.files], data.limit)
    path, located = sources[0]
    if len(sources) > 1 or located.format not in ("hub", "disk"):
        return None
    dataset = load_dataset(path, data, located.format)
    if not _has_tables(dataset):
        return None
    features = dict(dataset.features or {})
    return _first((_named(table, features) for table in dataset.with_format("arrow").iter(ROWS_AT_ONCE)), data.limit)


def _has_tables(dataset: Any) -> bool:
    """Check whether all rows share a schema. The rows of a stream that Python code makes do not."""
    return not hasattr(dataset, "_ex_iterable") or bool(getattr(dataset._ex_iterable, "iter_arrow", None))


def _of_parquet(files: list[File], limit: int | None) -> Iterator[pa.Table] | None:
    schemas = []
    for file in files:
        with opened(file) as source:
            schema = pq.read_schema(source)
        schemas.append(_named(schema.empty_table(), features_of(schema)).schema)
    try:
        empty = pa.unify_schemas(schemas, promote_options="permissive").empty_table()
    except pa.ArrowException:
        return None
    tables = (pa.concat_tables([empty, table], promote_options="permissive") for table in _tables(files))
    return _first(tables, limit)


def _tables(files: list[File]) -> Iterator[pa.Table]:
    for file in files:
        with opened(file) as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            features = features_of(parquet.schema_arrow)
            for batch in parquet.iter_batches(ROWS_PER_GROUP):
                yield _named(pa.Table.from_batches([batch]), features)


def _named(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    """Replace class labels, which are numbers, by their names, and drop the metadata that lists the names."""
    for name, feature in features.items():
        if type_ := _type_of_names(feature):
            labels = [named(value, feature) for value in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(labels, type_))
    return table.replace_schema_metadata()


def _type_of_names(feature: Any) -> pa.DataType | None:
    """Return the type of the names of class labels, or of lists of class labels; None for all else."""
    if getattr(feature, "names", None):
        return pa.string()
    inner = _type_of_names(feature.feature) if hasattr(feature, "feature") else None
    return None if inner is None else pa.list_(inner)


def _first(tables: Iterator[pa.Table], rows: int | None) -> Iterator[pa.Table]:
    """Yield the first `rows` rows of the tables, or all rows for None."""
    for table in tables:
        if rows is not None:
            table, rows = table[:rows], max(0, rows - len(table))
        if len(table):
            yield table
        if rows == 0:
            return
