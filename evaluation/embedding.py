"""Embeddings for the evaluation, from an actor that is placed as those of scoring are."""

import logging
from typing import Any

import numpy as np

from semtag.configs.schema import Scoring
from semtag.scoring.embedder import Embedder

CHUNK = 4096  # strings of a call


class Embedding:
    """Embeds strings as texts: the scoring model's prefix of texts goes before each. Needs a running Ray."""

    def __init__(self, scoring: Scoring) -> None:
        import ray

        place = {"num_cpus": 1, "num_gpus": scoring.gpus, "accelerator_type": scoring.accelerator_type}
        self.actor: Any = ray.remote(**place)(Embedder).remote(scoring)

    def __call__(self, strings: list[str]) -> np.ndarray:
        import ray

        chunks = [strings[start : start + CHUNK] for start in range(0, len(strings), CHUNK)]
        return finite(np.concatenate(ray.get([self.actor.texts.remote(chunk) for chunk in chunks])))


def finite(embeddings_N_D: np.ndarray) -> np.ndarray:
    """The embeddings with zeros for a row that is not finite: it is near to nothing, and costs no other its place."""
    bad_N = ~np.isfinite(embeddings_N_D).all(axis=1)
    if bad_N.any():
        logging.getLogger(__name__).warning("%d of %d embeddings are not finite.", bad_N.sum(), len(bad_N))
    return np.where(bad_N[:, None], np.zeros_like(embeddings_N_D), embeddings_N_D)
