"""The evaluate stage: both models answer the held-out texts, greedily and at the sampling temperature."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cluster.parquet import RowWriter, count_rows, read_rows, read_tables
from cluster.places import Place, uri
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.session import ray_session
from cluster.stage import stage_main, versions
from configs.errors import UserError
from configs.schema import Config
from evaluation.gates import independent
from evaluation.metrics import Answers, compare, examples
from evaluation.report import SCHEMA_VERSION, write_pages
from generation.records import TEXT
from generation.texts import hash64
from scoring.rank_texts import base_model, sample_and_score

DECODINGS = ["sampled", "greedy"]
ARMS = ("base", "tuned")
HEADLINE = "sampled"  # what the published experiment measured, and how a tagger is tuned


def evaluate(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Held-out texts -> evaluation/: answers, report.json, report.html and its pictures; returns the headline."""
    one_sample = config.model_copy(update={"sampling": config.sampling.model_copy(update={"samples": 1})})
    with run.shared_scratch("answers") as scratch:
        texts = scratch / "texts.parquet"
        count = _choose_texts(run.path / "texts" / "held_out.parquet", texts, config)
        for arm in ARMS:
            progress.say(f"the {arm} model answers {count:,} held-out texts, {' and '.join(DECODINGS)}")
            adapter = uri(run.path / "model") if arm == "tuned" else None
            # An engine a model: a batch that mixed base and adapter requests would answer all with the adapter.
            with ray_session(config):
                sample_and_score(
                    texts, scratch / arm, one_sample, base_model(run, config), adapter, DECODINGS, progress
                )
        report = build_report(run, config, scratch)
    with run.writing("evaluation") as folder:
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_pages(report, folder)
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    for gate in failed:
        progress.say(f"gate failed: {gate['name']}: {gate['why']}")
    if failed and config.evaluation.strict:
        raise UserError(
            f"{len(failed)} of {len(report['gates'])} gates failed: {', '.join(gate['name'] for gate in failed)}.",
            f"See {run.path / 'evaluation' / 'report.html'}; evaluation.strict=false ends well all the same.",
        )
    headline = report["decodings"][HEADLINE]["format_rate"]
    return {"held_out": report["held_out_texts"], "base_well_formed": headline["base"]["value"],
            "tuned_well_formed": headline["tuned"]["value"], "gates_failed": len(failed)}  # fmt: skip


def build_report(run: RunDir, config: Config, answers: Place) -> dict[str, Any]:
    """All that report.html shows, from the answers of both arms."""
    arms = {arm: _by_text(answers / arm) for arm in ARMS}
    shared = sorted(arms["base"].keys() & arms["tuned"].keys())
    if not shared:
        raise UserError("No held-out text could be answered by both models.", "See the log; shorten the texts.")
    per_decoding = {decoding: _answers(arms, shared, decoding) for decoding in DECODINGS}
    evaluation, seed = config.evaluation, config.run.seed
    decodings = {name: compare(both, evaluation.resamples, seed) for name, both in per_decoding.items()}
    return {
        "schema": SCHEMA_VERSION,
        "run": config.run.name,
        "held_out_texts": len(shared),
        "headline": HEADLINE,
        "format_rate": decodings[HEADLINE]["format_rate"],
        "similarity": decodings[HEADLINE]["similarity"],
        **independent(per_decoding[HEADLINE], evaluation, seed),
        "decodings": decodings,
        "examples": examples(per_decoding[HEADLINE], evaluation.examples),
        "margins": margins(run.path / "pairs"),
        "curve": json.loads((run.path / "model" / "curve.json").read_text(encoding="utf-8")),
        "ledger": run.ledger(),
        "stages": run.manifest()["stages"],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }


def margins(pairs: Place, bins: int = 30) -> dict[str, Any]:
    """Histogram of the similarity pairs' score gaps, and the number of format pairs, which have none."""

    def gaps() -> Iterator[np.ndarray]:
        for table in read_tables(pairs, ["margin"]):
            yield pc.drop_null(table["margin"].combine_chunks()).to_numpy(zero_copy_only=False)

    largest = max((float(part.max()) for part in gaps() if len(part)), default=0.0)
    edges = np.linspace(0, largest or 1.0, bins + 1)
    counts = sum((np.histogram(part, edges)[0] for part in gaps()), np.zeros(bins, dtype=int))
    return {"edges": edges.tolist(), "counts": counts.tolist(), "format": count_rows(pairs) - int(counts.sum())}


def _choose_texts(held_out: Place, chosen: Place, config: Config) -> int:
    """Write the held-out texts to answer: all, or `max_texts` of them by hash."""
    ids = np.fromiter((row["text_id"] for row in read_rows(held_out, ["text_id"])), dtype=np.int64)
    if not len(ids):
        raise UserError("No text is held out, so there is nothing to evaluate on.", "Raise data.held_out.")
    hashes = np.fromiter((hash64("evaluate", config.run.seed, id_) for id_ in ids.tolist()), dtype=np.int64)
    most = config.evaluation.max_texts or len(ids)
    kept = set(ids[np.argsort(hashes)[:most]].tolist())
    with RowWriter(chosen, TEXT) as out:
        for row in read_rows(held_out):
            if row["text_id"] in kept:
                out.write(row)
    return len(kept)


def _by_text(folder: Place) -> dict[int, dict[str, Any]]:
    """text_id -> {text, decoding: answer}, for the texts that were answered in every decoding."""
    found: dict[int, dict[str, Any]] = {}
    for row in read_rows(folder):
        if row["candidates"]:
            found.setdefault(row["text_id"], {"text": row["text"]})[row["decoding"]] = row["candidates"][0]
    return {id_: answers for id_, answers in found.items() if all(decoding in answers for decoding in DECODINGS)}


def _answers(arms: dict[str, dict[int, dict[str, Any]]], shared: list[int], decoding: str) -> Answers:
    return Answers(
        texts=[arms["base"][id_]["text"] for id_ in shared],
        base=[arms["base"][id_][decoding] for id_ in shared],
        tuned=[arms["tuned"][id_][decoding] for id_ in shared],
    )


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
