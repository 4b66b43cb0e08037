"""Rules from ranked lists to preference pairs and lists: which candidates form a pair, and which pairs are kept."""

import itertools
import math
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from semtag.configs.schema import Pairs
from semtag.generation.parse import same_answer_key
from semtag.generation.records import Candidate
from semtag.scoring.calibration import cost_of_words
from semtag.scoring.records import Pair, RankedList, RankedText
from semtag.store.hashing import hash64

FORMAT = 0  # the group of all format pairs; similarity pairs have the groups from 1
WIDEST = 2.0  # score gap of the last group: cosines differ by 2 at most, and a price of words can add to that
TOP_BITS = 12  # upper bits of a hash, by which `hash_thresholds` counts hashes
Preference = tuple[Candidate, Candidate]  # chosen, rejected


@dataclass
class Preferences:
    """Pairs of both kinds from one ranked list, and a count by reason of the candidate pairs that are no preference."""

    similarity: list[Preference] = field(default_factory=list)
    format: list[Preference] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def find_preferences(text_id: int, candidates: Sequence[Candidate], pairs: Pairs, seed: int) -> Preferences:
    """Find the preferences between a text's candidates by the configured strategy, before the caps over all texts.

    A pair never has two equal answers, a tie, or a score gap under `min_margin`. In a similarity pair both completions
    are valid and the chosen one scores higher. In a format pair only the chosen completion is valid. A pair holds
    completions as sampled and never a repaired answer, because the model did not write the repaired answer.
    """
    found = Preferences()
    for left, right in _candidate_pairs(text_id, candidates, pairs, seed):
        kept, reason = _prefer(left, right, pairs)
        if kept is None:
            found.dropped[reason] += 1
        elif kept[1].format == "valid":
            found.similarity.append(kept)
        else:
            found.format.append(kept)
    found.similarity = _at_most(found.similarity, text_id, pairs.max_per_text, seed, found.dropped)
    found.format = _at_most(found.format, text_id, pairs.max_per_text, seed, found.dropped)
    return found


def judged(candidate: Candidate, pairs: Pairs) -> Candidate:
    """Return the candidate as training sees it: its score less the price of its words, or invalid if a tag is too long.

    A tagger that learns the best answers writes ever longer tags, because cosine similarity grows with an answer's
    length. On texts of another kind its tags then exceed the word limit of a valid answer.
    """
    longest = max((len(tag.split()) for tag in candidate.tags), default=0)
    if pairs.max_tag_words is not None and longest > pairs.max_tag_words:
        return replace(candidate, format="invalid", score=None)
    if candidate.score is None or not pairs.word_price:
        return candidate
    return replace(candidate, score=candidate.score - cost_of_words(candidate.tags, pairs.word_price))


def pair_hash(seed: int, text_id: int, preference: Preference) -> int:
    """Hash the run's seed, the text and the two samples; a cap keeps the pairs with the smallest hashes."""
    return hash64("pair", seed, text_id, preference[0].sample, preference[1].sample)


def group_of(margin: float | None, pairs: Pairs) -> int:
    """Return the group in which a cap counts a pair: FORMAT without a margin, else the bin of the score gap, from 1.

    Only the strategy `margin_bins` has more than one bin. Example: with `margin_bin` 0.1, margin 0.25 is in group 3.
    """
    if margin is None:
        return FORMAT
    return 1 + int(min(margin, WIDEST) / pairs.margin_bin) if pairs.strategy == "margin_bins" else 1


def group_count(pairs: Pairs) -> int:
    """Return the number of possible groups."""
    return 1 + group_of(WIDEST, pairs)


def pairs_to_keep(counts: np.ndarray, texts: int, pairs: Pairs) -> np.ndarray:
    """Return how many of the `counts` [G] pairs of each group stay, int64 [G].

    Under `margin_bins` similarity pairs are spread evenly over the bins, with at most one pair per text on average.
    """
    kept = counts.copy()
    if pairs.strategy == "margin_bins":
        kept[1:] = np.minimum(counts[1:], largest_even_cap(counts[1:], texts))
    kept[FORMAT] = min(counts[FORMAT], format_quota(int(kept[1:].sum()), pairs.format_share))
    return kept


def largest_even_cap(counts: np.ndarray, total: int) -> int:
    """Return the largest cap c with sum_b min(counts_b, c) <= total; at least 1, so that no bin becomes empty.

    Example: counts [5, 1, 3] and total 6 give the cap 2.
    """
    caps = range(1, int(counts.max(initial=0)) + 1)
    return max(1, bisect_right(caps, total, key=lambda cap: int(np.minimum(counts, cap).sum())))


def format_quota(similarity: int, share: float) -> int:
    """Return the largest number F of format pairs for S similarity pairs with F / (S + F) <= share."""
    quota = int(share * similarity / (1 - share))
    # Correct the quota, because the division can round to either side of a whole number.
    while (quota + 1) <= share * (similarity + quota + 1):
        quota += 1
    while quota > share * (similarity + quota):
        quota -= 1
    return quota


def hash_thresholds(chunks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], most: np.ndarray) -> pa.Array:
    """Return for each group the largest hash that may stay, int64 [G]; null if no pair may stay.

    A group keeps its `most` [G] smallest hashes. `chunks` is called twice and yields groups and hashes, integer arrays
    [N]. The two passes hold only about one hash in 4096 in memory, because hashes are spread evenly.
    """
    # Count the hashes of each group by their upper bits.
    counts = np.zeros((len(most), 2**TOP_BITS), dtype=np.int64)
    for groups, hashes in chunks():
        np.add.at(counts, (groups, _top(hashes)), 1)
    # Find the upper bits of the last hash that may stay.
    until = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))
    most = np.minimum(most, until[:, -1])
    last = (until[:, 1:] < most[:, None]).sum(axis=1)
    # Collect the hashes with these bits, and take the last one that may stay.
    close: dict[int, list[int]] = {int(group): [] for group in np.flatnonzero(most)}
    for groups, hashes in chunks():
        near = (_top(hashes) == last[groups]) & (most[groups] > 0)
        for group, hash_ in zip(groups[near].tolist(), hashes[near].tolist(), strict=True):
            close[group].append(hash_)
    places = most - until[np.arange(len(most)), last] - 1  # of the last hash that may stay, in `close`
    thresholds = [sorted(close[group])[place] if group in close else None for group, place in enumerate(places)]
    return pa.array(thresholds, pa.int64())


def _top(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> (64 - TOP_BITS)) + 2 ** (TOP_BITS - 1)


def pair_of(text: RankedText, preference: Preference) -> Pair:
    """Make the pair of a match of a text's candidates."""
    chosen, rejected = preference
    margin = _score(chosen) - _score(rejected) if rejected.format == "valid" else None
    return Pair(
        text_id=text.text_id,
        kind="format" if margin is None else "similarity",
        prompt=text.prompt,
        prompt_ids=text.prompt_ids,
        chosen=_message(chosen.completion),
        rejected=_message(rejected.completion),
        margin=margin,
        chosen_sample=chosen.sample,
        rejected_sample=rejected.sample,
        ref_chosen_logprob=chosen.logprob,
        ref_rejected_logprob=rejected.logprob,
        chosen_ids=chosen.token_ids,
        rejected_ids=rejected.token_ids,
    )


def list_of(text: RankedText, pairs: Pairs) -> tuple[RankedList | None, str | None]:
    """Make the list of a text's distinct answers, valid or repaired; return None and the reason if there is none."""
    # Keep one candidate for each distinct answer, a valid one if possible.
    distinct: dict[tuple[str, ...], Candidate] = {}
    for candidate in sorted(text.candidates, key=lambda c: (c.format != "valid", c.sample)):
        if candidate.score is not None:
            distinct.setdefault(same_answer_key(candidate.tags), candidate)
    if len(distinct) < pairs.list_least:
        return None, "too_few_answers"
    # Order the answers by score, and thin the list to `list_most`.
    ranked = sorted(distinct.values(), key=lambda c: (-_score(c), c.sample))
    gap = _score(ranked[0]) - _score(ranked[-1])
    if gap == 0 or gap < pairs.list_min_range:
        return None, "range_too_small"
    kept = _spread(ranked, pairs.list_most)
    made = RankedList(
        text_id=text.text_id,
        prompt=text.prompt,
        prompt_ids=text.prompt_ids,
        completions=[_message(c.completion if c.format == "valid" else c.answer or "") for c in kept],
        scores=[_score(c) for c in kept],
        samples=[c.sample for c in kept],
        ref_logprobs=[c.logprob for c in kept],
        sampled_ids=[c.token_ids if c.format == "valid" else None for c in kept],
    )
    return made, None


def _spread(ranked: list[Candidate], most: int) -> list[Candidate]:
    """Return at most `most` candidates at even steps, first and last included. Example: 4 of 7 are 0, 2, 4 and 6."""
    count = min(most, len(ranked))
    return [ranked[place * (len(ranked) - 1) // (count - 1)] for place in range(count)]


def _candidate_pairs(text_id: int, candidates: Sequence[Candidate], pairs: Pairs, seed: int) -> Iterator[Preference]:
    """Yield the candidates to compare, as unordered pairs in a fixed order."""
    in_order = sorted(candidates, key=lambda c: c.sample)
    if pairs.strategy == "first_two":
        yield from itertools.combinations(in_order[:2], 2)
        return
    if pairs.strategy in ("all_pairs", "margin_bins"):
        yield from itertools.combinations(in_order, 2)
        return
    valid = [c for c in candidates if c.format == "valid"]
    malformed = [c for c in in_order if c.format != "valid"]
    best = max(valid, key=_by_score, default=None)
    others = [c for c in valid if c is not best]
    if best is not None and others:
        yield best, _choose_rejected(text_id, best, others, pairs, seed)
    if best is not None and malformed:
        yield best, max(malformed, key=_by_likelihood)
    if not valid:
        yield from itertools.combinations(malformed[:2], 2)


def _choose_rejected(text_id: int, best: Candidate, others: list[Candidate], pairs: Pairs, seed: int) -> Candidate:
    """Return the candidate to compare with the best valid one.

    The worst answer of a long list is a poor example. A candidate near two standard deviations under the mean score
    teaches more (arXiv 2502.16825).
    """
    if pairs.strategy == "best_vs_worst":
        return min(others, key=_by_score)
    if pairs.strategy == "best_vs_random":
        return min(others, key=lambda c: hash64("opponent", seed, text_id, c.sample))
    scores = [_score(c) for c in [best, *others]]
    target = statistics.fmean(scores) - 2 * statistics.pstdev(scores)
    return min(others, key=lambda c: (abs(_score(c) - target), c.sample))


def _score(candidate: Candidate) -> float:
    """Return the score of a candidate with tags."""
    if candidate.score is None:
        raise ValueError(f"sample {candidate.sample} has tags and no score")
    return candidate.score


def _by_score(candidate: Candidate) -> tuple[float, int]:
    return _score(candidate), -candidate.sample


def _by_likelihood(candidate: Candidate) -> tuple[float, int]:
    # Greedy decoding would write the likeliest malformed completion. Candidates from an API may lack a logprob.
    return -math.inf if candidate.logprob is None else candidate.logprob, -candidate.sample


def _prefer(left: Candidate, right: Candidate, pairs: Pairs) -> tuple[Preference | None, str]:
    """Return the chosen and the rejected candidate, or None and the reason if neither is preferred."""
    valid = (left.format == "valid") + (right.format == "valid")
    if valid == 0:
        return None, "both_malformed"
    if valid == 1:
        return ((left, right) if left.format == "valid" else (right, left)), ""
    if same_answer_key(left.tags) == same_answer_key(right.tags):
        return None, "equal_answers"
    gap = _score(left) - _score(right)
    if gap == 0:
        return None, "tie"
    if abs(gap) < pairs.min_margin:
        return None, "margin_too_small"
    return ((left, right) if gap > 0 else (right, left)), ""


def _at_most(
    preferences: list[Preference], text_id: int, most: int, seed: int, dropped: Counter[str]
) -> list[Preference]:
    if len(preferences) <= most:
        return preferences
    dropped["over_max_per_text"] += len(preferences) - most
    return sorted(preferences, key=lambda preference: pair_hash(seed, text_id, preference))[:most]


def _message(text: str) -> list[dict[str, str]]:
    # Strip white space around a completion, because some chat templates keep it and others strip it.
    return [{"role": "assistant", "content": text.strip()}]
