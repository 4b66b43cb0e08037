"""The evaluate stage: base, tuned model and other arms tag the held-out texts; figures, gates, uses, and the report."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import stage_main, versions
from semtag.configs.schema import Config
from semtag.evaluation.corpus import KEYPHRASES, Arm, Corpus, arms_of, choose_texts, read_corpus, write_corpus
from semtag.evaluation.documents import directions_of
from semtag.evaluation.downstream import downstream
from semtag.evaluation.embedding import Embedding
from semtag.evaluation.estimates import REFERENCE, compare, compare_arms, examples
from semtag.evaluation.extractors import extract_and_score
from semtag.evaluation.gates import independent
from semtag.evaluation.measures import measure
from semtag.evaluation.report import write_pages
from semtag.evaluation.terminal import REPORT_SCHEMA
from semtag.scoring.pipeline import sample_and_score
from semtag.store.layout import Step
from semtag.store.locations import Place
from semtag.store.manifest import StepCounts
from semtag.store.parquet import count_rows, read_tables
from semtag.store.rounds import base_of, delivered_round, start_of, trained_rounds, validation
from semtag.store.run_dir import RunDir


def evaluate(run: RunDir, config: Config, progress: Progress) -> StepCounts:
    """Held-out texts -> evaluation/: answers, report.json, report.html and its pictures; returns the headline."""
    delivered = delivered_round(run)
    arms = arms_of(config, [number for number in trained_rounds(run) if number != delivered])
    with run.shared_temporary_folder("answers") as scratch:
        texts = scratch / "texts.parquet"
        count = choose_texts(run.layout.held_out, texts, config.evaluation.max_texts, config.run.seed)
        # A session for each engine, because its end is what frees the GPU for certain.
        for model in dict.fromkeys(arm.model for arm in arms if arm.decoding):
            with ray_session(config):
                _answer(run, config, scratch, model, [arm for arm in arms if arm.model == model], progress)
        with ray_session(config):
            if keyphrases := [arm for arm in arms if not arm.decoding]:
                _answer(run, config, scratch, KEYPHRASES, keyphrases, progress)
            corpus = read_corpus(scratch, arms)
            report = build_report(run, config, corpus, arms, progress)
    with run.replace_folder(run.layout.evaluation) as folder:
        write_corpus(corpus, folder / run.layout.answers.name)
        (folder / run.layout.report.name).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_pages(report, folder)
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    for gate in failed:  # evaluation.strict makes it the command's exit status
        progress.say(f"gate failed: {gate['name']}: {gate['why']}")
    formed = {arm["name"]: arm["well_formed"]["value"] for arm in report["arms"]}
    return {"held_out": count, "delivered_round": delivered, "base_well_formed": formed["base"],
            "tuned_well_formed": formed["tuned"], "gates_failed": len(failed)}  # fmt: skip


def _answer(run: RunDir, config: Config, scratch: Place, model: str, arms: list[Arm], progress: Progress) -> None:
    """Have the arms of one model tag the chosen texts, into the folder of `scratch` that bears the model's name."""
    texts, decodings = scratch / "texts.parquet", [arm.decoding for arm in arms if arm.decoding]
    names = ", ".join(arm.name for arm in arms).replace("_", " ")
    progress.say(f"{names} tag {count_rows(texts):,} held-out texts")
    if model == KEYPHRASES:
        extract_and_score(texts, scratch / model, config, [arm.name for arm in arms], progress)
        return
    sample_and_score(texts, scratch / model, config, weights_place(run, config, model), decodings, progress)


def weights_place(run: RunDir, config: Config, model: str) -> str:
    """Where an arm's model lies."""
    if model == "base":
        return base_of(config)
    number = delivered_round(run) if model == "tuned" else int(model.removeprefix("round_"))
    return start_of(run, config, number + 1)


def build_report(run: RunDir, config: Config, corpus: Corpus, arms: list[Arm], progress: Progress) -> dict[str, Any]:
    """All that report.html shows. Needs a running Ray, for embeddings."""
    evaluation, seed, delivered = config.evaluation, config.run.seed, run.layout.round(delivered_round(run))
    embed = directions_of(Embedding(config.scoring))  # each string once, for arms and tasks
    second = None
    if evaluation.second_model:
        second = directions_of(Embedding(config.scoring.model_copy(update={"model": evaluation.second_model})))
    progress.say(f"comparing {len(arms)} arms")
    measured = {arm.name: measure(corpus.texts, corpus.answers[arm.name], second) for arm in arms}
    compared = compare_arms(corpus, arms, measured, evaluation, seed, embed)
    progress.say("putting the tags to use: search, classification, topics, where the texts have what it takes")
    return {
        "schema": REPORT_SCHEMA,
        "run": config.run.name,
        "held_out_texts": len(corpus.texts),
        **compare(corpus, evaluation.resamples, seed),
        "reference_arm": REFERENCE,
        "arms": compared,
        **independent(corpus, measured, evaluation, seed),
        "downstream": downstream(corpus, evaluation, seed, embed),
        "examples": examples(corpus, evaluation.examples),
        "margins": margins(delivered.pairs),
        "curve": json.loads((delivered.adapter / "curve.json").read_text(encoding="utf-8")),
        "rounds": _rounds(run, config),
        "ledger": run.ledger().as_json(),
        "stages": run.manifest().as_json()["steps"],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }


def _rounds(run: RunDir, config: Config) -> list[dict[str, Any]]:
    """A line a round: what it learnt from, how its loss went, and what its validation found."""
    lines = []
    for number in trained_rounds(run):
        training = config.of_round(number).training
        counts = run.counts(Step("train", number))
        lines.append(
            {
                "round": number,
                "loss": training.loss,
                "beta": training.beta,
                "learns_from": f"{counts[training.rows]:,} {training.rows}",
                "steps": counts["steps"],
                "references": counts.get("references", {}),
                "validation": validation(run, number) or None,
            }
        )
    return lines


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
    stage_main("evaluate", lambda run, config, progress, _: evaluate(run, config, progress))
