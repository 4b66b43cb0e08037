"""Candidates that another run has drawn: written without their scores, then scored in place of sampling."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import Tally
from semtag.configs.schema import Config
from semtag.generation.reasons import RejectReason
from semtag.generation.records import CANDIDATE, SAMPLED, SampledText, from_table, sampled_counts, to_table
from semtag.scoring.finished import among, read_ids
from semtag.scoring.pipeline import begin, score_and_write
from semtag.store.layout import RoundLayout, Step
from semtag.store.locations import Place, uri
from semtag.store.parquet import PartWriter, read_rows, read_tables
from semtag.store.run_dir import identity, result_settings

BY_SCORING = (RejectReason.NOT_A_NUMBER, RejectReason.SCORER_FAILED)
KNOWN = [("text_id", pa.int64()), ("article", pa.string())]  # columns of a round's texts


def sampling_identity(config: Config, number: int) -> str:
    """Return the hash of the settings that the candidates of a round depend on, and not their scores."""
    settings = result_settings(config, Step("rank", number))
    return identity({key: value for key, value in settings.items() if not key.startswith("scoring.")})


def write_candidates(ranked: RoundLayout, texts: Place, folder: Path) -> int:
    """Write the sampled texts of a ranked round into `folder`, in schema SAMPLED without scores; return their number.

    `texts` is the file of the round's texts. Texts that scoring rejected are left out, because a reject keeps no
    candidates.
    """
    known = pa.concat_tables([pa.schema(KNOWN).empty_table(), *read_tables(texts, [name for name, _ in KNOWN])])
    with PartWriter(folder, SAMPLED) as out:
        for table in read_tables(ranked.ranked):
            out.write(unscored(table, known))
        for row in read_rows(ranked.rejects):
            if row["reason"] not in BY_SCORING:
                text = SampledText(**json.loads(row["row"]), decoding="")
                out.write(to_table([text.rejected(RejectReason(row["reason"]), row["detail"])]))
    return out.rows


def unscored(table: pa.Table, texts: pa.Table) -> pa.Table:
    """Turn a table of schema RANKED into one of schema SAMPLED without scores and ranks; articles are from `texts`."""
    lists, rows = table["candidates"].combine_chunks(), len(table)
    flat = lists.flatten()
    fields = [
        pa.nulls(len(flat), field.type) if field.name in ("score", "scores", "rank") else flat.field(field.name)
        for field in CANDIDATE
    ]
    ends = pa.array(np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]), pa.int32())
    columns = {name: table[name] for name in table.column_names} | {
        "article": texts["article"].take(pc.index_in(table["text_id"], value_set=texts["text_id"])),
        "decoding": pa.array([""] * rows),
        "candidates": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(fields, fields=[*CANDIDATE])),
    }
    return pa.table({field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in SAMPLED})


def has_left(given: Place, done: np.ndarray) -> bool:
    """Return whether the folder `given` has a text whose id is not among the sorted `done`."""
    return bool((~among(read_ids(given), done)).any())


def score_given(
    given: Place, out: Place, config: Config, progress: Progress, finished: Place, done: np.ndarray
) -> None:
    """Score the texts of the folder `given` that are not in the sorted `done`, as `sample_and_score` does."""
    import ray.data

    tally = begin(given, ["given"], progress, finished, len(done))
    rows = (
        ray.data.read_parquet(uri(given))
        .map_batches(_left, fn_kwargs={"done": ray.put(done), "tally": tally}, batch_format="pyarrow")
        .repartition(target_num_rows_per_block=config.sampling.batch_size)
    )
    score_and_write(rows, out, config, tally, progress)


def _left(batch: pa.Table, done: Any, tally: Tally) -> pa.Table:
    import ray

    batch = batch.filter(pa.array(~among(batch["text_id"].to_numpy(), ray.get(done))))
    tally.add(sampled_counts(from_table(batch)), at_once=True)
    return batch
