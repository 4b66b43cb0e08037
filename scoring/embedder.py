"""The embedding model of scoring."""

import os

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.scoring import Scoring
from semtag.store.locations import local_folder

CACHED_TAG_STRINGS = 50_000  # 77 MB for embeddings of 384 floats
OWN_TOKENS = 4  # most special tokens that a model adds to a text


class Embedder:
    """A sentence-transformers model that embeds texts and tag strings; pooling is the model's own.

    Raises UserError when the model cannot be loaded.
    """

    def __init__(self, scoring: Scoring) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        # Stages turn this off because they fork. This actor does not, and tokenising is half of a small model's work.
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        if scoring.gpus_per_actor == 0:
            # Ray gives this actor one thread. Take all cores, because scoring runs in bursts while sampling waits.
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.scoring = scoring
        try:
            self.model = SentenceTransformer(
                local_folder(scoring.model),
                device="cuda" if scoring.gpus_per_actor > 0 else "cpu",
                trust_remote_code=False,
                model_kwargs={"dtype": scoring.dtype, "use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"Cannot load the embedding model {scoring.model}: {str(error).splitlines()[0]}",
                "Check scoring.model. all-MiniLM-L6-v2 needs no network, because the extras cpu and gpu install it.",
            ) from None
        # Tag string -> embedding, because many texts share generic tags.
        self._cache: dict[str, np.ndarray] = {}

    def texts(self, texts: list[str]) -> np.ndarray:
        """Embed distinct texts; shape [N, D]."""
        return self._encode(texts, self.scoring.text_prefix)

    def tags(self, strings: list[str]) -> np.ndarray:
        """Embed distinct tag strings, with a cache across batches; shape [N, D]."""
        new = [string for string in strings if string not in self._cache]
        if new:
            if len(self._cache) + len(new) > CACHED_TAG_STRINGS:
                self._cache = {string: self._cache[string] for string in strings if string in self._cache}
            self._cache |= dict(zip(new, self._encode(new, self.scoring.tags_prefix), strict=True))
        return np.stack([self._cache[string] for string in strings])

    def cut(self, texts: list[str]) -> list[bool]:
        """Check which texts exceed the model's window. The model silently embeds only the beginning of these texts."""
        window, tokenizer = self.model.max_seq_length, self.model.tokenizer
        cut = [False] * len(texts)
        if not window or not callable(tokenizer):  # word-embedding models have no window
            return cut
        prefixed = [self.scoring.text_prefix + text for text in texts]
        # Tokenise only texts that can be too long: a token has at least one byte.
        places = [place for place, text in enumerate(prefixed) if len(text.encode()) > window - OWN_TOKENS]
        if places:
            found = tokenizer([prefixed[place] for place in places], truncation=False, verbose=False)["input_ids"]
            for place, ids in zip(places, found, strict=True):
                cut[place] = len(ids) > window
        return cut

    def _encode(self, strings: list[str], prefix: str) -> np.ndarray:
        return self.model.encode(
            strings,
            prompt=prefix or None,
            batch_size=self.scoring.batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
