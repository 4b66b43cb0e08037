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
from semtag.configs.errors import UserError
from semtag.configs.schema import Budget, Config
from semtag.generation.decoding import Decoding
from semtag.generation.endpoint import Endpoint
from semtag.generation.engine_guard import GuardedSampler, shared_crash_counts
from semtag.generation.records import TEXT
from semtag.generation.replay import Replay
from semtag.scoring.criteria import own_scorers
from semtag.scoring.finished import among
from semtag.scoring.scorer import Scorer
from semtag.store.locations import Place, uri
from semtag.store.parquet import count_rows

NONE = np.empty(0, dtype=np.int64)  # no ids
ROWS_PER_FILE = 4096  # upper limit, because a kill loses the rows of unfinished files


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
    """Run the pipeline over a Parquet file of texts; write a row of schema SAMPLED into `out` per text and decoding.

    Sampling and scoring stream: a batch is scored while later batches are sampled. With one decoding and a folder
    `finished`, Ray commits the ids of the rows of `out` to `finished`. Texts with an id in the sorted `done` are left
    out. Without `score` no text is embedded. Unless this is the `last` pass, a text whose engines died at only one slot
    gets no row. Raises UserError when sampling.budget is used up.
    """
    tally = begin(texts, [decoding.name for decoding in decodings], progress, finished, len(done))
    rows = sampled_rows(texts, config, model, decodings, tally, done=done, last=last)
    score_and_write(rows, out, config, tally, progress, score)
    if any(decoding.engine == "openai" for decoding in decodings):
        _check_budget(tally, config.sampling.budget, progress)


def score_and_write(
    rows: Any, out: Place, config: Config, tally: Tally, progress: Progress, score: bool = True
) -> None:
    """Score the rows by the config's scorers, and write the rows into `out`; without `score` they are only written."""
    told = {"scoring": config.scoring, "own": own_scorers(config.scoring)} if score else {"scoring": None}
    write_scored(rows, Scorer, told, out, config, tally, progress)


def _check_budget(tally: Tally, budget: Budget, progress: Progress) -> None:
    """Check that no text was left out because the budget had no room for it. Raises UserError."""
    if budget.tokens is None and budget.cost is None:
        return
    total = tally.total()
    left = (progress.total or 0) - total.texts
    if left > 0:
        cost = f" for {budget.cost_of(total.read, total.written):,.2f}" if budget.cost is not None else ""
        raise UserError(
            f"sampling.budget is used up: {total.read:,} tokens were read and {total.written:,} written{cost}. "
            f"{left:,} texts have no candidates yet; what was bought is kept.",
            "The same command goes on, with the same budget again; sampling.budget.tokens=... changes it.",
        )


def begin(texts: Place, names: list[str], progress: Progress, finished: Place | None = None, before: int = 0) -> Tally:
    """Start the progress, and set the folder `finished` to which Ray commits ids, if any; return the tally.

    Call this before a dataset is built, because Ray Data reads the checkpoint settings at that moment.
    """
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    if isinstance(texts, Path):
        check_shared(texts.parent)
    progress.begin(count_rows(texts) * len(names), before)
    # Use a new folder. For a folder with ids Ray starts filter actors, but Semtag reserves no CPUs for such actors. Ray
    # also deletes the rows of a half-done commit.
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
    """Score the rows with actors of the class `scorer`, made with the arguments `told`; write the rows into `out`."""
    rows = rows.map_batches(scorer, fn_constructor_kwargs=told | {"tally": tally}, **_scorer_pool(config))
    with tally.shown(progress):
        rows.write_parquet(uri(out), min_rows_per_file=rows_per_file(config.sampling.batch_size, progress.total or 0))


def rows_per_file(batch: int, total: int) -> int:
    """Return the least rows of a file: a batch, or a thousandth of `total` up to ROWS_PER_FILE.

    A kill costs few rows, because files are small. Large runs get few files, because files grow with `total`.
    """
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
    """Build the sampling part of the pipeline: a lazy Ray dataset of unscored rows of schema SAMPLED."""
    rows = texts_to_answer(texts, config, [decoding.name for decoding in decodings], done)
    arguments: dict[str, Any] = {"config": config, "model": model, "tally": tally}
    [engine] = {decoding.engine for decoding in decodings}
    if engine == "replay":
        return rows.map_batches(Replay, fn_constructor_kwargs=arguments, **_sampler_pool(config))
    arguments["decodings"] = decodings
    if engine == "openai":
        return rows.map_batches(Endpoint, fn_constructor_kwargs=arguments, **_sampler_pool(config) | {"num_gpus": 0})
    arguments |= {"crash_counts": shared_crash_counts(), "last": last}
    return rows.map_batches(actor or GuardedSampler, fn_constructor_kwargs=arguments, **_sampler_pool(config))


def texts_to_answer(texts: Place, config: Config, names: list[str], done: np.ndarray = NONE) -> Any:
    """Build a lazy Ray dataset with a row per text and decoding name, in blocks of a batch, without texts in `done`."""
    import ray.data

    told = {"names": names, "done": ray.put(done)}  # sent once, not with each batch
    return (
        ray.data.read_parquet(uri(texts))
        .map_batches(_with_decodings, fn_kwargs=told, batch_format="pyarrow")
        # The reader merges small rows into one block. A block per batch keeps every actor busy.
        .repartition(target_num_rows_per_block=config.sampling.batch_size)
    )


def _sampler_pool(config: Config) -> dict[str, Any]:
    """Return the arguments of `map_batches` for engines.

    Several Ray batches are in flight per engine, so that vLLM's own batch stays full when one Ray batch ends.
    """
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
    """Return the arguments of `map_batches` for embedders. An embedder gets one block of sampled rows per call."""
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
