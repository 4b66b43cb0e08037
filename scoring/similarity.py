"""The scoring rule of training and evaluation: the cosine of the embeddings of a text and of its tags."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from semtag.generation.reasons import RejectReason
from semtag.generation.records import Candidate, SampledText

# Suffixes of array names: N strings, D embedding dimensions.
Embed = Callable[[list[str]], np.ndarray]
Scores = dict[int, float] | str  # of a text by one scorer: index of the candidate -> score; or why there are none
# Decimals of a score, by dtype of the weights. Further decimals depend on the batch that a string is embedded in.
DIGITS = {"float32": 6, "bfloat16": 3, "float16": 3}


def tag_string(tags: Sequence[str]) -> str:
    """Join tags to the string that is embedded. Example: `["tag1", "tag2"]` becomes `tag1, tag2`."""
    return ", ".join(tags)


def cosine(left_N_D: np.ndarray, right_N_D: np.ndarray) -> np.ndarray:
    """Compute the cosine of each pair of rows, shape [N], in [-1, 1]; 0 for a zero row, NaN for a row not finite."""
    left = left_N_D.astype(np.float64)
    right = right_N_D.astype(np.float64)
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right)
        return np.clip(np.divide(products, norms, out=np.zeros_like(products), where=norms != 0), -1.0, 1.0)


def rank_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort candidates by falling score and set `rank` from 0; candidates without a score come last with rank None.

    Equal scores are in order of sample index, so that the result does not depend on the input's order.
    """
    ordered = sorted(candidates, key=lambda c: (c.score is None, -(c.score or 0.0), c.sample))
    return [replace(c, rank=None if c.score is None else rank) for rank, c in enumerate(ordered)]


def score_texts(
    texts: Sequence[SampledText], embed_texts: Embed, embed_tags: Embed, digits: int = DIGITS["float32"]
) -> list[SampledText]:
    """Score and rank the candidates of texts by the cosine alone, see `with_scores`."""
    return with_scores(texts, [cosines(texts, embed_texts, embed_tags)], [1.0], digits)


def cosines(texts: Sequence[SampledText], embed_texts: Embed, embed_tags: Embed) -> list[Scores]:
    """Compute the cosine of each candidate with tags and its text; each distinct string is embedded once."""
    # Collect candidates with tags: index of the text, index of the candidate in the text, string of tags.
    asked = [
        (number, place, tag_string(candidate.tags))
        for number, text in enumerate(texts)
        for place, candidate in enumerate(text.candidates)
        if candidate.tags
    ]
    # Embed the distinct strings and compute the scores.
    scores: list[dict[int, float]] = [{} for _ in texts]
    if asked:
        texts_N_D = _embed_distinct((texts[number].text for number, _, _ in asked), embed_texts)
        tags_N_D = _embed_distinct((tags for _, _, tags in asked), embed_tags)
        for (number, place, _), value in zip(asked, cosine(texts_N_D, tags_N_D).tolist(), strict=True):
            scores[number][place] = value
    return [*scores]


def with_scores(
    texts: Sequence[SampledText], found: Sequence[Sequence[Scores]], weights: Sequence[float], digits: int
) -> list[SampledText]:
    """Rank the candidates of texts by the weighted sum of their scores; `found` has the scores of each scorer.

    Scores are rounded to `digits` before ranking, because further decimals depend on the batch. A candidate keeps the
    scores of each scorer if there are several. A text is rejected as `scorer_failed` or as `not_a_number` where a
    scorer has no finite scores for it.
    """
    of_texts = zip(texts, zip(*found, strict=True), strict=True)
    return [_scored(text, own, weights, digits) for text, own in of_texts]


def _scored(text: SampledText, found: Sequence[Scores], weights: Sequence[float], digits: int) -> SampledText:
    """Rank a text's candidates, or reject the text; `found` has the text's scores by each scorer."""
    scores: list[dict[int, float]] = []
    for own in found:
        if isinstance(own, str):
            return text.rejected(RejectReason.SCORER_FAILED, own)
        for place, value in own.items():
            if not math.isfinite(value):
                tags = tag_string(text.candidates[place].tags)
                return text.rejected(RejectReason.NOT_A_NUMBER, f"the score of its tags '{tags}' is not finite")
        scores.append({place: round(value, digits) for place, value in own.items()})
    ranked = []
    for place, candidate in enumerate(text.candidates):
        values = [own[place] for own in scores if place in own]
        total = round(sum(weight * value for weight, value in zip(weights, values, strict=False)), digits)
        ranked.append(replace(candidate, score=total if values else None, scores=values if len(values) > 1 else None))
    return replace(text, candidates=rank_candidates(ranked))


def _embed_distinct(strings: Iterable[str], embed: Embed) -> np.ndarray:
    """Embed strings by one call for the distinct strings; shape [N, D]."""
    strings = list(strings)
    place = {string: index for index, string in enumerate(dict.fromkeys(strings))}
    return embed(list(place))[[place[string] for string in strings]]
