"""Topics to look at: texts in a plane, the order in which topics merge, and their course over time.

Shapes: N texts, T topics, V terms, D embedding dimensions. Topic -1 holds the outliers.
"""

import re
import warnings
from collections import Counter
from email.utils import parsedate
from typing import Any

import numpy as np

Record = dict[str, Any]

SHOWN = 300  # characters of a text
MONTHLY = 24  # months that all texts must lie within to be counted by month

_ISO = re.compile(r"(\d{4})(?:-?(0[1-9]|1[0-2])(?:-?[0-3]\d(?:[T ].*)?)?)?$")


def reduced(count: int, dimensions: int, spread: float, seed: int) -> Any:
    """UMAP for `count` vectors, the same for the same seed (McInnes et al. 2018, arXiv 1802.03426)."""
    from umap import UMAP

    # One thread, which a seed enforces anyway, with a warning.
    return UMAP(
        n_neighbors=min(15, count - 1), n_components=dimensions, min_dist=spread, metric="cosine",
        random_state=seed, n_jobs=1,
    )  # fmt: skip


def plane(vectors_N_D: np.ndarray, seed: int) -> np.ndarray:
    """The vectors in two dimensions, shape [N, 2]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(reduced(len(vectors_N_D), 2, 0.1, seed).fit_transform(vectors_N_D))


def points(
    plane_N_2: np.ndarray,
    topic_N: np.ndarray,
    texts: list[str],
    tags_N: list[list[str]],
    labels: list[str | None],
) -> list[Record]:
    """A record for each text, coordinates to three digits, the text cut to SHOWN characters."""
    rows = zip(plane_N_2.tolist(), topic_N.tolist(), texts, tags_N, labels, strict=True)
    return [
        {"x": round(x, 3), "y": round(y, 3), "topic": topic, "text": text[:SHOWN], "tags": tags, "label": label}
        for (x, y), topic, text, tags, label in rows
    ]


def hierarchy(weights_T_V: np.ndarray, sizes: list[int], vocabulary: list[str]) -> list[Record]:
    """Merges of topics in their order, by average linkage of the cosine distance between their term weights.

    Topics are 0 to T - 1; the i-th merge makes T + i. A merge is named by the terms that weigh most in its topics
    together, each topic by its number of texts.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import pdist

    count = len(weights_T_V)
    if count < 2:
        return []
    distances = np.nan_to_num(pdist(weights_T_V, "cosine"), nan=1.0)  # a topic without terms is like no other
    merges = linkage(distances.clip(0, 1), "average")
    parts, found = [weights * size for weights, size in zip(weights_T_V, sizes, strict=True)], []
    for left, right, distance, _ in merges.tolist():
        together = parts[int(left)] + parts[int(right)]
        parts.append(together)
        best = [place for place in np.argsort(-together, kind="stable")[:3] if together[place] > 0]
        name = ", ".join(vocabulary[place] for place in best)
        found.append({"left": int(left), "right": int(right), "distance": float(distance), "name": name})
    return found


def over_time(topic_N: np.ndarray, dates: list[str | None]) -> list[Record] | None:
    """Texts of each topic by year, or by month where all lie within two years; None where most have no date."""
    when = [(month_of(date or ""), topic) for date, topic in zip(dates, topic_N.tolist(), strict=True)]
    known = [(year, month, topic) for (year, month), topic in when if year]
    if not known or 2 * len(known) < len(dates):
        return None
    months = [12 * year + month for year, month, _ in known]
    monthly = all(month for _, month, _ in known) and max(months) - min(months) < MONTHLY
    counts = Counter((f"{year:04}-{month:02}" if monthly else f"{year:04}", topic) for year, month, topic in known)
    return [{"period": period, "topic": topic, "count": count} for (period, topic), count in sorted(counts.items())]


def month_of(date: str) -> tuple[int, int]:
    """Year and month of a date as ISO 8601 (2019, 2019-05, 2019-05-03T10:00Z) or e-mail has it (3 May 2019 10:00:00).

    The month is 0 where only a year is given, and both are 0 where there is no date.
    """
    if found := _ISO.match(date.strip()):
        return int(found[1]), int(found[2] or 0)
    fields = parsedate(date)
    return (fields[0], fields[1]) if fields else (0, 0)
