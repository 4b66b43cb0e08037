"""Measures that training never saw, by hand, and gates that a tagger cannot pass by copying."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from semtag.configs.schema import Evaluation, Scoring
from semtag.evaluation.corpus import Corpus
from semtag.evaluation.gates import independent
from semtag.evaluation.measures import (
    copied_share,
    diversity,
    found_by_words,
    longest_span,
    measure,
    specificity,
    word_count,
    words_of,
)
from semtag.evaluation.statistics import jackknife
from semtag.generation.records import Candidate, SampledText
from semtag.scoring.similarity import Embed, score_texts
from tests.conftest import ROOT

TEXT = "The steam engine, built by James Watt, drove the mill."


def test_words_and_copies_by_hand() -> None:
    assert words_of("Don't_stop: Élan 2nd!") == ["don", "t", "stop", "élan", "2nd"]
    assert copied_share(TEXT, ["Steam engine", "governor"]) == pytest.approx(2 / 3)
    assert copied_share(TEXT, []) == 0
    assert longest_span(TEXT, ["steam engine", "James Watt"]) == 2
    assert longest_span(TEXT, ["the steam", "engine built", "mill"]) == 4
    assert longest_span(TEXT, ["governor"]) == 0
    assert word_count(["steam engine", "mill"]) == 3


def test_rarity_by_hand() -> None:
    texts = ["a b", "a c", "a d"]
    assert specificity(texts, [["a"], ["b a"], []]) == pytest.approx([0.0, math.log(4 / 2) / 2, 0.0])


def test_a_text_is_found_by_what_only_it_has() -> None:
    texts = ["a train in the valley", "a train on the hill", "a boat on the lake", "the boats"]
    found = found_by_words(texts, [["valleys"], ["train"], ["nothing"], []])
    assert found == pytest.approx([1.0, 1 / 1.5, 1 / 2.5, 0.0])  # alone; one of two; one of four; no tags


def test_how_varied_tags_are_by_hand() -> None:
    spread = diversity([["a", "b"], ["A"], ["c"]])
    without = [1.0, math.log2(3), -sum(p * math.log2(p) for p in (2 / 3, 1 / 3))]  # a and c; a, b, c; two a and b
    assert spread["tags"] == 4
    assert spread["distinct"] == jackknife(3, np.array([2, 3, 2]))._asdict()
    assert spread["entropy_bits"]["value"] == pytest.approx(3 * 1.5 - 2 * sum(without) / 3)
    nothing = {"value": 0, "low": None, "high": None}
    assert diversity([[]]) == diversity([]) == {"tags": 0, "distinct": nothing, "entropy_bits": nothing}


def test_each_text_is_taken_away_in_turn() -> None:
    rng = np.random.default_rng(0)
    tags = [[str(tag) for tag in rng.integers(0, 20, size=rng.integers(0, 6))] for _ in range(40)]

    def plain(rows: list[list[str]]) -> tuple[int, float]:
        counts = np.array([*Counter(tag for row in rows for tag in row).values()])
        return len(counts), -float((counts / counts.sum() * np.log2(counts / counts.sum())).sum())

    distinct, entropy = plain(tags)
    without = [plain([*tags[:place], *tags[place + 1 :]]) for place in range(40)]
    found = diversity(tags)
    assert found["distinct"] == jackknife(distinct, np.array([one[0] for one in without]))._asdict()
    slow = jackknife(entropy, np.array([one[1] for one in without]), correct=True)
    assert found["entropy_bits"] == pytest.approx(slow._asdict())


def test_the_entropys_interval_holds_what_the_texts_were_drawn_from() -> None:
    rng, held, values = np.random.default_rng(0), 0, []
    shares = np.array([0.3, 0.2, *[0.05] * 10])
    true = -(shares * np.log2(shares)).sum()
    for _ in range(200):
        found = diversity([[str(tag)] for tag in rng.choice(12, p=shares, size=150)])["entropy_bits"]
        held += found["low"] <= true <= found["high"]
        values.append(found["value"])
    assert 184 <= held <= 198, held
    assert np.mean(values) == pytest.approx(true, abs=0.01)  # the plain entropy is 0.05 bits too low


def test_the_entropys_interval_where_all_tags_are_as_frequent() -> None:
    rng, held, true = np.random.default_rng(0), 0, math.log2(6)
    for _ in range(100):
        interval = diversity([[str(tag)] for tag in rng.integers(0, 6, size=150)])["entropy_bits"]
        held += interval["low"] <= true <= interval["high"]
    assert held >= 80, held  # near its bound of ln 6 an entropy has no symmetric errors


def two_rare_words(text: str, rare: dict[str, int]) -> list[str]:
    return sorted(set(words_of(text)), key=lambda word: (rare[word], word))[:2]


def scored(texts: list[str], tags: list[list[str]]) -> list[dict[str, Any]]:
    """Valid answers with these tags, scored by the real embedder."""
    from semtag.scoring.embedder import Embedder

    embedder = Embedder(Scoring(model="all-MiniLM-L6-v2"))
    answers = [Candidate(0, "", tags=own, format="valid") for own in tags]
    asked = [SampledText(0, text, None, "{}", "", candidates=[one]) for text, one in zip(texts, answers, strict=True)]
    return [vars(text.candidates[0]) for text in score_texts(asked, embedder.texts, embedder.tags)]


def corpus_of(texts: list[str], base: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> Corpus:
    return Corpus([*range(len(texts))], texts, [{} for _ in texts], {"base": base, "tuned": tuned})


def judged(corpus: Corpus, resamples: int, second: Embed | None = None) -> dict[str, Any]:
    measured = {arm: measure(corpus.texts, corpus.answers[arm], second) for arm in ("base", "tuned")}
    return independent(corpus, measured, Evaluation(resamples=resamples), 0)


def test_who_copies_scores_higher_and_fails() -> None:
    lines = (ROOT / "configs" / "demo" / "texts.jsonl").read_text(encoding="utf-8").splitlines()[::7]
    texts = [json.loads(line)["text"] for line in lines]
    rare: dict[str, int] = {}
    for text in texts:
        for word in set(words_of(text)):
            rare[word] = rare.get(word, 0) + 1
    base = scored(texts, [two_rare_words(text, rare) for text in texts])
    copied = scored(texts, [[" ".join(words_of(text)[at : at + 6]) for at in (0, 6, 12)] for text in texts])
    found = judged(corpus_of(texts, base, copied), 500)
    similarity = found["independent"]["measures"][0]
    assert similarity["difference"]["low"] > 0.1
    passed = {gate["name"]: gate["passed"] for gate in found["gates"]}
    assert not passed["copying"] and not passed["length"]
    same = judged(corpus_of(texts, base, base), 500)
    assert all(gate["passed"] for gate in same["gates"])


def test_what_raises_similarity_alone_fails_the_independent_score() -> None:
    texts = [f"text {place} about word{place}" for place in range(40)]
    rng = np.random.default_rng(0)

    def answers(tag: str, score: float) -> list[dict[str, Any]]:
        return [
            {"format": "valid", "tags": [tag.format(place)], "score": score + rng.normal(0, 0.01)}
            for place in range(40)
        ]

    found = judged(corpus_of(texts, answers("word{}", 0.3), answers("text", 0.5)), 500)
    why = {gate["name"]: gate for gate in found["gates"]}
    assert not why["independent score"]["passed"] and "similarity rose" in why["independent score"]["why"]
    assert not why["diversity"]["passed"]


def test_a_second_model_is_a_gate_of_its_own() -> None:
    texts = [f"text {place} about word{place}" for place in range(40)]

    def answers(tag: str, score: float) -> list[dict[str, Any]]:
        return [{"format": "valid", "tags": [tag.format(place)], "score": score} for place in range(40)]

    def numbers(strings: list[str]) -> np.ndarray:  # sees numbers alone
        return np.array([[float(str(place) in words_of(string)) for place in range(40)] for string in strings]) + 1e-6

    def gates_of(tuned: str) -> dict[str, bool]:
        both = corpus_of(texts, answers("text", 0.3), answers(tuned, 0.5))
        found = judged(both, 200, numbers)
        assert "found_by_meaning" in {measure["name"] for measure in found["independent"]["measures"]}
        return {gate["name"]: gate["passed"] for gate in found["gates"]}

    assert (gates_of("word{}")["independent score"], gates_of("word{}")["second model"]) == (True, False)
    assert gates_of("{}")["second model"]


def test_without_texts_to_compare_no_gate_passes() -> None:
    broken = [{"format": "invalid", "tags": [], "score": None}]
    found = judged(corpus_of(["a text"], broken, broken), 100)
    assert [gate["passed"] for gate in found["gates"]] == [False]
