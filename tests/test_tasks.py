"""All uses together: they get what the texts came with, and the contrasts that are planned find their series."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from semtag.configs.evaluation import Evaluation
from semtag.evaluation.answers import Answer, Corpus
from semtag.evaluation.arms import PEOPLE
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.estimates import contrasts, estimate
from semtag.evaluation.evaluate import tag_rows
from semtag.evaluation.rows import Input, Key, by_key
from semtag.evaluation.tasks.topics import Groups
from semtag.evaluation.tasks.uses import TRIED, groups_of, planned_uses, put_to_use
from tests.test_search import bag_of_words, corpus_of, judge_of_words

WORDS = {
    "ships": "hull mast sail keel deck",
    "bread": "dough oven flour yeast crust",
    "stars": "sky orbit comet moon sun",
}
KINDS = [[*WORDS][place % 3] for place in range(45)]
TEXTS = [f"{' '.join(WORDS[kind].split()[place % 4 :])} {place}" for place, kind in enumerate(KINDS)]
GOOD = [[kind, f"number {place}"] for place, kind in enumerate(KINDS)]
TAGS: dict[str, Any] = {"base": [["thing"]] * 45, "tuned": GOOD, "keybert": GOOD, "people": GOOD, "base_vote": GOOD}
EVALUATION = Evaluation(label_column="kind", questions_column="asked")


def whole(labelled: int = 45) -> Corpus:
    """Return all texts, of which people gave keyphrases to the first `labelled`."""
    asked = [[f"Which {kind} has number {place}?", None, ""] for place, kind in enumerate(KINDS)]
    corpus = corpus_of(TEXTS, kind=KINDS, asked=asked, title=[f"title {place}" for place in range(45)])
    people = [Answer("", tags, "valid", missing=place >= labelled) for place, tags in enumerate(GOOD)]
    return replace(corpus, answers={PEOPLE: people})


def test_every_use_finds_its_columns_and_its_contrasts() -> None:
    uses = put_to_use(whole(), TAGS, judge_of_words(), EVALUATION, 0)
    rows = by_key(uses.series)
    arms = {task: {key.arm for key in rows if key.task == task} for task in ("search", "classification", "topics")}
    used = {"text", "base", "tuned", "keybert", "people"}
    assert arms == {"search": used, "classification": used, "topics": {"text", "base", "tuned"}}
    assert uses.classification is not None and uses.classification.classes == sorted(WORDS)
    assert uses.topics is not None and uses.topics.labels == "labels"
    planned = planned_uses(rows)
    assert len(planned) == 2 * (3 + 2)
    found = {(one.task, one.method, one.first_input): one for one in contrasts(rows, planned, 1000, 0)}
    assert len(found) == len(planned) and {one.family for one in found.values()} == {"uses"}
    tags, both = found["classification", "zero_shot", "tags"], found["classification", "zero_shot", "both"]
    assert (tags.first, tags.second, tags.second_input) == ("tuned", "base", "tags")
    assert (both.first, both.second, both.second_input) == ("tuned", "text", "text")
    # Each tag says its class; `thing` says the first of three.
    assert tags.difference.value == pytest.approx(2 / 3) and tags.finding == "better"
    searched = found["search", "bm25", "tags"]
    assert searched.measure == "ndcg_at_10" and searched.difference.n == 45 and searched.finding == "better"


@pytest.mark.parametrize("read", ["tags", "both"])
def test_texts_that_people_did_not_label_are_left_out_of_their_figures(read: Input) -> None:
    tags: dict[str, Any] = {"tuned": [*GOOD[:30], *[[]] * 15], "people": [*GOOD[:30], *[[]] * 15]}
    rows = by_key(put_to_use(whole(labelled=30), tags, judge_of_words(), EVALUATION, 0).series)
    for task, method, measure in (("classification", "zero_shot", "accuracy"), ("search", "bm25", "ndcg_at_10")):
        told = estimate(rows, Key("people", read, task, method, measure))
        assert (told.n, told.value) == (30, 1.0)
        # What a tagger could not answer counts against the tagger.
        assert estimate(rows, Key("tuned", read, task, method, measure)).n == 45
    told_N = rows[Key("people", read, "classification", "zero_shot", "accuracy")].labels_N
    assert told_N is not None and [*told_N] == [*KINDS[:30], *[None] * 15]


def test_people_repeat_tags_among_the_texts_that_they_labelled() -> None:
    same = [Answer("", ["ship"] if place < 30 else [], "valid", missing=place >= 30) for place in range(45)]
    corpus = replace(whole(), answers={PEOPLE: same})
    rows = by_key(tag_rows(corpus, corpus.answers, judge_of_words()))
    found = estimate(rows, Key(PEOPLE, "tags", "tags", "", "repeated"))
    assert (found.n, found.value) == (30, pytest.approx(1))


def test_without_columns_there_are_topics_alone() -> None:
    uses = put_to_use(corpus_of(TEXTS), {"base": TAGS["base"]}, judge_of_words(), Evaluation(), 0)
    assert {one.key.task for one in uses.series} == {"topics"} and uses.classification is None
    assert uses.topics is not None and uses.topics.labels == "" and planned_uses(by_key(uses.series)) == []
    assert put_to_use(corpus_of(TEXTS[:5]), {}, judge_of_words(), Evaluation(), 0) == ([], None, None)


def test_titles_group_texts_only_where_they_repeat() -> None:
    alone, shared = [f"title {place}" for place in range(45)], [*KINDS[:-1], None]
    nothing = Groups("", [None] * 45)
    assert groups_of(corpus_of(TEXTS, title=alone), EVALUATION) == nothing
    assert groups_of(corpus_of(TEXTS, title=[None] * 45), EVALUATION) == nothing
    assert groups_of(corpus_of(TEXTS, title=shared), EVALUATION) == Groups("titles", shared)
    assert groups_of(corpus_of(TEXTS, title=shared, kind=alone), EVALUATION) == Groups("labels", alone)


def test_what_is_looked_for_and_what_is_looked_with_are_embedded_apart() -> None:
    passages: set[str] = set()
    queries: set[str] = set()

    def remember(strings: list[str], where: set[str]) -> np.ndarray:
        where.update(strings)
        return bag_of_words(strings)

    judge = Judge("two ways", False, lambda own: remember(own, passages), lambda own: remember(own, queries))
    evaluation = EVALUATION.model_copy(update={"labels": {"ships": "of the sea"}})
    put_to_use(whole(), {"tuned": GOOD}, judge, evaluation, 0)
    joined = {", ".join(tags) for tags in GOOD}
    assert passages == {
        *TEXTS,
        *joined,
        *(f"{', '.join(tags)}. {text}" for tags, text in zip(GOOD, TEXTS, strict=True)),
    }
    assert queries == {f"Which {kind} has number {place}?" for place, kind in enumerate(KINDS)} | {
        "of the sea", "bread", "stars",
    }  # fmt: skip


def test_arms_that_say_nothing_break_nothing() -> None:
    tags: dict[str, list[list[str]]] = dict.fromkeys(TRIED, [[]] * len(TEXTS))
    rows = by_key(put_to_use(whole(), tags, judge_of_words(), EVALUATION, 0).series)
    for method, measure, task in (("dense", "map", "search"), ("linear_probe", "accuracy", "classification")):
        assert not rows[Key("yake", "tags", task, method, measure)].values_N.any()
        same = [rows[Key(*way, task, method, measure)].values_N for way in (("yake", "both"), ("text", "text"))]
        assert same[0] == pytest.approx(same[1])
    assert math.isnan(rows[Key("base", "tags", "topics", "seed 0", "topic")].values_N[0])
