"""Each measure of tags by hand."""

from collections.abc import Sequence
from itertools import permutations

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from semtag.evaluation.answers import Answer
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.measures import (
    LIKE,
    MEASURES,
    TAGS,
    WordSearch,
    adjoining,
    copied_share,
    found_by_meaning,
    found_by_words,
    inflected,
    long_runs,
    longest_run,
    measure,
    reciprocal_rank,
    repeated,
    stems_of,
    words_of,
    words_of_all,
)

TEXT = "The steam engine, built by James Watt, drove the mills."


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't_stop: Élan 2nd!", ["don", "t", "stop", "élan", "2nd"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("東京タワー1958年", ["東", "京", "タ", "ワ", "ー", "1958", "年"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("เรือใบ", ["เ", "ร", "ื", "อ", "ใ", "บ"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("… — 🙂", []),
    ],
)
def test_words_by_hand(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_words_and_stems_of_tags() -> None:
    assert words_of_all(["steam engine", "", "well-built"]) == ["steam", "engine", "well", "built"]
    assert stems_of("Engines driving mills") == ("engin", "drive", "mill")


def test_copies_are_of_stems() -> None:
    assert copied_share(TEXT, ["Steam engines", "governor"]) == pytest.approx(2 / 3)
    assert copied_share("東京タワー", ["東京", "大阪"]) == pytest.approx(2 / 4)


def test_another_form_of_a_word_is_inflected() -> None:
    assert inflected(TEXT, ["Engines", "mill", "James Watt", "governors"]) == pytest.approx(2 / 5)
    assert inflected("an engine and engines", ["engines"]) == 0  # the text has this form too


def test_tags_that_are_one_after_the_other_in_the_text_adjoin() -> None:
    assert adjoining(TEXT, ["James Watt", "steam engine", "mills"]) == 0
    assert adjoining(TEXT, ["the steam", "engine built", "mills"]) == pytest.approx(2 / 3)
    assert adjoining(TEXT, ["drove the", "James Watt"]) == 1  # in any order
    assert adjoining(TEXT, ["engines", "steam"]) == 1  # by stems
    assert adjoining(TEXT, ["team", "engine"]) == 0  # whole words alone
    assert adjoining(TEXT, ["steam engine built by James Watt"]) == 0  # a long run, but not cut up
    assert adjoining(TEXT, ["steam", "--", "engine"]) == pytest.approx(2 / 3)
    assert adjoining("mill mill", ["mill", "Mill"]) == 1


def test_long_runs_by_hand() -> None:
    assert long_runs(TEXT, ["steam engine built by James", "steam engine built by"]) == pytest.approx(1 / 2)
    assert long_runs(TEXT, ["steam engines built by James"]) == 1  # by stems
    assert long_runs(TEXT, ["steam engine built for James Watt"]) == 0
    assert longest_run(words_of(TEXT), words_of("a steam engine drove the mills")) == 3
    assert longest_run(words_of(TEXT), ["governor"]) == longest_run([], ["mill"]) == longest_run(["mill"], []) == 0


@pytest.mark.parametrize("of", [copied_share, inflected, adjoining, long_runs])
def test_without_words_nothing_is_copied(of: object) -> None:
    assert callable(of)
    assert of(TEXT, []) == of(TEXT, ["--"]) == of("", ["mill"]) == of("…", ["—", "…"]) == 0


@given(st.text(alphabet="ab s-東", max_size=30), st.lists(st.text(alphabet="ab s-東", max_size=10), max_size=4))
def test_shares_are_shares(text: str, tags: list[str]) -> None:
    for of in (copied_share, inflected, adjoining, long_runs):
        assert 0 <= of(text, tags) <= 1
    assert inflected(text, tags) <= copied_share(text, tags)


# -- the same tags ------------------------------------------------------------------------------------------------


def plainly_repeated(tags_N: Sequence[Sequence[str]]) -> float:
    """Compute the mean over ordered pairs of texts of the share of the first one's tags that the second one has."""
    shares = []
    for first, second in permutations(tags_N, 2):
        others = {tag.casefold() for tag in second}
        had = [tag.casefold() in others for tag in first]
        shares.append(sum(had) / len(had) if had else 0.0)
    return float(np.mean(shares))


def test_repeated_by_hand() -> None:
    # Half of the first text's tags are the second's, all of the second's are the first's: 1.5 of 6 ordered pairs.
    assert repeated([["a", "b"], ["A"], ["c"]]).mean() == pytest.approx(1.5 / 6)
    assert repeated([["a"], ["a"], ["a"]]).tolist() == pytest.approx([1, 1, 1])
    assert repeated([["a"], ["b"], []]).tolist() == [0, 0, 0]
    assert repeated([["a"], ["a"]]).tolist() == [0, 0]  # no jackknife of two
    assert repeated([]).tolist() == []


def test_repeated_is_a_jackknife() -> None:
    rng = np.random.default_rng(0)
    tags = [[str(tag) for tag in rng.integers(0, 9, size=rng.integers(0, 5))] for _ in range(25)]  # some tags twice
    whole = plainly_repeated(tags)
    without_N = np.array([plainly_repeated(tags[:place] + tags[place + 1 :]) for place in range(25)])
    assert repeated(tags) == pytest.approx(25 * whole - 24 * without_N)
    assert repeated(tags).mean() == pytest.approx(whole)


# -- who finds the text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "place", "expected"),
    [
        ([3, 2, 1], 0, 1),
        ([3, 2, 1], 2, 1 / 3),
        ([1, 1, 1, 1], 2, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4),
        ([9, 8, 1, 1, 0], 3, (1 / 3 + 1 / 4) / 2),
        ([0], 0, 1),
    ],
)
def test_ties_are_in_an_order_of_chance(scores: list[float], place: int, expected: float) -> None:
    assert reciprocal_rank(np.array(scores, dtype=float), place) == pytest.approx(expected)


def test_a_text_is_found_by_words_that_only_it_has() -> None:
    texts = ["a train in the valley", "a train on the hill", "a boat on the lake", "the boats"]
    found = found_by_words(WordSearch(texts), [["valleys"], ["train"], ["nothing"], []])
    of_four = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    assert found == pytest.approx([1, (1 + 1 / 2) / 2, of_four, 0])  # alone; one of two; one of four; no tags


def test_texts_without_words_find_nothing_and_break_nothing() -> None:
    assert found_by_words(WordSearch(["…", "—"]), [["mill"], []]) == pytest.approx([(1 + 1 / 2) / 2, 0])
    assert found_by_words(WordSearch(["a mill", "…"]), [["mill"], ["mill"]]) == pytest.approx([1, 1 / 2])
    assert found_by_words(WordSearch([]), []).tolist() == []
    assert found_by_words(WordSearch(["東京タワー", "大阪城"]), [["東京"], ["城"]]) == pytest.approx([1, 1])


def test_words_are_looked_for_as_bm25s_does() -> None:
    texts = ["steam engine driving mills", "engines of steam, engines of war", "the mill by the river", "war"]
    queries = ["engine mills", "engines engines war", "river war nothing", "the of by"]
    stemmer = Stemmer.Stemmer("english")
    plain = bm25s.BM25()
    plain.index(bm25s.tokenize(texts, stopwords=[], stemmer=stemmer, show_progress=False), show_progress=False)
    search = WordSearch(texts)
    for query in queries:
        tokens = bm25s.tokenize([query], stopwords=[], stemmer=stemmer, show_progress=False)
        places, scores = plain.retrieve(tokens, k=len(texts), sorted=True, show_progress=False)
        assert search(query)[places[0]] == pytest.approx(scores[0])
        assert scores[0][0] > 0
    assert search("nothing").tolist() == [0, 0, 0, 0]


def compass(strings: Sequence[str]) -> np.ndarray:
    """Embed strings that begin with degrees as directions of length 3, shape [N, 2]."""
    degrees = np.radians([float(string.split()[0].strip(",")) for string in strings])
    return 3 * np.stack([np.cos(degrees), np.sin(degrees)], axis=1)


def test_a_text_is_found_by_the_direction_of_its_tags() -> None:
    texts = [f"{10 * place} degrees" for place in range(15)]
    tags = [["59"], ["12"], ["0"], [], *([f"{10 * place}"] for place in range(4, 15))]
    judge = Judge("compass", False, compass, compass)
    everywhere, near = found_by_meaning(texts, tags, judge)
    # The direction 59 is nearer to the texts 1 to 11 than to text 0, whose ten nearest neighbours are 1 to 10.
    assert LIKE == 10
    assert everywhere == pytest.approx([1 / 12, 1, 1 / 3, 0, *[1] * 11])
    assert near == pytest.approx([1 / 11, 1, 1 / 3, 0, *[1] * 11])


def test_texts_that_are_alike_tie() -> None:
    texts = ["10", "10", "90"]
    everywhere, near = found_by_meaning(texts, [["10"], ["80"], ["90"]], Judge("compass", False, compass, compass))
    assert everywhere == pytest.approx([3 / 4, (1 / 2 + 1 / 3) / 2, 1])
    assert near == pytest.approx(everywhere)  # fewer texts than neighbours


def test_without_any_tags_no_text_is_found_by_meaning() -> None:
    judge = Judge("compass", False, compass, compass)
    assert [found.tolist() for found in found_by_meaning(["10", "20"], [[], []], judge)] == [[0, 0], [0, 0]]


# -- all of them --------------------------------------------------------------------------------------------------


def test_all_measures_of_answers_by_hand() -> None:
    texts = ["10 steam engines", "20 steam mills", "30 … boats"]
    answers = [
        Answer("[10 steam][engines]", ("10 steam", "engines"), "valid", score=0.5),
        Answer("so: [20][10 STEAM]", ("20", "10 STEAM"), "repaired", "extra_text", 0.25),
        Answer("", (), "invalid", "missing", missing=True),
    ]
    found = measure(texts, answers, Judge("compass", False, compass, compass), WordSearch(texts))
    expected = {
        "well_formed": [1, 0, 0],
        "covered": [1, 1, 0],
        "similarity": [0.5, 0.25, 0],
        "found_by_words": [1, (1 + 1 / 2) / 2, 0],  # of `20 10 steam` either text has two words
        "found_by_meaning": [1, 1, 0],
        "found_among_like": [1, 1, 0],
        "words": [3, 3, 0],
        "copied_share": [1, 2 / 3, 0],
        "inflected": [0, 0, 0],
        "adjoining": [1, 0, 0],
        "long_runs": [0, 0, 0],
        "repeated": [0.5, 0.5, -0.5],  # the figure is 1/6, and 1/2 without the third text
    }
    assert {name: values_N.tolist() for name, values_N in found.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }
    assert tuple(found) == TAGS == tuple(expected)


def test_what_is_bounded_says_so() -> None:
    assert {name for name, of in MEASURES.items() if not of.bounded} == {"similarity", "words"}
