"""What a task reads of each text: the text, its tags, or both."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from semtag.scoring.similarity import Embed, tag_string

RESAMPLES = 1000  # at most for each interval of a task: its rows are many, and each resamples all texts or questions

TagLists = list[list[str]]


class Documents(NamedTuple):
    """The N documents of one way to read the texts, empty where a text has no tags and only these are read."""

    arm: str  # whose tags, "text" for none
    on: str  # "text", "tags" or "both"
    strings: list[str]


def ways_to_read(texts: list[str], tags: dict[str, TagLists]) -> list[Documents]:
    """The texts alone, then for each arm its tags alone, and text and tags together."""
    ways = [(arm, on, document_strings(texts, tags_N, on)) for arm, tags_N in tags.items() for on in ("tags", "both")]
    return [Documents("text", "text", texts), *(Documents(*way) for way in ways)]


def document_strings(texts: list[str], tags_N: TagLists, on: str) -> list[str]:
    """A string for each text: `tag1, tag2` on "tags", `tag1, tag2. text` on "both", where it has tags.

    Tags come first, since embedding models cut long strings off at the end.
    """
    if on == "tags":
        return [tag_string(tags) for tags in tags_N]
    return [f"{tag_string(tags)}. {text}" if tags else text for text, tags in zip(texts, tags_N, strict=True)]


class Directions:
    """Embeddings of strings as unit vectors [N, D] float32; each distinct string is embedded once and remembered.

    An empty string has none and comes as zeros: what a model says of it is no fact about a text.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, strings: Sequence[str]) -> np.ndarray:
        new = [string for string in dict.fromkeys(strings) if string and string not in self._known]
        if new:
            vectors = np.asarray(self._embed(new), dtype=np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._known |= dict(zip(new, vectors / np.maximum(norms, 1e-12), strict=True))
        nothing = np.zeros_like(next(iter(self._known.values()), np.zeros(1, dtype=np.float32)))
        return np.array([self._known.get(string, nothing) for string in strings]).reshape(-1, len(nothing))


def directions_of(embed: Embed) -> Directions:
    """That function as Directions. One that already is stays, so that tasks can share what they embedded."""
    return embed if isinstance(embed, Directions) else Directions(embed)
