"""Embeddings for the evaluation: the actor, and the judge, which remembers what it embedded.

Suffixes of array names: N strings, D embedding dimensions.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semtag.configs.schema import Config
from semtag.configs.scoring import Scoring
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import Embed

CHUNK = 4096  # strings of a call


class Embedding:
    """An actor that embeds strings, placed as the actors of scoring are. Needs a running Ray."""

    def __init__(self, scoring: Scoring) -> None:
        import ray

        place = {"num_cpus": 1, "num_gpus": scoring.gpus, "accelerator_type": scoring.accelerator_type}
        self.actor: Any = ray.remote(**place)(Embedder).remote(scoring)

    def texts(self, strings: list[str]) -> np.ndarray:
        """Embed strings as texts; shape [N, D]."""
        return self._embed(self.actor.texts, strings)

    def tags(self, strings: list[str]) -> np.ndarray:
        """Embed strings as tags; shape [N, D]."""
        return self._embed(self.actor.tags, strings)

    def _embed(self, method: Any, strings: list[str]) -> np.ndarray:
        import ray

        chunks = [strings[start : start + CHUNK] for start in range(0, len(strings), CHUNK)]
        return finite(np.concatenate(ray.get([method.remote(chunk) for chunk in chunks])))


def finite(embeddings_N_D: np.ndarray) -> np.ndarray:
    """Replace rows that are not finite by zeros: such a row is near to nothing, and costs no other row its place."""
    bad_N = ~np.isfinite(embeddings_N_D).all(axis=1)
    if bad_N.any():
        logging.getLogger(__name__).warning("%d of %d embeddings are not finite.", bad_N.sum(), len(bad_N))
    return np.where(bad_N[:, None], np.zeros_like(embeddings_N_D), embeddings_N_D)


class Judge:
    """The embedding model of all uses: unit vectors, float32 of shape [N, D]; each distinct string is embedded once.

    `passages` embeds what is looked for, such as texts. `queries` embeds what is looked with, such as tags and
    questions. An empty string becomes zeros. `trained_for`: the tagger was trained to please this very model.
    """

    def __init__(self, model: str, trained_for: bool, passages: Embed, queries: Embed) -> None:
        self.model, self.trained_for = model, trained_for
        self.passages, self.queries = _remembering(passages), _remembering(queries)


def judge_of(config: Config, scorer: Embedding) -> Judge:
    """Return the judge that the config names: the second model, or else the scoring model. Needs a running Ray."""
    evaluation = config.evaluation
    if not evaluation.second_model:
        return Judge(config.scoring.model, True, scorer.texts, scorer.tags)
    prefixes = {"text_prefix": evaluation.second_text_prefix, "tags_prefix": evaluation.second_query_prefix}
    second = Embedding(config.scoring.model_copy(update={"model": evaluation.second_model, **prefixes}))
    return Judge(evaluation.second_model, False, second.texts, second.tags)


def _remembering(embed: Embed) -> Callable[[Sequence[str]], np.ndarray]:
    known: dict[str, np.ndarray] = {}

    def directions(strings: Sequence[str]) -> np.ndarray:
        new = [string for string in dict.fromkeys(strings) if string.strip() and string not in known]
        if new:
            vectors = np.asarray(embed(new), dtype=np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            known.update(zip(new, vectors / np.maximum(norms, 1e-12), strict=True))
        # What a model says of an empty string is no fact about a text.
        nothing = np.zeros_like(next(iter(known.values()), np.zeros(1, dtype=np.float32)))
        return np.array([known.get(string, nothing) for string in strings]).reshape(-1, len(nothing))

    return directions
