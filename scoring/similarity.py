"""How good are tags for a text? The one scoring rule, for training and for evaluation."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# Suffixes of array names: N strings, D embedding dimensions.
Embed = Callable[[list[str]], np.ndarray]


def tag_string(tags: Sequence[str]) -> str:
    """The string that stands for tags before the embedding model: `tag1, tag2, tag3`."""
    return ", ".join(tags)


def cosine(left_N_D: np.ndarray, right_N_D: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of rows, shape [N], in [-1, 1]; 0 where a row is zero."""
    left = left_N_D.astype(np.float64)
    right = right_N_D.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.einsum("nd,nd->n", left, right)
    return np.clip(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0), -1.0, 1.0)


def rank_candidates(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidates in order of falling score with their `rank`, those without a score last with rank None.

    Equal scores keep the order of their sample index, so the order never depends on the input's.
    """
    ordered = sorted(
        candidates, key=lambda c: (c["score"] is None, -(c["score"] if c["score"] is not None else 0.0), c["sample"])
    )
    return [c | {"rank": rank if c["score"] is not None else None} for rank, c in enumerate(ordered)]


def score_rows(rows: list[dict[str, Any]], embed_texts: Embed, embed_tags: Embed) -> list[dict[str, Any]]:
    """Rows of schema SAMPLED with scored and ranked candidates; each distinct string is embedded once."""
    pairs = [
        (row_index, candidate_index, tag_string(candidate["tags"]))
        for row_index, row in enumerate(rows)
        for candidate_index, candidate in enumerate(row["candidates"])
        if candidate["tags"]
    ]
    scores: dict[tuple[int, int], float] = {}
    if pairs:
        texts_N_D = _embed_distinct((rows[row]["text"] for row, _, _ in pairs), embed_texts)
        tags_N_D = _embed_distinct((tags for _, _, tags in pairs), embed_tags)
        values = cosine(texts_N_D, tags_N_D)
        scores = {(row, candidate): float(v) for (row, candidate, _), v in zip(pairs, values, strict=True)}
    return [
        row
        | {
            "candidates": rank_candidates(
                [candidate | {"score": scores.get((index, place))} for place, candidate in enumerate(row["candidates"])]
            )
        }
        for index, row in enumerate(rows)
    ]


def _embed_distinct(strings: Iterable[str], embed: Embed) -> np.ndarray:
    """Embeddings of the strings, shape [N, D], from one call over the distinct ones."""
    strings = list(strings)
    place = {string: index for index, string in enumerate(dict.fromkeys(strings))}
    return embed(list(place))[[place[string] for string in strings]]
