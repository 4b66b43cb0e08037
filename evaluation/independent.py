"""What tags say about their text by measures that training never saw: words, their rarity, and who finds the text.

Shapes: N texts, K pairs of a text and a tag of its own. Words are case-folded runs of letters and digits.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.documents import directions_of
from evaluation.statistics import jackknife
from scoring.similarity import Embed, tag_string

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

    return bm25s.tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False, return_ids=False
    )


def diversity(tags_N: Sequence[Tags]) -> dict[str, Any]:
    """How varied the tags of all texts are: tags, distinct ones, and the entropy of their distribution in bits.

    The 95 % intervals are the jackknife's over texts. The entropy that so few texts show is too low, and the jackknife
    takes that off (Zahl 1977, Ecology 58:907); the distinct tags stay those that were seen in that many texts.
    """
    own = [Counter(tag.casefold() for tag in tags) for tags in tags_N]
    names = {tag: place for place, tag in enumerate(dict.fromkeys(tag for counts in own for tag in counts))}
    filled = [(text, names[tag], count) for text, counts in enumerate(own) for tag, count in counts.items()]
    texts_K, tags_K, counts_K = np.array(filled, dtype=int).reshape(-1, 3).T
    totals_K = np.bincount(tags_K, counts_K)[tags_K]  # of each tag that a text has, how often all texts say it

    def of_texts(weights_K: np.ndarray) -> np.ndarray:
        return np.bincount(texts_K, weights_K, minlength=len(own))

    # A text taken away takes from the sum of c log c what its own tags have there, and the tags that it alone has.
    said, logs = int(counts_K.sum()), float((counts_K * _log2(totals_K)).sum())
    lost_K = totals_K * _log2(totals_K) - (totals_K - counts_K) * _log2(totals_K - counts_K)
    entropy_N = _entropy(said - of_texts(counts_K), logs - of_texts(lost_K))
    distinct_N = len(names) - of_texts(totals_K == counts_K)
    return {
        "tags": said,
        "distinct": jackknife(len(names), distinct_N)._asdict(),
        "entropy_bits": jackknife(float(_entropy(np.array(said), np.array(logs))), entropy_N, correct=True)._asdict(),
    }


def _entropy(said: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Entropy in bits of counts c from their sum and the sum of c log2 c; 0 without any."""
    return np.maximum(0.0, _log2(said) - logs / np.maximum(said, 1))


def _log2(counts: np.ndarray) -> np.ndarray:
    """Logarithms of counts, 0 of 0."""
    return np.log2(np.maximum(counts, 1))
