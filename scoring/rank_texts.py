"""The streaming pipeline: texts -> prompts -> candidates -> tags -> scores -> ranked lists."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.layout import Step
from cluster.parquet import PartWriter, RowWriter, count_rows, count_values, read_tables
from cluster.places import Place, uri
from cluster.progress import Progress
from cluster.rounds import start_of
from cluster.run_dir import RunDir, check_rejected
from cluster.session import Tally, ray_session
from cluster.stage import stage_main
from configs.errors import UserError
from configs.schema import Config
from generation.base_model import check_base
from generation.decoding import Decoding, candidates
from generation.guard import GuardedSampler, shared_suspects
from generation.prompts import load_tokenizer
from generation.records import REJECT, TEXT
from generation.replay import Replay
from scoring.embedder import Scorer
from scoring.finished import TextIds, finish
from scoring.keyphrases import KeyphraseScorer
from scoring.records import RANKED


def sample_and_score(
    texts: Place,
    out: Place,
    config: Config,
    model: str,
    decodings: Sequence[Decoding],
    progress: Progress,
    finished: Place | None = None,
    score: bool = True,
) -> None:
    """Run the pipeline over a Parquet file of texts; writes rows of schema SAMPLED into `out`, one a text and decoding.

    Sampling and scoring stream: a batch is scored while the next ones are being sampled. With one decoding and a folder
    `finished`, the ids of the rows that `out` holds are kept there, and a later call does only what is left. Without
    `score` nothing is embedded.
    """
    tally = _begin(texts, [decoding.name for decoding in decodings], progress, finished)
    rows = sampled_rows(texts, config, model, decodings, tally)
    _write_scored(rows, Scorer, {"scoring": config.scoring if score else None}, out, config, tally, progress)


def extract_and_score(texts: Place, out: Place, config: Config, names: list[str], progress: Progress) -> None:
    """As `sample_and_score`, with tags that no language model wrote; `names` say which."""
    tally = _begin(texts, names, progress, None)
    rows = texts_to_answer(texts, config, names)
    _write_scored(rows, KeyphraseScorer, {"config": config}, out, config, tally, progress)


def _begin(texts: Place, names: list[str], progress: Progress, finished: Place | None) -> Tally:
    """Before any row is read, since a dataset is bound to the checkpoint that was set when it was made."""
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    before = count_finished(finished) if finished else 0
    progress.begin(count_rows(texts) * len(names), before)
    ray.data.DataContext.get_current().checkpoint_config = finished and CheckpointConfig(
        id_column="text_id", checkpoint_path=uri(finished), delete_checkpoint_on_success=False
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
        rows.write_parquet(uri(out))


def sampled_rows(
    texts: Place,
    config: Config,
    model: str,
    decodings: Sequence[Decoding],
    tally: Tally,
    actor: type[GuardedSampler] = GuardedSampler,
) -> Any:
    """The sampling part of the pipeline: a lazy Ray dataset of rows of schema SAMPLED, not scored yet."""
    rows = texts_to_answer(texts, config, [decoding.name for decoding in decodings])
    arguments: dict[str, Any] = {"config": config, "model": model, "tally": tally}
    if any(decoding.replay for decoding in decodings):
        return rows.map_batches(Replay, fn_constructor_kwargs=arguments, **_sampler_pool(config))
    arguments |= {"decodings": decodings, "suspects": shared_suspects()}
    return rows.map_batches(actor, fn_constructor_kwargs=arguments, **_sampler_pool(config))


def texts_to_answer(texts: Place, config: Config, names: list[str]) -> Any:
    """A lazy Ray dataset with a row for each text and name of a decoding, in blocks of a batch."""
    import ray.data

    return (
        ray.data.read_parquet(uri(texts))
        .map_batches(_with_decodings, fn_kwargs={"names": names}, batch_format="pyarrow")
        # The reader merges small text rows into one block; a block a batch keeps every actor busy.
        .repartition(target_num_rows_per_block=config.sampling.batch_size)
    )


def count_finished(finished: Place) -> int:
    """Number of rows whose ids were committed; an id is pending while its row is being written."""
    files = (file for file in finished.glob("*.parquet") if not file.name.endswith(".pending.parquet"))
    return sum(map(count_rows, files))


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
    load_tokenizer(model, config.model)  # a wrong path shows here, before anything starts
    check_base(model, run.config(), number)
    decoding = candidates(config, first_round=number == 1)
    progress.say(_plan(config, model, decoding))
    texts = run.layout.train_texts(number, config.rounds.texts == "reuse")
    total, before = count_rows(texts), count_finished(layout.sampled_ids)
    if before:
        progress.say(f"{before:,} of {total:,} texts were done before and are kept")

    def sample() -> None:
        with ray_session(config):
            sample_and_score(texts, layout.sampled, config, model, [decoding], progress, layout.sampled_ids)

    files, expected = finish(texts, layout.sampled, layout.sampled_ids, progress, sample), TextIds(texts)
    with run.writing(layout.ranked) as ranked, run.writing(layout.rejects) as rejects:
        counts = _split(files, expected, ranked, rejects)
        _check_counts(counts, expected, progress)
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
    }


def _plan(config: Config, model: str, decoding: Decoding) -> str:
    if decoding.replay:
        return f"reading candidates from column '{config.sampling.candidates}'"
    how = f", after {len(decoding.examples)} examples" if decoding.examples else ", by the plain prompt"
    grammar = ", within the grammar" if decoding.pattern else ""
    return f"sampling {decoding.samples} candidates a text from {model}{how}{grammar}"


def _with_decodings(batch: pa.Table, names: list[str]) -> pa.Table:
    rows = [row | {"decoding": name} for row in batch.to_pylist() for name in names]
    return pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))


def _split(files: list[Place], expected: TextIds, ranked: Path, rejects: Path) -> dict[str, Any]:
    """Part the pipeline's rows into ranked lists and rejects, one of them for each text, counting."""
    counts: dict[str, Any] = {"texts": 0, "ranked": 0, "scored": 0, "score_sum": 0.0}
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
    if not counts["ranked"]:
        raise UserError(
            f"None of the {counts['texts']} texts could be sampled: {dict(counts['rejects'])}.",
            "See the round's rejects/; for too_long, raise sampling.max_model_len or lower sampling.max_tokens.",
        )


if __name__ == "__main__":
    stage_main("rank", rank)
