"""How good are tags for a text? The one scoring rule, for training and for evaluation."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from semtag.generation.reasons import RejectReason
from semtag.generation.records import Candidate, SampledText

# Suffixes of array names: N strings, D embedding dimensions.
Embed = Callable[[list[str]], np.ndarray]
# Decimals of a score that do not depend on the batch that a string is embedded in, by the type of the weights.
DIGITS = {"float32": 6, "bfloat16": 3, "float16": 3}


def tag_string(tags: Sequence[str]) -> str:
    """The string that stands for tags before the embedding model: `tag1, tag2, tag3`."""
    return ", ".join(tags)


def cosine(left_N_D: np.ndarray, right_N_D: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of rows, shape [N], in [-1, 1]; 0 for a zero row, NaN for one not finite."""
    left = left_N_D.astype(np.float64)
    right = right_N_D.astype(np.float64)
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right)
        return np.clip(np.divide(products, norms, out=np.zeros_like(products), where=norms != 0), -1.0, 1.0)


def rank_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in order of falling score with their `rank`, those without a score last with rank None.

    Equal scores keep the order of their sample index, so the order never depends on the input's.
    """
    ordered = sorted(candidates, key=lambda c: (c.score is None, -(c.score or 0.0), c.sample))
    return [replace(c, rank=None if c.score is None else rank) for rank, c in enumerate(ordered)]


def score_texts(
    texts: Sequence[SampledText], embed_texts: Embed, embed_tags: Embed, digits: int = DIGITS["float32"]
) -> list[SampledText]:
    """The texts with scored and ranked candidates; each distinct string is embedded once.

    Scores are rounded to `digits` before they are compared, because what lies behind depends on the batch.
    A text is rejected as `not_a_number` where its own embedding or that of a candidate's tags is not finite.
    """
    # What is scored: the number of a text, that of a candidate in it, and the candidate's tags.
    asked = [
        (number, place, tag_string(candidate.tags))
        for number, text in enumerate(texts)
        for place, candidate in enumerate(text.candidates)
        if candidate.tags
    ]
    scores: list[dict[int, float]] = [{} for _ in texts]
    if asked:
        texts_N_D = _embed_distinct((texts[number].text for number, _, _ in asked), embed_texts)
        tags_N_D = _embed_distinct((tags for _, _, tags in asked), embed_tags)
        for (number, place, _), value in zip(asked, cosine(texts_N_D, tags_N_D).tolist(), strict=True):
            scores[number][place] = round(value, digits)
    return [_scored(text, of_text) for text, of_text in zip(texts, scores, strict=True)]


def _scored(text: SampledText, scores: dict[int, float]) -> SampledText:
    """The text with its candidates ranked by `scores`, by their place; or rejected, where one is no number."""
    for place, score in scores.items():
        if not math.isfinite(score):
            tags = tag_string(text.candidates[place].tags)
            return text.rejected(
                RejectReason.NOT_A_NUMBER, f"the embedding of the text or of its tags '{tags}' is not finite"
            )
    scored = [replace(candidate, score=scores.get(place)) for place, candidate in enumerate(text.candidates)]
    return replace(text, candidates=rank_candidates(scored))


def _embed_distinct(strings: Iterable[str], embed: Embed) -> np.ndarray:
    """Embeddings of the strings, shape [N, D], from one call over the distinct ones."""
    strings = list(strings)
    place = {string: index for index, string in enumerate(dict.fromkeys(strings))}
    return embed(list(place))[[place[string] for string in strings]]
