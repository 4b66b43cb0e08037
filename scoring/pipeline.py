"""The streaming pipeline over Ray Data: texts -> prompts -> candidates -> tags -> scores."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import Tally
from semtag.cluster.shared_disk import check_shared
from semtag.configs.schema import Config
from semtag.generation.decoding import Decoding
from semtag.generation.engine_guard import GuardedSampler, shared_suspects
from semtag.generation.records import TEXT
from semtag.generation.replay import Replay
from semtag.scoring.embedder import Scorer
from semtag.scoring.finished import among
from semtag.store.locations import Place, uri
from semtag.store.parquet import count_rows

NONE = np.empty(0, dtype=np.int64)  # no ids
ROWS_PER_FILE = 4096  # at most: more would have a kill cost much


def sample_and_score(
    texts: Place,
    out: Place,
    config: Config,
    model: str,
    decodings: Sequence[Decoding],
    progress: Progress,
    finished: Place | None = None,
    done: np.ndarray = NONE,
    score: bool = True,
    last: bool = True,
) -> None:
    """Run the pipeline over a Parquet file of texts; writes rows of schema SAMPLED into `out`, one a text and decoding.

    Sampling and scoring stream: a batch is scored while the next ones are being sampled. With one decoding and a folder
    `finished`, the ids of the rows that `out` holds are committed there. Texts whose ids are among the sorted ones of
    `done` are left out. Without `score` nothing is embedded. Unless it is the `last` pass, texts whose engines died at
    one place alone get no row.
    """
    tally = begin(texts, [decoding.name for decoding in decodings], progress, finished, len(done))
    rows = sampled_rows(texts, config, model, decodings, tally, done=done, last=last)
    write_scored(rows, Scorer, {"scoring": config.scoring if score else None}, out, config, tally, progress)


def begin(texts: Place, names: list[str], progress: Progress, finished: Place | None = None, before: int = 0) -> Tally:
    """Begin to count, and say in which folder `finished` Ray commits ids, if any.

    Call it before a dataset is built, because Ray Data reads the checkpoint settings at that moment.
    """
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    if isinstance(texts, Path):
        check_shared(texts.parent)
    progress.begin(count_rows(texts) * len(names), before)
    # A new folder: over one with ids Ray would start actors to filter by them, which take CPUs that nobody counted, and
    # would delete rows that belong to a commit it finds half done.
    ray.data.DataContext.get_current().checkpoint_config = finished and CheckpointConfig(
        id_column="text_id", checkpoint_path=uri(finished / uuid.uuid4().hex), delete_checkpoint_on_success=False
    )
    return Tally(before)


def write_scored(
    rows: Any,
    scorer: type[Scorer],
    told: dict[str, Any],
    out: Place,
    config: Config,
    tally: Tally,
    progress: Progress,
) -> None:
    """Have actors of the class `scorer`, made with the arguments `told`, score the rows; write them into `out`."""
    rows = rows.map_batches(scorer, fn_constructor_kwargs=told | {"tally": tally}, **_scorer_pool(config))
    with tally.shown(progress):
        rows.write_parquet(uri(out), min_rows_per_file=rows_per_file(config.sampling.batch_size, progress.total or 0))


def rows_per_file(batch: int, total: int) -> int:
    """The least rows of a file: a batch's, or a thousandth of all, so that a kill costs little and files are few."""
    return max(batch, min(ROWS_PER_FILE, total // 1000))


def sampled_rows(
    texts: Place,
    config: Config,
    model: str,
    decodings: Sequence[Decoding],
    tally: Tally,
    actor: type[GuardedSampler] | None = None,
    done: np.ndarray = NONE,
    last: bool = True,
) -> Any:
    """The sampling part of the pipeline: a lazy Ray dataset of rows of schema SAMPLED, not scored yet."""
    rows = texts_to_answer(texts, config, [decoding.name for decoding in decodings], done)
    arguments: dict[str, Any] = {"config": config, "model": model, "tally": tally}
    if any(decoding.replay for decoding in decodings):
        return rows.map_batches(Replay, fn_constructor_kwargs=arguments, **_sampler_pool(config))
    arguments |= {"decodings": decodings, "suspects": shared_suspects(), "last": last}
    return rows.map_batches(actor or GuardedSampler, fn_constructor_kwargs=arguments, **_sampler_pool(config))


def texts_to_answer(texts: Place, config: Config, names: list[str], done: np.ndarray = NONE) -> Any:
    """A lazy Ray dataset with a row for each text not `done` and name of a decoding, in blocks of a batch."""
    import ray.data

    told = {"names": names, "done": ray.put(done)}  # once, and not with each batch
    return (
        ray.data.read_parquet(uri(texts))
        .map_batches(_with_decodings, fn_kwargs=told, batch_format="pyarrow")
        # The reader merges small text rows into one block; a block a batch keeps every actor busy.
        .repartition(target_num_rows_per_block=config.sampling.batch_size)
    )


def _sampler_pool(config: Config) -> dict[str, Any]:
    """Where and how the engines run: several batches in flight in each, or its batch would run dry at every end."""
    from ray.data import ActorPoolStrategy

    sampling = config.sampling
    in_flight = sampling.in_flight
    return {
        "batch_size": sampling.batch_size,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(
            min_size=sampling.actors,
            max_size=sampling.max_actors or sampling.actors,
            max_tasks_in_flight_per_actor=in_flight,
            max_concurrent_calls_per_actor=in_flight,
        ),
        "num_cpus": 1,
        "num_gpus": sampling.gpus,
        "accelerator_type": sampling.accelerator_type,
    }


def _scorer_pool(config: Config) -> dict[str, Any]:
    """Where and how the embedders run; a block of sampled rows is one call."""
    from ray.data import ActorPoolStrategy

    scoring = config.scoring
    return {
        "batch_size": None,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(min_size=scoring.actors, max_size=scoring.max_actors or scoring.actors),
        "num_cpus": 1,
        "num_gpus": scoring.gpus,
        "accelerator_type": scoring.accelerator_type,
    }


def _with_decodings(batch: pa.Table, names: list[str], done: Any) -> pa.Table:
    import ray

    batch = batch.filter(pa.array(~among(batch["text_id"].to_numpy(), ray.get(done))))
    rows = [row | {"decoding": name} for row in batch.to_pylist() for name in names]
    return pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))
