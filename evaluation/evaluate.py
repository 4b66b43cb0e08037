"""The evaluate stage: base, tuned model and other arms tag the held-out texts; figures, gates, uses, and the report."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cluster.parquet import count_rows, read_tables
from cluster.places import Place, uri
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.session import ray_session
from cluster.stage import stage_main, versions
from configs.schema import Config
from evaluation.arms import REFERENCE, compare_arms
from evaluation.corpus import Arm, Corpus, arms_of, best_examples, choose_texts, read_corpus, write_corpus
from evaluation.documents import directions_of
from evaluation.downstream import downstream
from evaluation.embedding import Embedding
from evaluation.gates import independent, measure
from evaluation.metrics import compare, examples
from evaluation.report import SCHEMA_VERSION, write_pages
from scoring.rank_texts import base_model, extract_and_score, sample_and_score

DECODINGS = ["sampled", "greedy"]
HEADLINE = "sampled"  # what the published experiment measured, and how a tagger is tuned


def evaluate(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Held-out texts -> evaluation/: answers, report.json, report.html and its pictures; returns the headline."""
    arms = arms_of(config.evaluation)
    with run.shared_scratch("answers") as scratch:
        held_out, texts = run.path / "texts" / "held_out.parquet", scratch / "texts.parquet"
        count = choose_texts(held_out, texts, config.evaluation.max_texts, config.run.seed)
        for model in dict.fromkeys(arm.model for arm in arms):
            # An engine a model: a batch that mixed base and adapter requests would answer all with the adapter.
            with ray_session(config):
                _answer(run, config, scratch, model, [arm for arm in arms if arm.model == model], progress)
        corpus = read_corpus(scratch, arms)
    with run.writing("evaluation") as folder, ray_session(config):
        report = build_report(run, config, corpus, arms, progress)
        write_corpus(corpus, folder / "answers.parquet")
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_pages(report, folder)
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    for gate in failed:  # evaluation.strict makes it the command's exit status
        progress.say(f"gate failed: {gate['name']}: {gate['why']}")
    headline = report["decodings"][HEADLINE]["format_rate"]
    return {"held_out": count, "base_well_formed": headline["base"]["value"],
            "tuned_well_formed": headline["tuned"]["value"], "gates_failed": len(failed)}  # fmt: skip


def _answer(run: RunDir, config: Config, scratch: Place, model: str, arms: list[Arm], progress: Progress) -> None:
    """Have the arms of one model tag the chosen texts, into the folder of `scratch` that bears the model's name."""
    texts, decodings = scratch / "texts.parquet", [arm.decoding for arm in arms]
    count = count_rows(texts)
    if model == "keyphrases":
        progress.say(f"{', '.join(decodings)} tag {count:,} held-out texts".replace("_", " "))
        extract_and_score(texts, scratch / model, config, decodings, progress)
        return
    progress.say(f"the {model} model answers {count:,} held-out texts, {', '.join(decodings)}".replace("_", " "))
    one_sample = config.model_copy(update={"sampling": config.sampling.model_copy(update={"samples": 1})})
    adapter = uri(run.path / "model") if model == "tuned" else None
    shown = best_examples(run.path / "ranked", config.evaluation.shots) if "few_shot" in decodings else []
    sample_and_score(
        texts, scratch / model, one_sample, base_model(run, config), adapter, decodings, progress, examples=shown
    )


def build_report(run: RunDir, config: Config, corpus: Corpus, arms: list[Arm], progress: Progress) -> dict[str, Any]:
    """All that report.html shows. Needs a running Ray, for embeddings."""
    evaluation, seed = config.evaluation, config.run.seed
    embed = directions_of(Embedding(config.scoring))  # each string once, for arms and tasks
    second = None
    if evaluation.second_model:
        second = directions_of(Embedding(config.scoring.model_copy(update={"model": evaluation.second_model})))
    per_decoding = {decoding: corpus.both(decoding) for decoding in DECODINGS}
    decodings = {name: compare(both, evaluation.resamples, seed) for name, both in per_decoding.items()}
    headline = per_decoding[HEADLINE]
    others = {arm.name: corpus.answers[arm.name] for arm in arms if arm.name not in ("base", "tuned")}
    progress.say(f"comparing {len(arms)} arms")
    measured = {arm.name: measure(corpus.texts, corpus.answers[arm.name], second) for arm in arms}
    compared = compare_arms(corpus, arms, measured, evaluation, seed, embed)
    progress.say("putting the tags to use: search, classification, topics, where the texts have what it takes")
    return {
        "schema": SCHEMA_VERSION,
        "run": config.run.name,
        "held_out_texts": len(corpus.texts),
        "headline": HEADLINE,
        "format_rate": decodings[HEADLINE]["format_rate"],
        "similarity": decodings[HEADLINE]["similarity"],
        "reference_arm": REFERENCE,
        "arms": compared,
        **independent(headline, measured, evaluation, seed),
        "downstream": downstream(corpus, evaluation, seed, embed),
        "decodings": decodings,
        "differences": [round(float(one), 4) for one in headline.scores("tuned") - headline.scores("base")],
        "examples": examples(headline, evaluation.examples, others),
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


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
