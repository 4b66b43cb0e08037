"""Answers that earlier tagging jobs kept: of the same texts, by the same tagger and settings."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semtag.generation.records import SAMPLED, TEXT
from semtag.scoring.finished import among, read_ids
from semtag.store.locations import Place, make_folder
from semtag.store.parquet import TableWriter, parquet_files, read_tables


def write_new(texts: Path, known: Path, out: Path) -> int:
    """Write the texts whose ids have no answer in the folder `known`; return the number of those that have one."""
    ids, kept = np.sort(read_ids(known)) if known.exists() else np.empty(0, dtype=np.int64), 0
    with TableWriter(out, TEXT) as new:
        for table in read_tables(texts):
            old_N = among(table["text_id"].to_numpy(), ids)
            kept += int(old_N.sum())
            new.write(table.filter(pa.array(~old_N)))
    return kept


def keep_answers(files: list[Place], known: Path, name: str) -> None:
    """Add the answers of a job to the folder `known` as the file `name`, whole or not at all.

    Rejected texts are left out, because another attempt may answer them.
    """
    make_folder(known)
    partial = known / f".{name}.partial"
    with TableWriter(partial, SAMPLED) as out:
        for table in read_tables(files):
            out.write(table.filter(pc.is_null(table["reason"])).select(SAMPLED.names).cast(SAMPLED))
    partial.rename(known / f"{name}.parquet")


def kept_files(known: Path) -> list[Place]:
    """Return the files of the answers in the folder `known`."""
    return parquet_files(known) if known.exists() else []
