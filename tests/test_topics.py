"""Topics by hand: coherence, diversity, merges, months; and real topics of texts that have some."""

import json
import math
import random
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from semtag.evaluation.documents import Documents
from semtag.evaluation.topic_map import hierarchy, month_of, over_time, points
from semtag.evaluation.topics import Clustering, cluster, coherence, diversity, figures_of, npmi, top_words, topics
from tests.test_search import bag_of_words

THEMES = {
    "ships": ["harbour", "anchor", "sailor", "mast", "deck", "crew", "tide", "rope", "captain", "voyage"],
    "trains": ["railway", "station", "signal", "platform", "engine", "wagon", "track", "ticket", "driver", "tunnel"],
    "bread": ["flour", "oven", "dough", "yeast", "baker", "crust", "loaf", "grain", "butter", "salt"],
}


SAME = {"two": [["old ship", "port"]] * 40, "one": [["ship"]] * 40}


def about(theme: str, place: int) -> str:
    return " ".join(random.Random(f"{theme} {place}").choices(THEMES[theme], k=12))


LABELS: list[str | None] = [theme for theme in THEMES for _ in range(20)]
TEXTS = [about(str(theme), place) for place, theme in enumerate(LABELS)]
TAGS = {
    "base": [[] for _ in TEXTS],
    "tuned": [[f"Old {theme}", THEMES[str(theme)][place % 10]] for place, theme in enumerate(LABELS)],
}


def test_mutual_information_by_hand() -> None:
    assert npmi(0.25, 0.5, 0.5) == pytest.approx(0)  # independent
    assert npmi(0.5, 0.5, 0.5) == pytest.approx(1)  # always together
    assert npmi(0, 0.5, 0.5) == -1
    assert npmi(1, 1, 1) == 1
    assert npmi(0.25, 0.5, 0.25) == pytest.approx(math.log(2) / math.log(4))


def test_coherence_by_hand() -> None:
    texts = [{"a", "b"}, {"a", "b", "c"}, {"c"}, {"d"}]
    together, rarely = 1.0, math.log(0.25 / (0.5 * 0.5)) / -math.log(0.25)
    assert coherence([["a", "b", "c"]], texts) == pytest.approx([(together + rarely + rarely) / 3])
    assert coherence([["a", "b"], ["a", "d"]], texts) == pytest.approx([1, -1])
    assert coherence([["a", "b", "unheard"], ["a"]], texts) == pytest.approx([1])  # nothing is known of these
    assert len(coherence([["a"], []], texts)) == 0


def test_diversity_by_hand() -> None:
    assert diversity([["a", "b"], ["b", "c"]]) == pytest.approx((3 / 4, 3 / 4, 3 / 4))  # 1 without either
    of_three = diversity([["a", "b"], ["b", "c"], ["d"]])  # without each: 1, 1, 3/4
    half = NormalDist().inv_cdf(0.975) * math.sqrt(2 / 3 * (2 * (1 / 12) ** 2 + (1 / 6) ** 2))
    assert of_three == pytest.approx((4 / 5, 4 / 5 - half, 1))
    assert diversity([["a"]]) == (1, None, None) and diversity([[], []]) == (None, None, None)
    assert top_words(["History of X", "history", *(f"word{place}" for place in range(12))]) == [
        "history",
        *(f"word{place}" for place in range(9)),
    ]


def test_figures_by_hand() -> None:
    found = Clustering(np.array([0, 0, 1, 1, -1, -1]), [["a"], ["b"]], np.zeros((2, 2)), ["a", "b"])
    figures = figures_of(found, ["x", "x", "y", "y", "z", "z"], [set()] * 6, 50, 0)
    assert figures["topics"] == 2 and figures["outliers"]["value"] == pytest.approx(1 / 3)
    assert figures["nmi"]["value"] == pytest.approx(1) and figures["ari"]["value"] == pytest.approx(
        1
    )  # outliers are a cluster
    figures = figures_of(found, ["x", None, "x", "y", None, "y"], [set()] * 6, 50, 0)
    assert figures["nmi"]["low"] < figures["nmi"]["value"] < figures["nmi"]["high"]
    assert figures["nmi"]["value"] == pytest.approx(2 * 0.5 / 2.5)  # 1 - H(x | cluster) = 1/2 bit; entropies 1 and 1.5
    unlabelled = figures_of(found, [None] * 6, [set()] * 6, 50, 0)
    assert unlabelled["nmi"]["value"] is None and unlabelled["ari"]["low"] is None


def test_merges_by_hand() -> None:
    # Cosines: 0 and 2 are 0.8 alike, 1 shares nothing with 0 and 0.6 with 2.
    weights = np.array([[1, 0, 0], [0, 1, 0], [0.8, 0.6, 0]])
    first, second = hierarchy(weights, [10, 30, 20], ["sea", "land", "sky"])
    assert (first["left"], first["right"], first["distance"]) == (0, 2, pytest.approx(0.2))
    assert (second["left"], second["right"], second["distance"]) == (1, 3, pytest.approx((1 + 0.4) / 2))
    assert first["name"] == "sea, land"  # 10 + 16 against 12
    assert second["name"] == "land, sea"  # 42 against 26
    assert hierarchy(weights[:1], [1], ["sea"]) == []


def test_months() -> None:
    for date in ("2019-05", "201905", "2019-05-03", "2019-05-03T10:00:00Z", "Fri, 3 May 2019 10:00:00 GMT"):
        assert month_of(date) == (2019, 5), date
    assert month_of(" 2019 ") == (2019, 0)
    for date in ("", "hello", "1557900000", "2019-13-01", "05/06/2019"):
        assert month_of(date) == (0, 0), date


def test_over_time_by_hand() -> None:
    topic_N = np.array([0, 0, -1, 1])
    assert over_time(topic_N, ["2019-05-03", "2019-05-30", "2020-01-01", None]) == [
        {"period": "2019-05", "topic": 0, "count": 2},
        {"period": "2020-01", "topic": -1, "count": 1},
    ]
    long = over_time(topic_N, ["2019-05-03", "2021-05-30", "2021-01-01", "no"])
    assert long is not None and [row["period"] for row in long] == ["2019", "2021", "2021"]
    rough = over_time(topic_N, ["2019", "2019-05", None, None])
    assert rough == [{"period": "2019", "topic": 0, "count": 2}]
    assert over_time(topic_N, ["2019", None, None, None]) is None


def test_points() -> None:
    found = points(np.array([[0.12345, -1.0]], dtype=np.float32), np.array([-1]), ["x" * 400], [["a"]], [None])
    assert found == [{"x": 0.123, "y": -1.0, "topic": -1, "text": "x" * 300, "tags": ["a"], "label": None}]


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    found = topics(TEXTS, LABELS, ["2024-01-02"] * 60, TAGS, bag_of_words, 0)
    assert found is not None
    return json.loads(json.dumps(found, allow_nan=False))


def test_topics_are_found(answer: dict[str, Any]) -> None:
    rows = {(row["arm"], row["on"]): row for row in answer["rows"]}
    assert [*rows] == [("text", "text"), *((arm, on) for arm in TAGS for on in ("tags", "both"))]
    for way in (("text", "text"), ("tuned", "tags"), ("tuned", "both")):
        assert rows[way]["topics"] >= 3 and rows[way]["nmi"]["value"] > 0.6, rows[way]
    for on in ("tags", "both"):  # no tag to name a topic by
        nothing = rows["base", on]
        assert nothing["topics"] == 0 and nothing["coherence"]["value"] is nothing["diversity"]["value"] is None
        assert [nothing[name]["value"] for name in ("outliers", "nmi", "ari")] == [1, 0, 0]
    assert rows["text", "text"]["coherence"]["low"] > 0


def test_the_map(answer: dict[str, Any]) -> None:
    drawn = answer["map"]
    count = next(row["topics"] for row in answer["rows"] if (row["arm"], row["on"]) == ("tuned", "both"))
    assert drawn["arm"] == "tuned" and [topic["id"] for topic in drawn["topics"]] == [*range(count)]
    assert [point["text"] for point in drawn["points"]] == TEXTS and drawn["points"][0]["tags"] == TAGS["tuned"][0]
    assert all("old " in topic["name"] for topic in drawn["topics"])  # whole tags
    sizes = [topic["size"] for topic in drawn["topics"]]
    assert sizes == [sum(point["topic"] == topic for point in drawn["points"]) for topic in range(count)]
    assert len(drawn["hierarchy"]) == count - 1
    assert {merge[side] for merge in drawn["hierarchy"] for side in ("left", "right")} == {*range(2 * count - 2)}
    assert sum(row["count"] for row in drawn["over_time"]) == 60


def test_the_same_seed_gives_the_same_topics(answer: dict[str, Any]) -> None:
    again = topics(TEXTS, LABELS, [None] * 60, {"tuned": TAGS["tuned"]}, bag_of_words, 0)
    assert again is not None
    assert again["map"] == answer["map"] | {"over_time": None}
    assert again["rows"] == [row for row in answer["rows"] if row["arm"] != "base"]


def test_the_terms_are_whole_tags_and_untagged_texts_are_outliers() -> None:
    tags = [[], *TAGS["tuned"][1:]]
    strings = [", ".join(own) for own in tags]
    found = cluster(Documents("tuned", "tags", strings), tags, bag_of_words(strings), 0)
    assert found.topic_N[0] == -1 and set(found.topic_N[1:].tolist()) >= set(range(len(found.terms)))
    words = {word for words in THEMES.values() for word in words}
    assert set(found.vocabulary) == {"old ships", "old trains", "old bread"} | words
    assert found.weights_T_V.shape == (len(found.terms), 33)
    for topic, terms in enumerate(found.terms):
        own = {tag.casefold() for place in np.flatnonzero(found.topic_N == topic) for tag in tags[place]}
        assert set(terms) <= own and len(terms) == min(10, len(own))


def test_few_texts_have_no_topics() -> None:
    assert topics(TEXTS[:39], LABELS[:39], [None] * 39, {}, bag_of_words, 0) is None


def test_texts_that_are_all_the_same_break_nothing() -> None:
    found = topics(["a ship in port"] * 40, [None] * 40, [None] * 40, SAME, bag_of_words, 0)
    assert found is not None and found["map"]["arm"] == "two" and len(found["map"]["points"]) == 40
    json.dumps(found, allow_nan=False)
