"""Metrics of texts, candidates, tokens and scores for Ray's dashboard and Prometheus.

A scoring actor counts each batch once, at the end of the pipeline. Ray puts `ray_` before each name, and `_total`
behind each counter. Example: `semtag_texts` becomes `ray_semtag_texts_total`. Ray itself exports the number of actors
and the load of the GPUs.
"""

from collections import Counter as Tallies
from collections.abc import Sequence
from typing import Any


class BatchMetrics:
    """The metrics of one actor. The actor makes the object itself, because Ray's metrics belong to a process."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self.texts = Counter("semtag_texts", "Texts that came out of the pipeline, rejects included.")
        self.tokens = Counter("semtag_tokens", "Tokens of all candidates, end tokens included.")
        self.candidates = Counter("semtag_candidates", "Candidates by format.", ("format",))
        self.rejects = Counter("semtag_rejects", "Rejected texts, by reason.", ("reason",))
        self.mean_score = Gauge("semtag_mean_score", "Mean score of the candidates of the last batch that had scores.")

    def record(self, texts: Sequence[Any], scores: Sequence[float]) -> None:
        """Count a batch of sampled texts. `scores` holds the scores of all their candidates."""
        candidates = [candidate for text in texts for candidate in text.candidates]
        tokens = sum(candidate.num_tokens or 0 for candidate in candidates)
        # Ray's counters refuse an increase of 0.
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
