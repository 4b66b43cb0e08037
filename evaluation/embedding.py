"""Embeddings for the evaluation, from an actor that is placed as those of scoring are."""

from typing import Any

import numpy as np

from configs.schema import Scoring
from scoring.embedder import Embedder

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
        return np.concatenate(ray.get([self.actor.texts.remote(chunk) for chunk in chunks]))
