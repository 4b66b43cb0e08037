"""The one table of the evaluation: every value that was measured, from which all figures and tests are computed.

Suffixes of array names: N units (texts or, in search, questions).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from semtag.store.locations import Place
from semtag.store.parquet import TableWriter, read_tables

Input = Literal["text", "tags", "both"]

ROW = pa.schema(
    [
        ("arm", pa.string()),  # whose tags; `text` for none
        ("input", pa.string()),  # what a task reads: `text`, `tags` or `both`
        ("task", pa.string()),
        ("method", pa.string()),
        ("measure", pa.string()),
        ("unit_id", pa.int64()),  # text_id, or the hash of a question
        ("cluster", pa.int64()),  # units of one cluster are resampled together
        ("value", pa.float64()),  # null where the measure is not defined for the unit
        ("label", pa.string()),  # the class or topic that the unit was told to be of
    ]
)


class Key(NamedTuple):
    """What a series is of."""

    arm: str
    input: Input
    task: str
    method: str
    measure: str


@dataclass(frozen=True)
class Series:
    """One measure of one arm: a value for each of N units.

    A value is NaN where the measure is not defined for the unit. Units of one cluster, such as the paragraphs of an
    article, are not independent of each other.
    """

    key: Key
    units_N: np.ndarray
    clusters_N: np.ndarray
    values_N: np.ndarray
    labels_N: Sequence[str | None] | None = None


Rows = dict[Key, Series]


def by_key(series: Iterable[Series]) -> Rows:
    """Index series by their keys. Raises ValueError for a key that occurs twice."""
    found: Rows = {}
    for one in series:
        if one.key in found:
            raise ValueError(f"{one.key} is measured twice")
        found[one.key] = one
    return found


def write_rows(rows: Rows, file: Path) -> None:
    """Write a row of schema ROW for each unit of each series."""
    with TableWriter(file, ROW) as out:
        for one in rows.values():
            nothing = [None] * len(one.units_N)
            columns = {
                **{name: [value] * len(nothing) for name, value in one.key._asdict().items()},
                "unit_id": one.units_N,
                "cluster": one.clusters_N,
                "value": pa.array(one.values_N, pa.float64(), from_pandas=True),  # NaN becomes null
                "label": nothing if one.labels_N is None else list(one.labels_N),
            }
            out.write(pa.table(columns, ROW))


def read_rows_table(file: Place) -> Rows:
    """Read the rows that `write_rows` wrote."""
    names, columns = [*Key._fields], ("unit_id", "cluster", "value", "label")
    own = pa.concat_tables([ROW.empty_table(), *read_tables(file)])
    grouped = own.group_by(names, use_threads=False).aggregate([(name, "list") for name in columns])
    found = []
    for place, key in enumerate(grouped.select(names).to_pylist()):
        units, clusters, values, labels = (grouped[f"{name}_list"][place].values for name in columns)
        told = labels.to_pylist() if labels.null_count < len(labels) else None
        values_N = values.to_numpy(zero_copy_only=False)  # null becomes NaN
        found.append(Series(Key(**key), units.to_numpy(), clusters.to_numpy(), values_N, told))
    return by_key(found)
