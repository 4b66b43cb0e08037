"""The evaluate stage: every arm tags the held-out texts; what was measured, and a report.

1. The texts are chosen: `texts.py`. The arms of each model answer in a session: `arms.py`, `extractors.py`.
2. All answers are read into a `Corpus`: `answers.py`.
3. Measures and uses of the tags give one table of rows: `measures.py`, `agreement.py`, `tasks/`.
4. Estimates, contrasts and gates come from that table: `estimates.py`, `gates.py`, `report/build.py`.
5. The report is written beside answers and rows: `report/`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import stage_main
from semtag.configs.schema import Config
from semtag.evaluation.agreement import agreement
from semtag.evaluation.answers import Answer, Corpus, cut_like, read_corpus, write_corpus
from semtag.evaluation.arms import (
    BASE,
    CUT,
    EQUAL_WORDS,
    KEYPHRASES,
    PEOPLE,
    TUNED,
    Arm,
    arms_of,
    pairings,
    people,
    tagger_name,
)
from semtag.evaluation.embeddings import Embedding, Judge, judge_of
from semtag.evaluation.estimates import Planned
from semtag.evaluation.extractors import extract_and_score
from semtag.evaluation.measures import WordSearch, measure, repeated
from semtag.evaluation.report.build import Measured, build_report
from semtag.evaluation.report.html import render
from semtag.evaluation.report.terminal import failed_gates
from semtag.evaluation.rows import Key, Series, by_key, write_rows
from semtag.evaluation.tasks.uses import planned_uses, put_to_use
from semtag.evaluation.texts import choose_texts
from semtag.generation.parse import answer_of
from semtag.scoring.pipeline import sample_and_score
from semtag.scoring.similarity import cosine, tag_string
from semtag.store.locations import Place
from semtag.store.manifest import StepCounts
from semtag.store.parquet import count_rows
from semtag.store.rounds import base_of, delivered_round, start_of, trained_rounds
from semtag.store.run_dir import RunDir

# What arms are compared by; all other measures are described, and read by the gates.
CONTRASTED = ("found_by_meaning", "found_by_words", "similarity", "well_formed", "words")
AGREED = "f1_at_m"


def evaluate(run: RunDir, config: Config, progress: Progress) -> StepCounts:
    """Write evaluation/: answers, rows, report.json and report.html; return the headline."""
    delivered = delivered_round(run)
    arms = arms_of(config, [number for number in trained_rounds(run) if number != delivered])
    with run.shared_temporary_folder("answers") as scratch:
        texts = choose_texts(run, config, scratch, progress)
        # A session for each engine, because its end is what frees the GPU for certain.
        for model in dict.fromkeys(arm.model for arm in arms if arm.decoding):
            with ray_session(config):
                _answer(run, config, texts, [arm for arm in arms if arm.model == model], progress)
        with ray_session(config):
            if keyphrases := [arm for arm in arms if not arm.decoding]:
                _answer(run, config, texts, keyphrases, progress)
            scorer = Embedding(config.scoring)
            corpus = with_cosines(read_corpus(scratch, arms), config, scorer)
            corpus, arms = with_people(corpus, arms, config)
            measured = measure_all(config, corpus, arms, scorer, progress)
    report = build_report(run, config, measured)
    with run.replace_folder(run.layout.evaluation) as folder:
        write_corpus(corpus, folder / run.layout.answers.name)
        write_rows(measured.rows, folder / run.layout.rows.name)
        (folder / run.layout.report.name).write_text(report.model_dump_json(indent=1), encoding="utf-8")
        (folder / run.layout.page.name).write_text(render(report), encoding="utf-8")
    failed = failed_gates(report)  # evaluation.strict reads them
    for name in failed:
        progress.say(f"gate failed: {name}")
    formed = {arm.name: arm.measures["well_formed"].value for arm in report.arms}
    return {"held_out": report.held_out_texts, "delivered_round": delivered, "base_well_formed": formed[BASE],
            "tuned_well_formed": formed[TUNED], "gates_failed": len(failed)}  # fmt: skip


def _answer(run: RunDir, config: Config, texts: Place, arms: list[Arm], progress: Progress) -> None:
    """Have the arms of one model tag the chosen texts, into the folder beside them with the model's name."""
    model, out, decodings = arms[0].model, texts.parent / arms[0].model, [arm.decoding for arm in arms if arm.decoding]
    names = ", ".join(arm.name for arm in arms).replace("_", " ")
    progress.say(f"{names} tag {count_rows(texts):,} held-out texts")
    if model == KEYPHRASES:
        extract_and_score(texts, out, config, [arm.name for arm in arms], progress)
        return
    sample_and_score(texts, out, config, weights_place(run, config, model), decodings, progress)


def weights_place(run: RunDir, config: Config, model: str) -> str:
    """Return where an arm's model lies."""
    if model == BASE:
        return base_of(config)
    for place in config.evaluation.taggers:
        if model == tagger_name(place):
            other = RunDir(place)
            return start_of(other, other.config(), delivered_round(other) + 1)
    number = delivered_round(run) if model == TUNED else int(model.removeprefix("round_"))
    return start_of(run, config, number + 1)


def with_cosines(corpus: Corpus, config: Config, scorer: Embedding) -> Corpus:
    """Return the corpus with the cosine as each answer's score, also where a run scores its candidates otherwise."""
    if config.scoring.is_cosine:
        return corpus
    return replace(corpus, answers={arm: scored(corpus.texts, own, scorer) for arm, own in corpus.answers.items()})


def with_people(corpus: Corpus, arms: list[Arm], config: Config) -> tuple[Corpus, list[Arm]]:
    """Add people's keyphrases as an arm, where a text has any; texts without keyphrases are missing in it."""
    keys = corpus.lists(config.evaluation.keys_column)
    if not any(keys):
        return corpus, arms
    given = [Answer(answer_of(own), own, "valid", missing=not own) for own in keys]
    return replace(corpus, answers=corpus.answers | {PEOPLE: given}), [*arms, people(config)]


# -- rows ---------------------------------------------------------------------------------------------------------


def at_equal_words(corpus: Corpus, scorer: Embedding) -> dict[str, list[Answer]]:
    """Return the answers to measure: those of arms without a word limit are cut to the tagger's words, and scored."""
    return {
        arm: scored(corpus.texts, cut_like(own, corpus.answers[TUNED]), scorer) if arm in CUT else own
        for arm, own in corpus.answers.items()
    }


def scored(texts: Sequence[str], answers: Sequence[Answer], scorer: Embedding) -> list[Answer]:
    """Score the answers to N texts by the scoring model, as the scoring stage does."""
    asking = [place for place, answer in enumerate(answers) if answer.tags]
    if not asking:
        return list(answers)
    own = scorer.texts([texts[place] for place in asking])
    scores = cosine(own, scorer.tags([tag_string(answers[place].tags) for place in asking])).tolist()
    known = dict(zip(asking, scores, strict=True))
    return [replace(answer, score=known.get(place)) for place, answer in enumerate(answers)]


def tag_rows(corpus: Corpus, answers: dict[str, list[Answer]], judge: Judge) -> Iterator[Series]:
    """Yield the measures of every arm's tags. People have no value for a text that they gave no keyphrases."""
    ids_N, clusters_N, search = np.array(corpus.ids), corpus.clusters_N, WordSearch(corpus.texts)
    for arm, own in answers.items():
        found, unlabelled_N = measure(corpus.texts, own, judge, search), corpus.unlabelled_N(arm)
        if unlabelled_N.any():  # a text without keyphrases is no text that lacks a tag of another one
            found["repeated"][~unlabelled_N] = repeated([answer.tags for answer in own if not answer.missing])
        for name, values_N in found.items():
            known_N = np.where(unlabelled_N, np.nan, values_N)
            yield Series(Key(arm, "tags", "tags", "", name), ids_N, clusters_N, known_N)


def planned(arms: Sequence[Arm]) -> list[Planned]:
    """Return the contrasts between arms, each by every measure that arms are compared by."""
    found, compared = [], [("tags", name) for name in CONTRASTED]
    for family, first, second in pairings(arms):
        # Agreement is of whole lists, so it is no comparison at equal words.
        for task, name in compared if family == EQUAL_WORDS else [*compared, ("agreement", AGREED)]:
            found.append(Planned(family, *(Key(arm, "tags", task, "", name) for arm in (first, second))))
    return found


def measure_all(config: Config, corpus: Corpus, arms: list[Arm], scorer: Embedding, progress: Progress) -> Measured:
    """Measure the tags of all arms, and what the tags are good for. Needs a running Ray."""
    evaluation = config.evaluation
    judge = judge_of(config, scorer)
    progress.say(f"comparing {len(arms)} arms")
    answers = at_equal_words(corpus, scorer)
    tags = replace(corpus, answers=answers).all_tags()
    whole = {arm: own for arm, own in corpus.all_tags().items() if arm != PEOPLE}
    agreed = agreement(corpus, whole, corpus.lists(evaluation.keys_column))
    progress.say("putting the tags to use: search, classification, topics, where the texts have what it takes")
    used = put_to_use(corpus, tags, judge, evaluation, config.run.seed)
    rows = by_key([*tag_rows(corpus, answers, judge), *agreed, *used.series])
    return Measured(corpus, arms, answers, judge, used, rows, [*planned(arms), *planned_uses(rows)])


if __name__ == "__main__":
    stage_main("evaluate", lambda run, config, progress, _: evaluate(run, config, progress))
