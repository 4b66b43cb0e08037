"""The uses of tags, all together, and topics. One file, because each process that finds topics compiles for 30 s."""

import math
import random
from collections import Counter
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
from semtag.evaluation.report.records import Point, TopicName, Topics
from semtag.evaluation.rows import Input, Key, Rows, by_key
from semtag.evaluation.tasks import topics as module
from semtag.evaluation.tasks.inputs import Documents
from semtag.evaluation.tasks.topics import SEEDS, Groups, ami, cluster, figures_of, find_topics, map_of, names_of
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


# -- topics ------------------------------------------------------------------------------------------------------

THEMES = {
    "ships": ["harbour", "anchor", "sailor", "mast", "deck", "crew", "tide", "rope", "captain", "voyage"],
    "trains": ["railway", "station", "signal", "platform", "engine", "wagon", "track", "ticket", "driver", "tunnel"],
    "bread": ["flour", "oven", "dough", "yeast", "baker", "crust", "loaf", "grain", "butter", "salt"],
}
OF_TEXTS = [theme for theme in THEMES for _ in range(20)]
THEMED = [" ".join(random.Random(f"{theme} {at}").choices(THEMES[theme], k=12)) for at, theme in enumerate(OF_TEXTS)]
THEMED_TAGS: dict[str, list[list[str]]] = {
    "base": [[] for _ in THEMED],
    "tuned": [[f"Old {theme}", THEMES[theme][place % 10]] for place, theme in enumerate(OF_TEXTS)],
}
GROUPS = Groups("labels", list(OF_TEXTS))


def test_adjusted_mutual_information_by_hand() -> None:
    topic_N = np.array([0, 0, 1, 1, -1, -1])
    assert ami(["x", "x", "y", "y", "z", "z"], topic_N, -1) == pytest.approx(1)  # the outliers are one topic more
    # Of two by two halves one shares a pair with 1/6 + 1/6, which is ln 2, and none with 4/6: 0 are expected.
    expected = math.log(2) / 3
    crossed = ami(["x", "y", "x", "y", None, None], topic_N, -1)
    assert crossed == pytest.approx((0 - expected) / (math.log(2) - expected))
    assert ami(["x", "x", "y", "y", "x", "y"], topic_N, 0) == pytest.approx(1)
    assert ami(["x", "x", "y", "y", "x", "y"], topic_N, -1) != pytest.approx(1)


def test_without_two_labels_there_is_nothing_to_agree_with() -> None:
    topic_N = np.array([0, 0, 1, -1])
    for labels in ([None] * 4, ["x"] * 4, ["x", None, None, None]):
        assert ami(labels, topic_N, -1) is None
    assert ami(["x", "x", "x", "y"], topic_N, 0) is None  # the only `y` is an outlier
    assert ami(["x", "x", "x", "y"], np.full(4, -1), 0) is None
    assert ami(["x", "x", "x", "y"], np.full(4, -1), -1) == 0


def test_unrelated_labels_and_topics_agree_by_chance_alone() -> None:
    rng = np.random.default_rng(0)
    found = [ami(list(rng.choice(["a", "b", "c", "d"], 150)), rng.integers(-1, 9, 150), -1) or 0.0 for _ in range(40)]
    assert abs(np.mean(found)) < 0.01  # mutual information that is not adjusted would be 0.04 and more


def test_figures_are_means_over_seeds() -> None:
    topics_S_N = np.array([[0, 0, 1, 1, -1, -1], [-1, -1, -1, -1, -1, -1]])
    way = Documents("tuned", "tags", ["a", "b", "c", "d", "", "e"])
    found = figures_of(way, topics_S_N, ["x", "x", "y", "y", "z", "z"])
    assert (found.arm, found.input, found.texts) == ("tuned", "tags", 5)
    assert found.topics == pytest.approx((2 + 0) / 2) and found.outliers == pytest.approx((2 / 6 + 1) / 2)
    assert found.ami == pytest.approx((1 + 0) / 2)
    assert found.ami_inliers == pytest.approx(1)  # of the first seed, since the second has no inliers
    assert figures_of(way, topics_S_N, [None] * 6).ami is None


def test_topics_are_named_by_what_is_frequent_in_them_alone() -> None:
    tags = [["Common", "ship"], ["common", "Ship"], ["common", "bread"], ["common", "oven", "bread"], ["common", "fog"]]
    # ln(1 + A / f) with A = 11 / 3: of common 0.55, of ship 1.04, of bread 1.04, of oven 1.54.
    names = names_of(np.array([0, 0, 1, 1, -1]), tags)
    assert names == ["ship, common", "bread, oven, common"]
    assert names_of(np.array([0, 0, -1]), [[], [], []]) == [""]
    assert names_of(np.array([-1, -1]), [["a"], ["b"]]) == []


def test_the_map_by_hand() -> None:
    plane_N_2 = np.array([[0.12345, -1.0], [2.0, 3.0]], dtype=np.float32)
    found = map_of(plane_N_2, np.array([-1, 0, 0]), ["x" * 400, "y", "z"], [["a"], [], ["B"]], [None, "label", None])
    assert found.points == [
        Point(x=0.123, y=-1.0, topic=-1, text="x" * 200, tags=["a"], label=None),
        Point(x=2.0, y=3.0, topic=0, text="y", tags=[], label="label"),
    ]
    assert found.topics == [TopicName(id=0, name="b", size=2)]  # a text beyond the map counts


@pytest.fixture(scope="module")
def answer() -> tuple[Rows, Topics]:
    series, found = find_topics(corpus_of(THEMED), GROUPS, THEMED_TAGS, judge_of_words(), 0)
    assert found is not None
    return by_key(series), found


def test_topics_are_found(answer: tuple[Rows, Topics]) -> None:
    _, found = answer
    assert (found.seeds, found.labels) == (SEEDS, "labels")
    rows = {(row.arm, row.input): row for row in found.rows}
    assert [*rows] == [("text", "text"), *((arm, read) for arm in THEMED_TAGS for read in ("tags", "both"))]
    for way in (("text", "text"), ("base", "both"), ("tuned", "tags"), ("tuned", "both")):
        assert rows[way].topics >= 3 and (rows[way].ami or 0) > 0.6 and rows[way].texts == 60, rows[way]
    nothing = rows["base", "tags"]
    assert (nothing.topics, nothing.outliers, nothing.texts, nothing.ami, nothing.ami_inliers) == (0, 1, 0, 0, None)


def test_the_map_shows_the_first_seed(answer: tuple[Rows, Topics]) -> None:
    rows, found = answer
    drawn, told = found.map, rows[Key("tuned", "both", "topics", "seed 0", "topic")]
    assert drawn is not None and drawn.arm == "tuned"
    assert told.labels_N == [str(point.topic) for point in drawn.points] and np.isnan(told.values_N).all()
    assert told.units_N.tolist() == corpus_of(THEMED).ids
    assert [point.text for point in drawn.points] == THEMED
    assert [point.label for point in drawn.points] == OF_TEXTS and drawn.points[0].tags == THEMED_TAGS["tuned"][0]
    points = Counter(point.topic for point in drawn.points)
    sizes = [points[topic.id] for topic in drawn.topics]
    assert [topic.size for topic in drawn.topics] == sizes == sorted(sizes, reverse=True)
    assert all("old " in topic.name for topic in drawn.topics)


def test_the_same_seed_gives_the_same_topics(answer: tuple[Rows, Topics], monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = answer
    monkeypatch.setattr(module, "MOST_POINTS", 45)
    _, again = find_topics(
        corpus_of(THEMED), Groups("", [None] * 60), {"tuned": THEMED_TAGS["tuned"]}, judge_of_words(), 0
    )
    assert again is not None and again.map is not None and found.map is not None
    assert [row.outliers for row in again.rows] == [row.outliers for row in found.rows if row.arm != "base"]
    assert [row.ami for row in again.rows] == [None] * 3
    assert [point.topic for point in again.map.points] == [point.topic for point in found.map.points][:45]
    assert again.map.topics == found.map.topics


def test_empty_documents_are_outliers() -> None:
    vectors_N_D = bag_of_words(["", *THEMED[1:]])
    topic_N = cluster(vectors_N_D, 0)
    assert topic_N[0] == -1 and topic_N.max() >= 2
    assert (cluster(bag_of_words([""] * 30 + THEMED[:39]), 0) == -1).all()  # too few are left


def test_few_texts_have_no_topics() -> None:
    found = find_topics(corpus_of(THEMED[:39]), Groups("", [None] * 39), {}, judge_of_words(), 0)
    assert found == ([], None)


def test_texts_that_are_all_the_same_break_nothing() -> None:
    tags = {"base": [["old ship", "port"]] * 40, "tuned": [["ship"]] * 40}
    _, found = find_topics(corpus_of(["a ship in port"] * 40), Groups("", [None] * 40), tags, judge_of_words(), 0)
    assert found is not None and found.map is not None and len(found.map.points) == 40
    assert "nan" not in found.model_dump_json().casefold()


def test_without_the_tagger_there_is_no_map() -> None:
    _, found = find_topics(corpus_of(THEMED), GROUPS, {}, judge_of_words(), 0)
    assert found is not None and found.map is None
