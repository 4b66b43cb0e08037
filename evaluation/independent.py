"""What tags say about their text by measures that training never saw: words, their rarity, and who finds the text.

Shapes: N texts. Words are case-folded runs of letters and digits.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.documents import directions_of
from evaluation.statistics import jackknife
from scoring.similarity import Embed, tag_string

_HELD = 64  # texts whose tags are held in memory as a table at once
_WORD = re.compile(r"[^\W_]+")

Tags = Sequence[str]


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text.casefold())


def copied_share(text: str, tags: Tags) -> float:
    """Share of the tags' words that stand in the text, in [0, 1]; 0 without words."""
    own, said = set(words_of(text)), [word for tag in tags for word in words_of(tag)]
    return sum(word in own for word in said) / len(said) if said else 0.0


def longest_span(text: str, tags: Tags) -> int:
    """Words of the longest run that stands in the text as it stands in the tags, read one after the other."""
    own, said = words_of(text), [word for tag in tags for word in words_of(tag)]
    longest, before = 0, [0] * (len(own) + 1)
    for word in said:
        runs = [0, *(before[place] + 1 if own[place] == word else 0 for place in range(len(own)))]
        longest, before = max(longest, *runs), runs
    return longest


def word_count(tags: Tags) -> int:
    """Words of all tags together."""
    return sum(len(words_of(tag)) for tag in tags)


def specificity(texts: Sequence[str], tags_N: Sequence[Tags]) -> np.ndarray:
    """Mean inverse document frequency of each answer's words, shape [N]: ln((N + 1) / (df + 1)); 0 without words.

    df is the number of the N texts that a word stands in (Sparck Jones 1972, J Doc 28:11, smoothed).
    """
    frequency = Counter(word for text in texts for word in set(words_of(text)))
    rarity = [
        [math.log((len(texts) + 1) / (frequency[word] + 1)) for tag in tags for word in words_of(tag)]
        for tags in tags_N
    ]
    return np.array([sum(own) / len(own) if own else 0.0 for own in rarity])


def found_by_words(texts: Sequence[str], tags_N: Sequence[Tags]) -> np.ndarray:
    """Reciprocal rank of each text among all N when BM25 looks for its tags, shape [N], in (0, 1]; 0 without tags.

    BM25 as Lucene has it, English stems, no stop words (Robertson and Zaragoza 2009; Lu 2024, arXiv 2407.03618). A text
    that ties with others gets their mean rank, so tags that say nothing find nothing.
    """
    import bm25s

    index = bm25s.BM25()
    index.index(stems(texts), show_progress=False)
    found = np.zeros(len(texts))
    for place, query in enumerate(stems([" ".join(tags) for tags in tags_N])):
        if query and tags_N[place]:
            found[place] = _reciprocal_rank(index.get_scores(query), place)
    return found


def found_by_meaning(texts: Sequence[str], tags_N: Sequence[Tags], embed: Embed) -> np.ndarray:
    """Reciprocal rank of each text among all N by the cosine of its embedding with that of the tags, shape [N]."""
    directions, found = directions_of(embed), np.zeros(len(texts))
    texts_N_D, asking = directions(texts), [place for place, tags in enumerate(tags_N) if tags]
    for place, query_D in zip(asking, directions([tag_string(tags_N[place]) for place in asking]), strict=True):
        found[place] = _reciprocal_rank(texts_N_D @ query_D, place)
    return found


def _reciprocal_rank(scores_N: np.ndarray, place: int) -> float:
    higher, ties = (scores_N > scores_N[place]).sum(), (scores_N == scores_N[place]).sum()
    return float(1 / (higher + (ties + 1) / 2))


def stems(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text without English stop words, cut to their stems (Porter's second stemmer)."""
    import bm25s
    import Stemmer

    found: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False, return_ids=False
    )
    return found


def diversity(tags_N: Sequence[Tags]) -> dict[str, Any]:
    """How varied the tags of all texts are: tags, distinct ones, and the entropy of their distribution in bits.

    The 95 % intervals are the jackknife's over texts. The entropy that so few texts show is too low, and the jackknife
    takes that off (Zahl 1977, Ecology 58:907); the distinct tags stay those that were seen in that many texts.
    """
    own = [Counter(tag.casefold() for tag in tags) for tags in tags_N]
    names = {tag: place for place, tag in enumerate(dict.fromkeys(tag for counts in own for tag in counts))}
    filled = [(text, names[tag], count) for text, counts in enumerate(own) for tag, count in counts.items()]
    texts, places, counts = np.array(filled, dtype=int).reshape(-1, 3).T
    counts_N_V = csr_matrix((counts, (texts, places)), shape=(len(own), max(1, len(names))))
    total_V = np.asarray(counts_N_V.sum(axis=0)).ravel()
    without = [total_V - counts_N_V[start : start + _HELD].toarray() for start in range(0, len(own), _HELD)]
    entropy_N = np.concatenate([_entropy(part) for part in without]) if without else np.zeros(0)
    distinct_N = np.concatenate([(part > 0).sum(axis=1) for part in without]) if without else np.zeros(0)
    return {
        "tags": int(total_V.sum()),
        "distinct": jackknife(len(names), distinct_N)._asdict(),
        "entropy_bits": jackknife(float(_entropy(total_V[None])[0]), entropy_N, correct=True)._asdict(),
    }


def _entropy(counts_B_V: np.ndarray) -> np.ndarray:
    """Entropy of each row of counts in bits, shape [B]; 0 for a row of none."""
    shares = counts_B_V / np.maximum(counts_B_V.sum(axis=1, keepdims=True), 1)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: np.ndarray = -(shares * logs).sum(axis=1) + 0.0
    return entropy
