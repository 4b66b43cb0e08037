"""The scoring actor: sampled rows in, scored and ranked rows out."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from semtag.cluster.metrics import BatchMetrics
from semtag.cluster.progress import Adds, Counts
from semtag.configs.scoring import Scoring
from semtag.generation.records import SampledText, from_table, to_table
from semtag.scoring.criteria import Criteria, OwnScorer

NOTHING: Mapping[str, OwnScorer] = {}


class Scorer:
    """Ray Data actor class around the scorers; `__call__` takes and returns a table of schema SAMPLED.

    `own` are the user's scorers by name. If `scoring` is None, rows pass through unscored and are only counted. The
    sampler counts the texts.
    """

    def __init__(self, scoring: Scoring | None, tally: Adds, own: Mapping[str, OwnScorer] = NOTHING) -> None:
        self.criteria = Criteria(scoring, own) if scoring else None
        self.tally = tally
        self.metrics = BatchMetrics()

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = from_table(batch)
        if self.criteria:
            texts = self._marked(self.criteria.score(texts))
        candidates = [candidate for text in texts for candidate in text.candidates]
        scores = [candidate.score for candidate in candidates if candidate.score is not None]
        self.tally.add(Counts(scored=len(scores), score_sum=sum(scores)), at_once=True)
        self.metrics.record(texts, scores)
        return to_table(texts)

    def _marked(self, texts: list[SampledText]) -> list[SampledText]:
        """Mark the texts that the embedding model read in parts."""
        long = set[str]()
        if self.criteria and self.criteria.embedder:
            self.criteria.embedder.in_parts, long = long, self.criteria.embedder.in_parts
        return [replace(text, in_parts=text.text in long) if text.candidates else text for text in texts]
