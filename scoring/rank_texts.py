"""The streaming pipeline: texts -> prompts -> candidates -> tags -> scores -> ranked lists."""

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.layout import Step
from cluster.parquet import PartWriter, RowWriter, count_rows, count_values, read_tables
from cluster.places import Place, uri
from cluster.progress import Progress
from cluster.rounds import start_of
from cluster.run_dir import RunDir, check_rejected
from cluster.session import Tally, ray_session
from cluster.shared import check_shared
from cluster.stage import stage_main
from configs.errors import UserError
from configs.schema import Config
from generation.decoding import Decoding, candidates
from generation.guard import GuardedSampler, shared_suspects
from generation.preflight import check_base, check_model
from generation.prompts import spellings_of
from generation.records import REJECT, TEXT
from generation.replay import Replay
from scoring.embedder import Scorer
from scoring.finished import TextIds, among, finish
from scoring.keyphrases import KeyphraseScorer
from scoring.records import RANKED

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
    tally = _begin(texts, [decoding.name for decoding in decodings], progress, finished, len(done))
    rows = sampled_rows(texts, config, model, decodings, tally, done=done, last=last)
    _write_scored(rows, Scorer, {"scoring": config.scoring if score else None}, out, config, tally, progress)


def extract_and_score(texts: Place, out: Place, config: Config, names: list[str], progress: Progress) -> None:
    """As `sample_and_score`, with tags that no language model wrote; `names` say which."""
    tally = _begin(texts, names, progress)
    rows = texts_to_answer(texts, config, names)
    _write_scored(rows, KeyphraseScorer, {"config": config}, out, config, tally, progress)


def _begin(texts: Place, names: list[str], progress: Progress, finished: Place | None = None, before: int = 0) -> Tally:
    """Before any row is read, since a dataset is bound to the checkpoint that was set when it was made."""
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


def _write_scored(
    rows: Any,
    scorer: type[Scorer],
    told: dict[str, Any],
    out: Place,
    config: Config,
    tally: Tally,
    progress: Progress,
) -> None:
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


def rank(run: RunDir, config: Config, progress: Progress, number: int) -> dict[str, Any]:
    """The rank stage of a round: its texts -> ranked/ and rejects/; returns the counts."""
    model, step, layout = start_of(run, config, number), Step("rank", number), run.layout.round(number)
    decoding = candidates(config, first_round=number == 1)
    tokenizer = check_model(model, config, served=not decoding.replay)
    check_base(model, run.config(), number)
    progress.say(_plan(config, model, decoding))
    texts = run.layout.train_texts(number, config.rounds.texts == "reuse")
    total = count_rows(texts)

    def sample(done: np.ndarray, last: bool) -> None:
        if len(done):
            progress.say(f"{len(done):,} of {total:,} texts were done before and are kept")
        ids = layout.sampled_ids
        with ray_session(config):
            sample_and_score(texts, layout.sampled, config, model, [decoding], progress, ids, done, last=last)

    def part(files: list[Place]) -> dict[str, Any]:
        expected = TextIds(texts)
        with run.writing(layout.ranked) as ranked, run.writing(layout.rejects) as rejects:
            counts = _split(files, expected, ranked, rejects)
            _check_counts(counts, expected, progress)
        return counts

    counts = finish(texts, layout.sampled, layout.sampled_ids, progress, sample, part)
    check_rejected(counts["rejects"], total, config, layout.rejects)
    formats, reasons = counts["formats"], counts["invalid"]
    run.record(step, "texts", counts["texts"], counts["ranked"], dict(counts["rejects"]))
    run.record(step, "candidates", formats.total(), formats["valid"] + formats["repaired"], dict(reasons))
    return {
        "texts": counts["texts"],
        "ranked": counts["ranked"],
        "rejects": dict(counts["rejects"]),
        "formats": dict(formats),
        "mean_score": round(counts["score_sum"] / max(1, counts["scored"]), 4),
        **({"cut_when_scored": counts["cut"]} if counts["cut"] else {}),
        "broken_spellings": spellings_of(tokenizer),  # so no text opens a turn of its own, by prompts.broken
    }


def _plan(config: Config, model: str, decoding: Decoding) -> str:
    if decoding.replay:
        return f"reading candidates from column '{config.sampling.candidates}'"
    how = f", after {len(decoding.examples)} examples" if decoding.examples else ", by the plain prompt"
    grammar = ", within the grammar" if decoding.pattern else ""
    return f"sampling {decoding.samples} candidates a text from {model}{how}{grammar}"


def _with_decodings(batch: pa.Table, names: list[str], done: Any) -> pa.Table:
    import ray

    batch = batch.filter(pa.array(~among(batch["text_id"].to_numpy(), ray.get(done))))
    rows = [row | {"decoding": name} for row in batch.to_pylist() for name in names]
    return pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))


def _split(files: list[Place], expected: TextIds, ranked: Path, rejects: Path) -> dict[str, Any]:
    """Part the pipeline's rows into ranked lists and rejects, one of them for each text, counting."""
    counts: dict[str, Any] = {"texts": 0, "ranked": 0, "scored": 0, "score_sum": 0.0, "cut": 0}
    counts |= {"rejects": Counter(), "formats": Counter(), "invalid": Counter()}
    with PartWriter(ranked, RANKED) as good, RowWriter(rejects / "rows.parquet", REJECT) as bad:
        for table in read_tables(files):
            table = table.filter(expected.take(table["text_id"].to_numpy()))
            counts["texts"] += len(table)
            rejected = pc.is_valid(table["reason"])
            for row in table.filter(rejected).to_pylist():
                counts["rejects"][row["reason"]] += 1
                bad.write(_reject(row))
            kept = table.filter(pc.invert(rejected))
            good.write(kept)
            counts["cut"] += pc.sum(kept["cut"], min_count=0).as_py()
            _count_candidates(kept["candidates"].combine_chunks().flatten(), counts)
    counts["ranked"] = good.rows
    return counts


def _count_candidates(candidates: pa.StructArray, counts: dict[str, Any]) -> None:
    formats, scores = candidates.field("format"), pc.drop_null(candidates.field("score"))
    counts["formats"] += count_values(formats)
    counts["invalid"] += count_values(candidates.field("reason").filter(pc.equal(formats, "invalid")))
    counts["scored"] += len(scores)
    counts["score_sum"] += pc.sum(scores, min_count=0).as_py()


def _reject(row: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps({name: row[name] for name in TEXT.names}, ensure_ascii=True)
    return {"stage": "rank", "reason": row["reason"], "detail": row["detail"], "row": content}


def _check_counts(counts: dict[str, Any], expected: TextIds, progress: Progress) -> None:
    if left := expected.left():
        raise RuntimeError(f"{left} texts have no row")
    if expected.repeated or expected.unknown:
        progress.say(
            f"left out: {expected.repeated:,} rows of texts that have one, {expected.unknown:,} rows of no text here"
        )
    if counts["cut"]:
        progress.say(
            f"warning: {counts['cut']:,} texts are longer than the scoring model reads: scored by their beginnings"
        )
    if not counts["ranked"]:
        raise UserError(
            f"None of the {counts['texts']} texts could be sampled: {dict(counts['rejects'])}.",
            "See the round's rejects/; for too_long, raise sampling.max_model_len or lower sampling.max_tokens.",
        )


if __name__ == "__main__":
    stage_main("rank", rank)
