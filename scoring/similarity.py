"""How good are tags for a text? The one scoring rule, for training and for evaluation."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

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


def rank_candidates(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidates in order of falling score with their `rank`, those without a score last with rank None.

    Equal scores keep the order of their sample index, so the order never depends on the input's.
    """
    ordered = sorted(
        candidates, key=lambda c: (c["score"] is None, -(c["score"] if c["score"] is not None else 0.0), c["sample"])
    )
    return [c | {"rank": rank if c["score"] is not None else None} for rank, c in enumerate(ordered)]


def score_rows(
    rows: list[dict[str, Any]], embed_texts: Embed, embed_tags: Embed, digits: int = DIGITS["float32"]
) -> list[dict[str, Any]]:
    """Rows of schema SAMPLED with scored and ranked candidates; each distinct string is embedded once.

    Scores are rounded to `digits` before they are compared, because what lies behind depends on the batch.
    A text is rejected as `not_a_number` where its own embedding or that of a candidate's tags is not finite.
    """
    pairs = [
        (row_index, candidate_index, tag_string(candidate["tags"]))
        for row_index, row in enumerate(rows)
        for candidate_index, candidate in enumerate(row["candidates"])
        if candidate["tags"]
    ]
    scores: list[dict[int, float]] = [{} for _ in rows]
    if pairs:
        texts_N_D = _embed_distinct((rows[row]["text"] for row, _, _ in pairs), embed_texts)
        tags_N_D = _embed_distinct((tags for _, _, tags in pairs), embed_tags)
        for (row, candidate, _), value in zip(pairs, cosine(texts_N_D, tags_N_D).tolist(), strict=True):
            scores[row][candidate] = round(value, digits)
    return [_scored(row, of_row) for row, of_row in zip(rows, scores, strict=True)]


def _scored(row: dict[str, Any], scores: dict[int, float]) -> dict[str, Any]:
    """The row with its candidates ranked by `scores`, by place in the row; or rejected, where one is no number."""
    candidates = [candidate | {"score": scores.get(place)} for place, candidate in enumerate(row["candidates"])]
    for place, score in scores.items():
        if not math.isfinite(score):
            detail = f"the embedding of the text or of its tags '{tag_string(candidates[place]['tags'])}' is not finite"
            return row | {"candidates": [], "reason": "not_a_number", "detail": detail}
    return row | {"candidates": rank_candidates(candidates)}


def _embed_distinct(strings: Iterable[str], embed: Embed) -> np.ndarray:
    """Embeddings of the strings, shape [N, D], from one call over the distinct ones."""
    strings = list(strings)
    place = {string: index for index, string in enumerate(dict.fromkeys(strings))}
    return embed(list(place))[[place[string] for string in strings]]
