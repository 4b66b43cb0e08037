"""Scoring maths, by hand and with the real embedding model."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from semtag.cluster.progress import Counts, NoTally
from semtag.configs.errors import UserError
from semtag.configs.scoring import Scoring
from semtag.generation.parse import Format
from semtag.generation.records import SAMPLED, Candidate, SampledText, sampled_counts
from semtag.scoring.embedder import Embedder, split_text
from semtag.scoring.scorer import Scorer
from semtag.scoring.similarity import cosine, rank_candidates, score_texts, tag_string
from semtag.store.locations import local_folder


def sampled(text: str, *candidates: Candidate) -> SampledText:
    return SampledText(0, text, None, "{}", "plain", candidates=candidates)


def tagged(text: str, *answers: list[str]) -> SampledText:
    """A text with a candidate for each list of tags."""
    return sampled(text, *(Candidate(sample, "", tags=tags) for sample, tags in enumerate(answers)))


def test_cosine_by_hand() -> None:
    left = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    right = np.array([[2.0, 0.0], [4.0, 3.0], [-5.0, 0.0], [1.0, 1.0]])
    assert cosine(left, right) == pytest.approx([1.0, 24 / 25, -1.0, 0.0])
    for number in (np.nan, np.inf):
        assert np.isnan(cosine(np.array([[number, 1.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [number, 1.0]]))).all()


def test_rank_puts_the_best_first_and_breaks_ties_by_sample() -> None:
    candidates = [Candidate(s, "", score=v) for s, v in [(3, 0.2), (2, None), (1, 0.9), (0, 0.2)]]
    assert [(c.sample, c.rank) for c in rank_candidates(candidates)] == [(1, 0), (0, 1), (3, 2), (2, None)]


def test_what_a_batch_adds_to_the_progress() -> None:
    def candidate(format_: Format, tokens: int | None, score: float | None) -> Candidate:
        return Candidate(0, "", num_tokens=tokens, format=format_, score=score)

    first = [candidate("valid", 7, 0.5), candidate("repaired", None, 0.25), candidate("invalid", 9, None)]
    texts = [sampled("", *of_text) for of_text in (first, [candidate("valid", 4, -0.5)], [])]
    assert sampled_counts(texts) == Counts(texts=3, candidates=4, valid=2, tokens=20)


def test_each_distinct_string_is_embedded_once() -> None:
    calls: list[list[str]] = []

    def embed(strings: list[str]) -> np.ndarray:
        calls.append(strings)
        return np.array([[len(string), 1.0] for string in strings])

    texts = [tagged("t1", ["a"], ["b"], ["a"]), tagged("t2", ["a"], []), tagged("t3", [])]
    scored = score_texts(texts, embed, embed)
    assert calls == [["t1", "t2"], ["a", "b"]]
    assert [c.score is None for c in scored[1].candidates] == [False, True]
    assert scored[2].candidates[0].rank is None


def test_last_digits_decide_nothing() -> None:
    """`wi-fi` and `wi - fi` are the same tokens, and their scores differ in digits that hang on the batch alone."""
    angles = {"text": 0.0, "wi-fi": 1.0, "wi - fi": 1.0 - 1e-9, "better": 0.9}

    def embed(strings: list[str]) -> np.ndarray:
        return np.array([[np.cos(angles[string]), np.sin(angles[string])] for string in strings])

    text = tagged("text", ["wi-fi"], ["wi - fi"], ["better"])
    ranked = score_texts([text], embed, embed)[0].candidates
    assert [one.sample for one in ranked] == [2, 0, 1]
    assert ranked[1].score == ranked[2].score == pytest.approx(np.cos(1.0), abs=1e-6)
    assert score_texts([text], embed, embed, 3)[0].candidates[0].score == 0.622


def test_nothing_to_score_calls_nothing() -> None:
    def never(strings: list[str]) -> np.ndarray:
        raise AssertionError(strings)

    [scored] = score_texts([sampled("t")], never, never)
    assert (scored.text, scored.candidates) == ("t", [])


def test_what_has_no_finite_embedding_is_rejected_and_costs_no_other() -> None:
    vectors = {"t1": [1.0, 0.0], "t2": [np.nan, 1.0], "a": [1.0, 1.0], "b": [np.inf, 1.0], "c": [0.0, 1.0]}

    def embed(strings: list[str]) -> np.ndarray:
        return np.array([vectors[string] for string in strings], dtype=np.float16)

    def candidate(sample: int, tag: str) -> Candidate:
        return Candidate(sample, "", tags=[tag])

    asked = [("t1", "a", "c"), ("t1", "a", "b"), ("t2", "a"), ("t1", "c"), ("t2",)]
    texts = [sampled(text, *map(candidate, range(len(tags)), tags)) for text, *tags in asked]
    scored = score_texts(texts, embed, embed)
    assert [text.reason for text in scored] == [None, "not_a_number", "not_a_number", None, None]
    assert [len(text.candidates) for text in scored] == [2, 0, 0, 1, 0]
    assert "'b'" in str(scored[1].detail) and "'a'" in str(scored[2].detail)
    assert [c.score for c in scored[0].candidates] == pytest.approx([0.5**0.5, 0.0])


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(Scoring(model="all-MiniLM-L6-v2"))


def test_good_tags_beat_tags_of_another_text(embedder: Embedder) -> None:
    text = "The centrifugal governor of James Watt keeps a steam engine at a steady speed."
    [ranked] = score_texts([tagged(text, ["bread", "oven"], ["steam engine"])], embedder.texts, embedder.tags)
    best, worst = ranked.candidates
    assert best.sample == 1
    assert best.score is not None and worst.score is not None and best.score > worst.score + 0.3


def test_a_model_that_overflows_at_a_word_costs_the_texts_with_that_word() -> None:
    embedder = Embedder(Scoring(model="all-MiniLM-L6-v2"))
    [word] = embedder.model.tokenizer("governor", add_special_tokens=False)["input_ids"]
    embedder.model[0].auto_model.embeddings.word_embeddings.weight.data[word] = np.inf
    answers = [["bread"], ["steam engine"]]
    texts = [tagged(text, *answers) for text in ("The governor of an engine.", "A steam engine.", "An oven.")]
    texts.append(tagged("An oven.", *answers, ["governor", "oven"]))
    scored = score_texts(texts, embedder.texts, embedder.tags)
    assert [text.reason for text in scored] == ["not_a_number", None, None, "not_a_number"]
    assert all(c.score is not None and -1 <= c.score <= 1 for text in scored for c in text.candidates)


def test_a_text_beyond_the_window_is_read_in_parts(embedder: Embedder) -> None:
    window = embedder.model.max_seq_length
    short, fits = (" ".join(["river"] * number) for number in (3, window - 2))
    rivers, bridges = (" ".join([word] * (window - 2)) for word in ("river", "bridge"))
    whole, river, bridge = embedder.texts([f"{rivers} {bridges}", rivers, bridges])
    assert embedder.in_parts == {f"{rivers} {bridges}"}
    directions = [one / np.linalg.norm(one) for one in (river, bridge)]
    assert np.allclose(whole, np.mean(directions, axis=0), atol=1e-6)
    # The cosine with tags is proportional to the mean of the parts' cosines.
    tags = embedder.tags(["bridge", "mill"])
    of_whole, *of_parts = (cosine(np.stack([one] * 2), tags) for one in (whole, *directions))
    ratios = of_whole / np.mean(of_parts, axis=0)
    assert ratios[0] == pytest.approx(ratios[1], abs=1e-5)
    embedder.in_parts.clear()
    prefixed = Embedder(Scoring(model="all-MiniLM-L6-v2", text_prefix="query: "))
    for one in (embedder, prefixed):
        one.texts([short, fits])
    assert (embedder.in_parts, prefixed.in_parts) == (set(), {fits})
    scorer = Scorer(embedder.scoring, NoTally())
    answer = {"sample": 0, "tags": ["river"], "format": "valid"}
    rows = [{"text": text, "candidates": [answer]} for text in (fits, f"{rivers} {bridges}")]
    rows.append({"text": rivers * 2, "candidates": [], "reason": "too_long"})  # not scored
    for _ in range(2):
        assert scorer(pa.Table.from_pylist(rows, SAMPLED))["in_parts"].to_pylist() == [False, True, None]


@given_any(st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=40), st.integers(1, 9))
def test_parts_hold_all_of_a_text(tokens: list[str], most: int) -> None:
    text, ends = "".join(tokens), [*itertools.accumulate(map(len, tokens))]
    offsets = list(zip([0, *ends], ends, strict=False))
    parts = split_text(text, offsets, most)
    assert "".join(parts) == text and len(parts) == -(-len(tokens) // most)
    places = [0, *itertools.accumulate(map(len, parts))]
    sizes, _ = np.histogram([begin for begin, _ in offsets], [*places[:-1], np.inf])
    assert sizes.max() <= most and sizes.sum() == len(tokens)


def test_parts_begin_with_a_word() -> None:
    text = "a bb cc d"
    assert split_text(text, [(0, 1), (2, 4), (5, 7), (8, 9)], 3) == ["a bb", "cc d"]
    assert split_text("steamengine", [(0, 5), (5, 11)], 1) == ["steam", "engine"]


def test_score_does_not_depend_on_the_batch(embedder: Embedder) -> None:
    texts = ["A short text.", "A text that is a good deal longer than the others are, and so pads them all in a batch."]
    together = embedder.texts(texts)
    alone = np.concatenate([embedder.texts([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_pooling_is_the_models_own(embedder: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(local_folder("all-MiniLM-L6-v2"), device="cpu")
    strings = ["one", tag_string(["steam engine", "governor"])]
    assert np.abs(embedder.tags(strings) - reference.encode(strings)).max() < 1e-5


def test_a_prefix_changes_only_its_own_side() -> None:
    plain, prefixed = (Embedder(Scoring(model="all-MiniLM-L6-v2", text_prefix=prefix)) for prefix in ("", "query: "))
    assert not np.allclose(plain.texts(["x"]), prefixed.texts(["x"]))
    assert np.allclose(plain.tags(["x"]), prefixed.tags(["x"]), atol=1e-6)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(UserError, match="Cannot load the embedding model /nowhere"):
        Embedder(Scoring(model="/nowhere"))
