"""The records of the report, from what was measured and from what the run keeps."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from semtag.cluster.stage_process import versions
from semtag.configs.schema import Config
from semtag.evaluation.answers import Answer, Corpus
from semtag.evaluation.arms import BASE, CUT, TUNED, Arm
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.estimates import Planned, contrasts, estimate
from semtag.evaluation.gates import gate_results
from semtag.evaluation.report import records
from semtag.evaluation.rows import Rows
from semtag.evaluation.tasks.uses import Uses
from semtag.store.layout import Step
from semtag.store.locations import Place
from semtag.store.parquet import count_rows, read_tables
from semtag.store.rounds import delivered_round, trained_rounds, validation
from semtag.store.run_dir import RunDir

FREQUENT = 15  # tags that the report names of each arm
SHOWN = 200  # letters of a text in the page's list of all texts
BINS = 30  # of the histogram of margins


class Measured(NamedTuple):
    """What was measured, and the contrasts that were planned. `answers` are those at equal words."""

    corpus: Corpus
    arms: list[Arm]
    answers: dict[str, list[Answer]]
    judge: Judge
    used: Uses
    rows: Rows
    planned: list[Planned]


def build_report(run: RunDir, config: Config, measured: Measured) -> records.Report:
    """Build the report."""
    corpus, answers, rows, evaluation = measured.corpus, measured.answers, measured.rows, config.evaluation
    delivered = run.layout.round(delivered_round(run))
    stages = run.manifest().steps.items()
    return records.Report(
        run=config.run.name,
        held_out_texts=len(corpus.texts),
        resampled="articles" if corpus.by_article else "texts",
        judge=records.Judge(model=measured.judge.model, trained_for=measured.judge.trained_for),
        arms=[_arm_figures(arm, answers[arm.name], rows) for arm in measured.arms],
        contrasts=contrasts(rows, measured.planned, evaluation.resamples, config.run.seed),
        gates=gate_results(rows),
        uses=_uses(rows),
        classification=measured.used.classification,
        topics=measured.used.topics,
        examples=_examples(corpus, evaluation.examples),
        rows=[
            records.Row(text=text[:SHOWN], base=list(base), tuned=list(tuned))
            for text, base, tuned in zip(corpus.texts, corpus.tags(BASE), corpus.tags(TUNED), strict=True)
        ],
        similarities={arm: _similarities(answers[arm]) for arm in (BASE, TUNED)},
        margins=margins(delivered.pairs),
        curve=json.loads((delivered.adapter / "curve.json").read_text(encoding="utf-8")),
        rounds=[_round_line(run, config, number) for number in trained_rounds(run)],
        ledger=run.ledger().as_json(),
        weights={name: _weights(step.config) for name, step in stages},
        config=config.model_dump(mode="json"),
        versions=versions(),
    )


def _weights(settings: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in settings.items() if key.endswith("weights")}


def _arm_figures(arm: Arm, answers: Sequence[Answer], rows: Rows) -> records.ArmFigures:
    own = [key for key in rows if key.arm == arm.name]
    texts_with = Counter(tag for answer in answers for tag in dict.fromkeys(map(str.casefold, answer.tags)))
    return records.ArmFigures(
        name=arm.name,
        means=arm.means,
        cost=arm.cost,
        cut=arm.name in CUT,
        missing=sum(answer.missing for answer in answers),
        measures={key.measure: estimate(rows, key) for key in own if key.task == "tags"},
        agreement={key.measure: estimate(rows, key) for key in own if key.task == "agreement"},
        defects=dict(Counter(str(answer.reason) for answer in answers if answer.reason).most_common()),
        tags=sum(len(answer.tags) for answer in answers),
        distinct=len(texts_with),
        frequent=[records.TagCount(tag=tag, texts=texts) for tag, texts in texts_with.most_common(FREQUENT)],
    )


def _uses(rows: Rows) -> list[records.UseFigures]:
    """Return a record for each way to do search and classification, in the order of the rows."""
    ways: dict[tuple[str, ...], dict[str, records.Estimate]] = {}
    for key in rows:
        if key.task in ("search", "classification"):
            ways.setdefault(key[:-1], {})[key.measure] = estimate(rows, key)
    names = ("arm", "input", "task", "method")
    return [records.UseFigures(**dict(zip(names, way, strict=True)), measures=own) for way, own in ways.items()]


def _similarities(answers: Sequence[Answer]) -> list[float]:
    return [round(answer.score or 0.0, 4) for answer in answers]


def _examples(corpus: Corpus, count: int) -> list[records.Example]:
    """Return texts with all answers, spread evenly over the gain in similarity: the worst, the middle, the best."""
    base, tuned = (np.array(_similarities(corpus.answers[arm])) for arm in (BASE, TUNED))
    order = np.argsort(tuned - base, kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    arms = [BASE, TUNED, *(arm for arm in corpus.answers if arm not in (BASE, TUNED))]

    def example(place: int) -> records.Example:
        return records.Example(
            text=corpus.texts[place],
            gain=round(float(tuned[place] - base[place]), 4),
            answers=[_shown(arm, corpus.answers[arm][place]) for arm in arms],
        )

    return [example(place) for place in order[places].tolist()]


def _shown(arm: str, answer: Answer) -> records.ShownAnswer:
    return records.ShownAnswer(
        arm=arm,
        completion=answer.completion,
        format=answer.format,
        reason=answer.reason,
        score=answer.score,
        tags=list(answer.tags),
    )


def _round_line(run: RunDir, config: Config, number: int) -> records.RoundLine:
    training, counts, found = config.of_round(number).training, run.counts(Step("train", number)), None
    if "gain" in (checked := validation(run, number)):
        found = records.ValidationLine(
            texts=checked["texts"],
            well_formed=checked["well_formed"],
            mean_score=checked["mean_score"],
            gain=records.Estimate(**checked["gain"], n=checked["texts"]),
        )
    return records.RoundLine(
        round=number,
        loss=training.loss,
        beta=training.beta,
        learns_from=f"{counts[training.rows]:,} {training.rows}",
        steps=counts["steps"],
        references=counts.get("references", {}),
        validation=found,
    )


def margins(pairs: Place) -> records.Margins:
    """Count the similarity pairs by their score gaps, in BINS bins, and the format pairs, which have no gap."""

    def gaps() -> Iterator[np.ndarray]:
        for table in read_tables(pairs, ["margin"]):
            yield pc.drop_null(table["margin"].combine_chunks()).to_numpy(zero_copy_only=False)

    largest = max((float(part.max()) for part in gaps() if len(part)), default=0.0)
    edges = np.linspace(0, largest or 1.0, BINS + 1)
    counts = sum((np.histogram(part, edges)[0] for part in gaps()), np.zeros(BINS, dtype=int))
    return records.Margins(edges=edges.tolist(), counts=counts.tolist(), format=count_rows(pairs) - int(counts.sum()))
