"""Metrics for Ray's dashboard and Prometheus, counted once a batch where every text comes out as one row.

Ray puts `ray_` before each name and `_total` behind each counter: `ray_semtag_texts_total`. How many actors there are,
and what GPUs do, Ray exports by itself.
"""

from collections import Counter as Tallies
from collections.abc import Sequence
from typing import Any

from cluster.progress import Counts


class BatchMetrics:
    """The counters of one actor; made in the actor, as Ray's metrics belong to a process."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self.texts = Counter("semtag_texts", "Texts that came out of the pipeline, rejects included.")
        self.tokens = Counter("semtag_tokens", "Tokens of all candidates, with their end tokens.")
        self.candidates = Counter("semtag_candidates", "Candidates by format.", ("format",))
        self.rejects = Counter("semtag_rejects", "Texts that could not be used, by reason.", ("reason",))
        self.mean_score = Gauge("semtag_mean_score", "Mean score over the candidates of the last batch that had any.")

    def record(self, rows: Sequence[dict[str, Any]], counts: Counts) -> None:
        """Count a batch of scored rows of schema SAMPLED; `counts` are its sums."""
        # A counter takes no zero.
        if counts.texts:
            self.texts.inc(counts.texts)
        if counts.tokens:
            self.tokens.inc(counts.tokens)
        formats = Tallies(candidate["format"] for row in rows for candidate in row["candidates"])
        for format_, count in formats.items():
            self.candidates.inc(count, {"format": format_})
        for reason, count in Tallies(row["reason"] for row in rows if row["reason"]).items():
            self.rejects.inc(count, {"reason": reason})
        if counts.scored:
            self.mean_score.set(counts.score_sum / counts.scored)
