"""Pairing: what a preference is, and that the cap on format pairs is exact."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semtag.configs.schema import Pairs, Prompt
from semtag.generation.parse import same_answer_key
from semtag.generation.records import Candidate, read_candidate
from semtag.scoring.calibration import length_of_best
from semtag.scoring.pairs import (
    find_preferences,
    format_quota,
    group_count,
    group_of,
    hash_thresholds,
    judged,
    largest_even_cap,
    list_of,
    pair_hash,
    pair_of,
    pairs_to_keep,
)
from semtag.scoring.records import RankedText


def candidate(sample: int, completion: str, score: float | None = None) -> Candidate:
    read = read_candidate(Prompt(), sample, completion, None, token_ids=[sample, 2], logprob=-float(sample))
    return replace(read, score=score if read.tags else None)


def ranked(*candidates: Candidate) -> RankedText:
    """A text with these candidates."""
    return RankedText(1, "?", "{}", [{"role": "user", "content": "?"}], [5], [5], candidates)


def samples_of(preferences: list[Any]) -> list[tuple[int, int]]:
    return [(chosen.sample, rejected.sample) for chosen, rejected in preferences]


FIVE = [
    candidate(0, "[a][b]", 0.5),
    candidate(1, "[c]", 0.9),
    candidate(2, "Sure: [d]", 0.95),
    candidate(3, "[e]", 0.1),
    candidate(4, "no brackets"),
]


def test_first_two_is_the_published_rule() -> None:
    pairs = Pairs(strategy="first_two")
    assert samples_of(find_preferences(1, FIVE, pairs, 0).similarity) == [(1, 0)]
    assert samples_of(find_preferences(1, FIVE[1:3], pairs, 0).format) == [(1, 2)]
    assert find_preferences(1, [FIVE[2], FIVE[4]], pairs, 0).dropped == {"both_malformed": 1}


def test_best_vs_worst_pairs_the_extremes_and_one_malformed() -> None:
    found = find_preferences(1, FIVE, Pairs(strategy="best_vs_worst"), 0)
    assert samples_of(found.similarity) == [(1, 3)]
    assert samples_of(found.format) == [(1, 2)]


def test_the_likeliest_malformed_answer_is_the_one_rejected() -> None:
    best, *malformed = candidate(0, "[a]", 0.5), candidate(1, "b"), candidate(2, "c"), candidate(3, "d")
    for likely, expected in (
        ([-9.0, -2.0, -4.0], 2),
        ([None, None, -4.0], 3),
        ([None] * 3, 1),
        ([-1.0, -1.0, -2.0], 1),
    ):
        drawn = [replace(one, logprob=logprob) for one, logprob in zip(malformed, likely, strict=True)]
        for candidates in ([best, *drawn], [*drawn[::-1], best]):
            assert samples_of(find_preferences(1, candidates, Pairs(), 0).format) == [(0, expected)]


def test_best_vs_random_draws_any_other_and_always_the_same() -> None:
    many = [candidate(i, f"[{letter}]", 0.9 - 0.1 * i) for i, letter in enumerate("abcdef")]
    pairs = Pairs(strategy="best_vs_random")
    met = [samples_of(find_preferences(text_id, many, pairs, 0).similarity) for text_id in range(200)]
    assert {(0, other) for other in range(1, 6)} == {pair for pairs_ in met for pair in pairs_}
    assert met == [samples_of(find_preferences(text_id, many[::-1], pairs, 0).similarity) for text_id in range(200)]


def test_mean_minus_2sd_leaves_an_outlier_alone() -> None:
    # Mean 0.5525, standard deviation 0.1392: the target is 0.274, to which 0.35 is nearest.
    scores = [*[0.6] * 17, 0.5, 0.35, 0.0]
    many = [candidate(i, f"[{'abcdefghijklmnopqrst'[i]}]", score) for i, score in enumerate(scores)]
    assert samples_of(find_preferences(1, many, Pairs(strategy="mean_minus_2sd"), 0).similarity) == [(0, 18)]
    assert samples_of(find_preferences(1, many, Pairs(strategy="best_vs_worst"), 0).similarity) == [(0, 19)]
    assert samples_of(find_preferences(1, many[:1], Pairs(strategy="mean_minus_2sd"), 0).similarity) == []


def test_all_pairs_meets_everyone() -> None:
    found = find_preferences(1, FIVE, Pairs(strategy="all_pairs", max_per_text=100), 0)
    assert sorted(samples_of(found.similarity)) == [(0, 3), (1, 0), (1, 3)]
    assert sorted(samples_of(found.format)) == [(0, 2), (0, 4), (1, 2), (1, 4), (3, 2), (3, 4)]
    assert found.dropped == {"both_malformed": 1}


def test_equal_answers_ties_and_small_margins_make_no_pair() -> None:
    def dropped(left: dict[str, Any], right: dict[str, Any], **settings: Any) -> dict[str, int]:
        return dict(find_preferences(1, [left, right], Pairs(strategy="all_pairs", **settings), 0).dropped)

    assert dropped(candidate(0, "[A][b]", 0.5), candidate(1, "[ a ] [B]", 0.4)) == {"equal_answers": 1}
    assert dropped(candidate(0, "[a]", 0.5), candidate(1, "[b]", 0.5)) == {"tie": 1}
    assert dropped(candidate(0, "[a]", 0.5), candidate(1, "[b]", 0.45), min_margin=0.1) == {"margin_too_small": 1}


def test_at_most_so_many_a_text_whatever_their_order() -> None:
    pairs = Pairs(strategy="all_pairs", max_per_text=2)
    found = find_preferences(7, FIVE, pairs, 0)
    assert (len(found.similarity), len(found.format)) == (2, 2)
    assert found.dropped == {"both_malformed": 1, "over_max_per_text": 5}
    again = find_preferences(7, FIVE[::-1], pairs, 0)
    assert set(samples_of(again.similarity)) == set(samples_of(found.similarity))


@pytest.mark.parametrize(
    ("similarity", "share", "quota"),
    [(80, 0.2, 20), (81, 0.2, 20), (83, 0.2, 20), (84, 0.2, 21), (0, 0.2, 0), (9, 0, 0)],
)
def test_quota_by_hand(similarity: int, share: float, quota: int) -> None:
    assert format_quota(similarity, share) == quota


@given(st.integers(0, 10**7), st.floats(0, 0.95))
def test_quota_is_the_largest_that_keeps_the_share(similarity: int, share: float) -> None:
    quota = format_quota(similarity, share)
    assert quota <= share * (similarity + quota)
    assert quota + 1 > share * (similarity + quota + 1)


HASH = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1, 2**48, -(2**48)])


@given(
    st.lists(st.tuples(st.integers(0, 2), HASH), unique_by=lambda pair: pair[1], max_size=50),
    st.lists(st.integers(0, 60), min_size=3, max_size=3),
    st.integers(1, 7),
)
def test_thresholds_let_exactly_as_many_pass(pairs: list[tuple[int, int]], most: list[int], length: int) -> None:
    parts = [pairs[i : i + length] for i in range(0, len(pairs), length)]
    chunks = [tuple(np.array(column, dtype=np.int64) for column in zip(*part, strict=True)) for part in parts]
    thresholds = hash_thresholds(lambda: chunks, np.array(most))  # type: ignore[arg-type,return-value]
    for group, threshold in enumerate(thresholds.to_pylist()):
        hashes = sorted(hash_ for group_, hash_ in pairs if group_ == group)
        passed = [] if threshold is None else [hash_ for hash_ in hashes if hash_ <= threshold]
        assert passed == hashes[: most[group]]


def test_bins_of_gaps_by_hand() -> None:
    pairs = Pairs(strategy="margin_bins", margin_bin=0.25)
    assert [group_of(margin, pairs) for margin in (None, 0.1, 0.25, 0.3, 2.0)] == [0, 1, 2, 2, 9]
    assert group_count(pairs) == 10
    assert [group_of(margin, Pairs()) for margin in (None, 0.1, 2.0)] == [0, 1, 1]
    assert group_count(Pairs()) == 2


def test_margin_bins_keep_as_many_pairs_as_texts_and_all_of_a_rare_gap() -> None:
    pairs, counts = Pairs(strategy="margin_bins", format_share=0.5), np.array([100, 50, 20, 3, 0])
    # 12 + 12 + 3 pairs for 27 texts, and as many format pairs; 28 are one too few for 13 + 13 + 3.
    for texts in (27, 28):
        assert pairs_to_keep(counts, texts, pairs).tolist() == [27, 12, 12, 3, 0]
    assert pairs_to_keep(counts, 1000, pairs).tolist() == [73, 50, 20, 3, 0]
    assert pairs_to_keep(counts, 1, pairs).tolist() == [3, 1, 1, 1, 0]
    assert pairs_to_keep(np.array([100, 73]), 27, Pairs(format_share=0.5)).tolist() == [73, 73]


@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(0, 10**7))
def test_even_cap_is_the_largest(counts: list[int], total: int) -> None:
    counts_ = np.array(counts, dtype=np.int64)
    cap = largest_even_cap(counts_, total)
    assert cap == 1 or np.minimum(counts_, cap).sum() <= total
    assert cap >= counts_.max(initial=0) or np.minimum(counts_, cap + 1).sum() > total


ANSWERS = st.sampled_from(["[a]", "[b]", "[a][b]", "[A]", "[a][a]", "text [c]", "", "[", "[d][e][f][g]"])


@settings(max_examples=300)
@given(
    st.lists(st.tuples(ANSWERS, st.sampled_from([0.1, 0.2, 0.3, 0.31])), max_size=6),
    st.sampled_from(["first_two", "best_vs_worst", "best_vs_random", "mean_minus_2sd", "all_pairs", "margin_bins"]),
    st.sampled_from([0.0, 0.05]),
    st.randoms(use_true_random=False),
)
def test_a_pair_is_a_preference(drawn: list[Any], strategy: Any, min_margin: float, rng: Any) -> None:
    candidates = [candidate(i, completion, score) for i, (completion, score) in enumerate(drawn)]
    pairs = Pairs(strategy=strategy, min_margin=min_margin)
    found = find_preferences(5, candidates, pairs, 3)
    for chosen, rejected in found.similarity:
        assert chosen.format == rejected.format == "valid"
        assert same_answer_key(chosen.tags) != same_answer_key(rejected.tags)
        assert chosen.score - rejected.score > 0
        assert chosen.score - rejected.score >= min_margin
    for chosen, rejected in found.format:
        assert chosen.format == "valid" != rejected.format
    rng.shuffle(candidates)
    again = find_preferences(5, candidates, pairs, 3)
    assert sorted(samples_of(again.similarity)) == sorted(samples_of(found.similarity))
    assert sorted(samples_of(again.format)) == sorted(samples_of(found.format))


def test_rows_say_what_was_sampled() -> None:
    text = ranked(*FIVE)
    pair = pair_of(text, (FIVE[1], FIVE[3]))
    assert pair.chosen == [{"role": "assistant", "content": "[c]"}]
    assert pair.prompt_ids == [5]
    assert pair.margin == pytest.approx(0.8)
    assert (pair.ref_chosen_logprob, pair.ref_rejected_logprob) == (-1.0, -3.0)
    assert (pair.chosen_ids, pair.rejected_ids) == ([1, 2], [3, 2])
    format_pair = pair_of(text, (FIVE[1], FIVE[2]))
    assert (format_pair.kind, format_pair.margin) == ("format", None)
    list_, why_not = list_of(text, Pairs())
    assert list_ is not None and why_not is None
    assert list_.scores == [0.95, 0.9, 0.5, 0.1]
    assert list_.completions[0] == [{"role": "assistant", "content": "[d]"}]
    assert list_.ref_logprobs == [-2.0, -1.0, 0.0, -3.0]
    assert list_.sampled_ids == [None, [1, 2], [0, 2], [3, 2]]


def test_lists_have_enough_answers_some_range_and_not_too_many() -> None:
    text = ranked(*FIVE)
    assert list_of(ranked(FIVE[0]), Pairs()) == (None, "too_few_answers")
    assert list_of(text, Pairs(list_least=5)) == (None, "too_few_answers")
    assert list_of(text, Pairs(list_min_range=0.86)) == (None, "range_too_small")
    equal = [candidate(0, "[a]", 0.5), candidate(1, "[b]", 0.5)]
    assert list_of(ranked(*equal), Pairs()) == (None, "range_too_small")
    for most, scores in ((4, [0.95, 0.9, 0.5, 0.1]), (3, [0.95, 0.9, 0.1]), (2, [0.95, 0.1])):
        list_, _ = list_of(text, Pairs(list_most=most))
        assert list_ is not None and list_.scores == scores


def test_words_beyond_two_and_a_half_a_tag_have_a_price() -> None:
    short, long = candidate(0, "[old mill][river]", 0.5), candidate(1, "[the old mill on the river]", 0.55)
    unusable = candidate(2, "no brackets")
    free, priced = Pairs(), Pairs(word_price=0.02)
    assert [judged(one, free) for one in (short, long, unusable)] == [short, long, unusable]
    assert [judged(one, priced).score for one in (short, long, unusable)] == [0.5, pytest.approx(0.48), None]
    for pairs, chosen in ((free, (1, 0)), (priced, (0, 1))):  # 3.5 words cost 0.07
        found = find_preferences(1, [judged(one, pairs) for one in (short, long)], pairs, 0)
        assert samples_of(found.similarity) == [chosen]
    list_, _ = list_of(ranked(*(judged(one, priced) for one in (short, long))), priced)
    assert list_ is not None and (list_.samples, list_.scores) == ([0, 1], [0.5, pytest.approx(0.48)])
    assert pair_of(ranked(short, long), (short, judged(long, priced))).margin == pytest.approx(0.02)


def test_the_best_answer_has_more_words_than_the_mean_or_fewer() -> None:
    long, short = candidate(0, "[the old mill][on the river]", 0.7), candidate(1, "[mill][river]", 0.6)
    unusable, repaired = candidate(2, "no brackets"), candidate(3, "so: [a b c d e f g h]", 0.9)
    assert length_of_best([repaired, long, short, unusable]) == 1
    assert length_of_best([short, replace(long, score=0.5)]) == -1
    assert length_of_best([judged(one, Pairs(word_price=0.2)) for one in (long, short)]) == -1
    assert length_of_best([long]) == length_of_best([unusable]) == length_of_best([]) == 0


def test_gaps_that_a_price_widens_are_in_the_last_bin() -> None:
    pairs = Pairs(strategy="margin_bins", margin_bin=0.5)
    assert [group_of(margin, pairs) for margin in (1.9, 2.0, 7.0)] == [4, 5, 5]
    assert group_count(pairs) == 6


def test_a_long_tag_makes_an_answer_malformed_for_training_alone() -> None:
    short, long = candidate(0, "[old mill][river]", 0.5), candidate(1, "[the old mill on the river]", 0.9)
    unusable = candidate(2, "no brackets")
    assert [judged(one, Pairs()) for one in (short, long, unusable)] == [short, long, unusable]
    assert judged(short, Pairs(max_tag_words=2)) == short
    assert judged(long, Pairs(max_tag_words=6)) == long
    pairs = Pairs(max_tag_words=5)
    candidates = [judged(one, pairs) for one in (short, long, unusable)]
    assert (candidates[1].format, candidates[1].score) == ("invalid", None)
    assert long.format == "valid"
    found = find_preferences(1, candidates, pairs, 0)
    assert (samples_of(found.similarity), samples_of(found.format)) == ([], [(0, 1)])
    assert list_of(ranked(*candidates), pairs) == (None, "too_few_answers")


def test_hash_depends_on_text_and_samples() -> None:
    hashes = {
        pair_hash(seed, text, (FIVE[i], FIVE[j])) for seed in (0, 1) for text in (1, 2) for i, j in ((0, 1), (1, 0))
    }
    assert len(hashes) == 8
