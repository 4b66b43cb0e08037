"""Metrics for Ray's dashboard and Prometheus, counted once a batch where every text comes out as one row.

Ray puts `ray_` before each name and `_total` behind each counter: `ray_semtag_texts_total`. How many actors there are,
and what GPUs do, Ray exports by itself.
"""

from collections import Counter as Tallies
from collections.abc import Sequence
from typing import Any


class BatchMetrics:
    """The counters of one actor; made in the actor, as Ray's metrics belong to a process."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self.texts = Counter("semtag_texts", "Texts that came out of the pipeline, rejects included.")
        self.tokens = Counter("semtag_tokens", "Tokens of all candidates, with their end tokens.")
        self.candidates = Counter("semtag_candidates", "Candidates by format.", ("format",))
        self.rejects = Counter("semtag_rejects", "Texts that could not be used, by reason.", ("reason",))
        self.mean_score = Gauge("semtag_mean_score", "Mean score over the candidates of the last batch that had any.")

    def record(self, texts: Sequence[Any], scores: Sequence[float]) -> None:
        """Count a batch of scored texts, records of generation/; `scores` are those of all candidates."""
        candidates = [candidate for text in texts for candidate in text.candidates]
        tokens = sum(candidate.num_tokens or 0 for candidate in candidates)
        # A counter takes no zero.
        if texts:
            self.texts.inc(len(texts))
        if tokens:
            self.tokens.inc(tokens)
        for format_, count in Tallies(candidate.format for candidate in candidates).items():
            self.candidates.inc(count, {"format": format_})
        for reason, count in Tallies(text.reason for text in texts if text.reason).items():
            self.rejects.inc(count, {"reason": str(reason)})
        if scores:
            self.mean_score.set(sum(scores) / len(scores))
