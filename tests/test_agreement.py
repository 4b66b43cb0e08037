"""Agreement with people's keyphrases by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from semtag.evaluation.agreement import agreement, f1_at_5, f1_at_m, stemmed
from tests.test_search import corpus_of


def run(texts: Sequence[str], tags: list[list[str]], keys: list[list[str]]) -> dict[str, np.ndarray]:
    return {one.key.measure: one.values_N for one in agreement(corpus_of(texts), {"tuned": tags}, keys)}


def test_phrases_are_stems_each_of_which_counts_once() -> None:
    assert stemmed(["Steam  Engines", "governor", "steam engine!", "--", "Governors"]) == ["steam engin", "governor"]


def test_f1_by_hand() -> None:
    wanted = ["a", "b", "c"]
    assert f1_at_m(["a", "b"], wanted) == pytest.approx(2 * 2 / (2 + 3))
    assert f1_at_5(["a", "b"], wanted) == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))  # precision over five
    many = ["x", "a", "y", "z", "w", "b", "c"]
    assert f1_at_5(many, wanted) == pytest.approx(2 / (5 + 3))  # `b` and `c` come too late
    assert f1_at_m(many, wanted) == pytest.approx(2 * 3 / (7 + 3))
    assert f1_at_5([], wanted) == f1_at_m([], wanted) == 0
    assert np.isnan(f1_at_5(["a"], [])) and np.isnan(f1_at_m([], []))


def test_present_and_absent_keyphrases_by_hand() -> None:
    text = "The governors of a steam engine. A mill."
    keys = ["governor", "steam engines", "engine mill", "history"]  # two present, two absent: no run has `engine mill`
    tags = ["steam engine", "mill", "history", "coal", "engines steam"]  # two present, three absent
    found = run([text], [tags], [keys])
    assert found["f1_at_5"] == pytest.approx([2 * 2 / (5 + 4)])
    assert found["f1_at_m"] == pytest.approx([2 * 2 / (5 + 4)])
    assert found["present_f1_at_m"] == pytest.approx([2 * 1 / (2 + 2)])
    assert found["present_f1_at_5"] == pytest.approx([2 * 1 / (5 + 2)])
    assert found["absent_f1_at_m"] == pytest.approx([2 * 1 / (3 + 2)])
    assert found["absent_f1_at_5"] == pytest.approx([2 * 1 / (5 + 2)])


def test_the_first_five_of_a_kind_count() -> None:
    tags = ["no1", "no2", "no3", "no4", "no5", "mill"]
    found = run(["a mill"], [tags], [["mill"]])
    assert found["f1_at_5"] == 0 and found["present_f1_at_5"] == pytest.approx(2 / (5 + 1))


def test_a_text_without_keyphrases_of_a_kind_has_no_value() -> None:
    texts, keys = ["a mill", "a boat", "a train", "a ship"], [["mill"], ["history"], [], ["--"]]
    found = run(texts, [["mill"], [], ["train"], ["ship"]], keys)
    nothing = float("nan")
    assert found["f1_at_m"] == pytest.approx([1, 0, nothing, nothing], nan_ok=True)
    assert found["present_f1_at_m"] == pytest.approx([1, nothing, nothing, nothing], nan_ok=True)
    assert found["absent_f1_at_m"] == pytest.approx([nothing, 0, nothing, nothing], nan_ok=True)


def test_words_stand_in_a_text_only_whole() -> None:
    found = run(["the millennium"], [["mill"]], [["mill"]])
    assert np.isnan(found["present_f1_at_m"]) and found["absent_f1_at_m"] == 1


def test_other_scripts_and_texts_without_words() -> None:
    found = run(["水车在河边", "!!!"], [["水车"], []], [["水车", "河边"], ["mill"]])
    assert found["present_f1_at_m"] == pytest.approx([2 / 3, float("nan")], nan_ok=True)
    assert found["absent_f1_at_m"] == pytest.approx([float("nan"), 0], nan_ok=True)


def test_keyphrases_themselves_agree_wholly() -> None:
    keys = [["a mill", "Corn"], ["steam engines"], ["boat"]]
    found = run(["A mill.", "x", "boats"], keys, keys)
    for measure in ("f1_at_m", "present_f1_at_m", "absent_f1_at_m"):
        assert set(found[measure][~np.isnan(found[measure])]) == {1.0}, measure


def test_without_keyphrases_there_is_no_agreement() -> None:
    assert run(["a", "b"], [["a"], []], [[], []]) == {}
