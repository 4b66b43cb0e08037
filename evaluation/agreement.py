"""How far tags agree with the keyphrases that people gave a text. Shapes: N texts."""

from collections.abc import Sequence

import numpy as np

from evaluation.documents import directions_of
from evaluation.independent import words_of
from scoring.similarity import Embed

RECALL_AT = 3


def agreement(keys_N: Sequence[Sequence[str]], tags_N: Sequence[Sequence[str]], embed: Embed) -> dict[str, np.ndarray]:
    """Agreement of each text's tags with its keyphrases, each of shape [N] in [0, 1] (semantic F1 from -1).

    `exact_f1`: of phrases that are the same, case and white space aside. `stemmed_f1`: the same of their English
    stems. `recall_at_3`: share of the keyphrases whose stems are among the first three tags. `semantic_f1`: harmonic
    mean of how close each tag is to its closest keyphrase, and each keyphrase to its closest tag, by cosine
    (BERTScore's greedy matching, Zhang et al. 2020, equation 1, of phrases in place of tokens).
    """
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def stems(phrase: str) -> str:
        return " ".join(stemmer.stemWords(words_of(phrase)))

    texts = list(zip(keys_N, tags_N, strict=True))
    stemmed = [([stems(key) for key in keys], [stems(tag) for tag in tags]) for keys, tags in texts]
    plain = [([_plain(key) for key in keys], [_plain(tag) for tag in tags]) for keys, tags in texts]
    return {
        "exact_f1": np.array([_f1(keys, tags) for keys, tags in plain]),
        "stemmed_f1": np.array([_f1(keys, tags) for keys, tags in stemmed]),
        "semantic_f1": _semantic_f1(texts, embed),
        "recall_at_3": np.array([_recall(keys, tags[:RECALL_AT]) for keys, tags in stemmed]),
    }


def _plain(phrase: str) -> str:
    return " ".join(phrase.casefold().split())


def _f1(keys: Sequence[str], tags: Sequence[str]) -> float:
    wanted, given = set(keys), set(tags)
    return 2 * len(wanted & given) / (len(wanted) + len(given)) if wanted and given else 0.0


def _recall(keys: Sequence[str], tags: Sequence[str]) -> float:
    return len(set(keys) & set(tags)) / len(set(keys)) if keys else 0.0


def _semantic_f1(texts: Sequence[tuple[Sequence[str], Sequence[str]]], embed: Embed) -> np.ndarray:
    phrases = list(dict.fromkeys(phrase for keys, tags in texts for phrase in (*keys, *tags)))
    if not phrases:
        return np.zeros(len(texts))
    place = {phrase: index for index, phrase in enumerate(phrases)}
    vectors, found = directions_of(embed)(phrases), np.zeros(len(texts))
    for index, (keys, tags) in enumerate(texts):
        if keys and tags:
            cosines = vectors[[place[tag] for tag in tags]] @ vectors[[place[key] for key in keys]].T
            precision, recall = cosines.max(axis=1).mean(), cosines.max(axis=0).mean()
            total = precision + recall
            found[index] = 2 * precision * recall / total if total > 0 else 0.0
    return found
