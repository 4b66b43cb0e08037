"""Topics by hand, and real topics of texts that have some."""

import math
import random

import numpy as np
import pytest

from semtag.evaluation.report.records import Point, TopicName, Topics
from semtag.evaluation.rows import Key, Rows, by_key
from semtag.evaluation.tasks import topics as module
from semtag.evaluation.tasks.inputs import Documents
from semtag.evaluation.tasks.topics import SEEDS, Groups, ami, cluster, figures_of, find_topics, map_of, names_of
from tests.test_search import bag_of_words, corpus_of, judge_of_words

THEMES = {
    "ships": ["harbour", "anchor", "sailor", "mast", "deck", "crew", "tide", "rope", "captain", "voyage"],
    "trains": ["railway", "station", "signal", "platform", "engine", "wagon", "track", "ticket", "driver", "tunnel"],
    "bread": ["flour", "oven", "dough", "yeast", "baker", "crust", "loaf", "grain", "butter", "salt"],
}
OF_TEXTS = [theme for theme in THEMES for _ in range(20)]
TEXTS = [" ".join(random.Random(f"{theme} {at}").choices(THEMES[theme], k=12)) for at, theme in enumerate(OF_TEXTS)]
TAGS: dict[str, list[list[str]]] = {
    "base": [[] for _ in TEXTS],
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
    series, found = find_topics(corpus_of(TEXTS), GROUPS, TAGS, judge_of_words(), 0)
    assert found is not None
    return by_key(series), found


def test_topics_are_found(answer: tuple[Rows, Topics]) -> None:
    _, found = answer
    assert (found.seeds, found.labels) == (SEEDS, "labels")
    rows = {(row.arm, row.input): row for row in found.rows}
    assert [*rows] == [("text", "text"), *((arm, read) for arm in TAGS for read in ("tags", "both"))]
    for way in (("text", "text"), ("base", "both"), ("tuned", "tags"), ("tuned", "both")):
        assert rows[way].topics >= 3 and (rows[way].ami or 0) > 0.6 and rows[way].texts == 60, rows[way]
    nothing = rows["base", "tags"]
    assert (nothing.topics, nothing.outliers, nothing.texts, nothing.ami, nothing.ami_inliers) == (0, 1, 0, 0, None)


def test_the_map_shows_the_first_seed(answer: tuple[Rows, Topics]) -> None:
    rows, found = answer
    drawn, told = found.map, rows[Key("tuned", "both", "topics", "seed 0", "topic")]
    assert drawn is not None and drawn.arm == "tuned"
    assert told.labels_N == [str(point.topic) for point in drawn.points] and np.isnan(told.values_N).all()
    assert told.units_N.tolist() == corpus_of(TEXTS).ids
    assert [point.text for point in drawn.points] == TEXTS
    assert [point.label for point in drawn.points] == OF_TEXTS and drawn.points[0].tags == TAGS["tuned"][0]
    sizes = [sum(point.topic == topic.id for point in drawn.points) for topic in drawn.topics]
    assert [topic.size for topic in drawn.topics] == sizes == sorted(sizes, reverse=True)
    assert all("old " in topic.name for topic in drawn.topics)


def test_the_same_seed_gives_the_same_topics(answer: tuple[Rows, Topics], monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = answer
    monkeypatch.setattr(module, "MOST_POINTS", 45)
    _, again = find_topics(corpus_of(TEXTS), Groups("", [None] * 60), {"tuned": TAGS["tuned"]}, judge_of_words(), 0)
    assert again is not None and again.map is not None and found.map is not None
    assert [row.outliers for row in again.rows] == [row.outliers for row in found.rows if row.arm != "base"]
    assert [row.ami for row in again.rows] == [None] * 3
    assert [point.topic for point in again.map.points] == [point.topic for point in found.map.points][:45]
    assert again.map.topics == found.map.topics


def test_empty_documents_are_outliers() -> None:
    vectors_N_D = bag_of_words(["", *TEXTS[1:]])
    topic_N = cluster(vectors_N_D, 0)
    assert topic_N[0] == -1 and topic_N.max() >= 2
    assert (cluster(bag_of_words([""] * 30 + TEXTS[:39]), 0) == -1).all()  # too few are left


def test_few_texts_have_no_topics() -> None:
    found = find_topics(corpus_of(TEXTS[:39]), Groups("", [None] * 39), {}, judge_of_words(), 0)
    assert found == ([], None)


def test_texts_that_are_all_the_same_break_nothing() -> None:
    tags = {"base": [["old ship", "port"]] * 40, "tuned": [["ship"]] * 40}
    _, found = find_topics(corpus_of(["a ship in port"] * 40), Groups("", [None] * 40), tags, judge_of_words(), 0)
    assert found is not None and found.map is not None and len(found.map.points) == 40
    assert "nan" not in found.model_dump_json().casefold()


def test_without_the_tagger_there_is_no_map() -> None:
    _, found = find_topics(corpus_of(TEXTS), GROUPS, {}, judge_of_words(), 0)
    assert found is not None and found.map is None
