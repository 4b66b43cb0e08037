"""Ranked lists -> preference pairs and lists. What a pair is, which ones are kept, and why the others are not."""

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
from semtag.scoring.records import Pair, RankedList, RankedText
from semtag.store.hashing import hash64

FORMAT = 0  # the group of all format pairs; similarity pairs have the groups from 1
TOP_BITS = 12  # of a hash, by which hashes are counted
Match = tuple[Candidate, Candidate]  # chosen, rejected


@dataclass
class Matches:
    """What one ranked list yields: pairs of both kinds, and a count by reason of the matches that made none."""

    similarity: list[Match] = field(default_factory=list)
    format: list[Match] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def match(text_id: int, candidates: Sequence[Candidate], pairs: Pairs, seed: int) -> Matches:
    """The matches of one text under the configured strategy, before the caps over all texts.

    A pair is a preference: never two equal answers, never a tie or a gap under `min_margin`; chosen scores higher
    (kind similarity, both valid) or is the valid one (kind format). Repaired answers are never trained on as pairs:
    the model did not write them.
    """
    found = Matches()
    for left, right in _meetings(text_id, candidates, pairs, seed):
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
    """The candidate as training sees it: without a score, and invalid, if a tag is longer than `max_tag_words`.

    Cosine similarity grows with the length of an answer, so a tagger that learns the best answers comes ever closer to
    the limit of words that its form allows, and crosses it on texts of another kind.
    """
    longest = max((len(tag.split()) for tag in candidate.tags), default=0)
    short = pairs.max_tag_words is None or longest <= pairs.max_tag_words
    return candidate if short else replace(candidate, format="invalid", score=None)


def pair_hash(seed: int, text_id: int, match_: Match) -> int:
    """Decides which pairs stay where only some may: a hash of the run's seed, the text and the two samples."""
    return hash64("pair", seed, text_id, match_[0].sample, match_[1].sample)


def group_of(margin: float | None, pairs: Pairs) -> int:
    """The group of pairs that a cap holds for: FORMAT where there is no margin, else the bin of the score gap, from 1.

    Only the strategy `margin_bins` has more than one.
    """
    if margin is None:
        return FORMAT
    return 1 + int(margin / pairs.margin_bin) if pairs.strategy == "margin_bins" else 1


def groups_of(pairs: Pairs) -> int:
    """The number of groups that there can be: scores are cosines, so gaps are 2 at most."""
    return 1 + group_of(2.0, pairs)


def quotas(counts: np.ndarray, texts: int, pairs: Pairs) -> np.ndarray:
    """How many pairs of each group stay, int64 [G], of the `counts` [G] that there are."""
    kept = counts.copy()
    if pairs.strategy == "margin_bins":
        kept[1:] = np.minimum(counts[1:], even_cap(counts[1:], texts))
    kept[FORMAT] = min(counts[FORMAT], format_quota(int(kept[1:].sum()), pairs.format_share))
    return kept


def even_cap(counts: np.ndarray, total: int) -> int:
    """The most pairs c of each bin so that sum_b min(counts_b, c) <= total; at least 1, so that no bin goes empty."""
    caps = range(1, int(counts.max(initial=0)) + 1)
    return max(1, bisect_right(caps, total, key=lambda cap: int(np.minimum(counts, cap).sum())))


def format_quota(similarity: int, share: float) -> int:
    """The most format pairs F for S similarity pairs so that F / (S + F) <= share."""
    quota = int(share * similarity / (1 - share))
    # The division can round to either side of a whole number; the cap is exact.
    while (quota + 1) <= share * (similarity + quota + 1):
        quota += 1
    while quota > share * (similarity + quota):
        quota -= 1
    return quota


def cap_thresholds(chunks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], most: np.ndarray) -> pa.Array:
    """For each group the largest of its hashes that is still among its `most` smallest, int64 [G]; null: none may stay.

    `chunks` is called twice for groups and hashes, integer arrays [N]: to count the hashes by their upper bits, and to
    look closely at those bits in which a group's `most` [G] end. So memory does not grow with the number of hashes.
    """
    counts = np.zeros((len(most), 2**TOP_BITS), dtype=np.int64)
    for groups, hashes in chunks():
        np.add.at(counts, (groups, _top(hashes)), 1)
    until = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))
    most = np.minimum(most, until[:, -1])
    last = (until[:, 1:] < most[:, None]).sum(axis=1)
    close: dict[int, list[int]] = {int(group): [] for group in np.flatnonzero(most)}
    for groups, hashes in chunks():
        near = (_top(hashes) == last[groups]) & (most[groups] > 0)
        for group, hash_ in zip(groups[near].tolist(), hashes[near].tolist(), strict=True):
            close[group].append(hash_)
    places = most - until[np.arange(len(most)), last] - 1  # of the last one that may stay, among those near it
    thresholds = [sorted(close[group])[place] if group in close else None for group, place in enumerate(places)]
    return pa.array(thresholds, pa.int64())


def _top(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> (64 - TOP_BITS)) + 2 ** (TOP_BITS - 1)


def pair_of(text: RankedText, match_: Match) -> Pair:
    """The pair that a match of a text's candidates makes."""
    chosen, rejected = match_
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
    """The list of a text's distinct answers, valid or repaired; or None and the reason."""
    distinct: dict[tuple[str, ...], Candidate] = {}
    for candidate in sorted(text.candidates, key=lambda c: (c.format != "valid", c.sample)):
        if candidate.score is not None:
            distinct.setdefault(same_answer_key(candidate.tags), candidate)
    if len(distinct) < pairs.list_least:
        return None, "too_few_answers"
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
    """At most `most` of them: the first, the last, and those at even steps between."""
    count = min(most, len(ranked))
    return [ranked[place * (len(ranked) - 1) // (count - 1)] for place in range(count)]


def _meetings(text_id: int, candidates: Sequence[Candidate], pairs: Pairs, seed: int) -> Iterator[Match]:
    """Which candidates meet, as unordered pairs in a fixed order."""
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
        yield best, _opponent(text_id, best, others, pairs, seed)
    if best is not None and malformed:
        yield best, max(malformed, key=_by_likelihood)
    if not valid:
        yield from itertools.combinations(malformed[:2], 2)


def _opponent(text_id: int, best: Candidate, others: list[Candidate], pairs: Pairs, seed: int) -> Candidate:
    """Whom the best valid candidate meets.

    As lists grow, their worst answer becomes a poor example: one near two standard deviations under the mean teaches
    more (arXiv 2502.16825).
    """
    if pairs.strategy == "best_vs_worst":
        return min(others, key=_by_score)
    if pairs.strategy == "best_vs_random":
        return min(others, key=lambda c: hash64("opponent", seed, text_id, c.sample))
    scores = [_score(c) for c in [best, *others]]
    target = statistics.fmean(scores) - 2 * statistics.pstdev(scores)
    return min(others, key=lambda c: (abs(_score(c) - target), c.sample))


def _score(candidate: Candidate) -> float:
    """The score of a candidate that has tags."""
    assert candidate.score is not None
    return candidate.score


def _by_score(candidate: Candidate) -> tuple[float, int]:
    return _score(candidate), -candidate.sample


def _by_likelihood(candidate: Candidate) -> tuple[float, int]:
    # Decoded greedily, the tagger errs in the way that it finds likeliest; an API need not tell how likely that is.
    return -math.inf if candidate.logprob is None else candidate.logprob, -candidate.sample


def _prefer(left: Candidate, right: Candidate, pairs: Pairs) -> tuple[Match | None, str]:
    """The preference between two candidates, or None and the reason why there is none."""
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


def _at_most(matches: list[Match], text_id: int, most: int, seed: int, dropped: Counter[str]) -> list[Match]:
    if len(matches) <= most:
        return matches
    dropped["over_max_per_text"] += len(matches) - most
    return sorted(matches, key=lambda match_: pair_hash(seed, text_id, match_))[:most]


def _message(text: str) -> list[dict[str, str]]:
    # White space around a completion is no part of it; a template would train it or strip it, each in its own way.
    return [{"role": "assistant", "content": text.strip()}]
