"""What tags say about their text by measures that training never saw: words, their rarity, who finds the text, people.

Shapes: N texts, V distinct tags. Words are case-folded runs of letters and digits.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import entropy

from semtag.evaluation.corpus import scores_of
from semtag.evaluation.documents import directions_of
from semtag.evaluation.statistics import jackknife
from semtag.scoring.similarity import Embed, tag_string

MEASURES = {
    "similarity": "similarity of tags and text, the score of training",
    "found_by_words": "reciprocal rank of the text when BM25 looks for its tags",
    "found_by_meaning": "the same when another embedding model looks for them",
    "specificity": "inverse document frequency of the tags' words",
    "copied_share": "share of the tags' words that stand in the text",
    "longest_span": "words of the longest run copied from the text",
    "words": "words of an answer",
    "words_per_tag": "words of a tag",
}
RECALL_AT = 3
_WORD = re.compile(r"[^\W_]+")

Tags = Sequence[str]


def measure(texts: list[str], answers: list[dict[str, Any]], second: Embed | None) -> dict[str, np.ndarray]:
    """The measures of the answers to N texts, each of shape [N]. Every text is looked for among all N.

    `second` is an embedding model that training never saw.
    """
    tags: list[Tags] = [answer["tags"] for answer in answers]

    def each(of: Callable[[str, Tags], float]) -> np.ndarray:
        return np.array([of(text, own) for text, own in zip(texts, tags, strict=True)], dtype=float)

    found = {
        "similarity": scores_of(answers),
        "found_by_words": found_by_words(texts, tags),
        "specificity": specificity(texts, tags),
        "copied_share": each(copied_share),
        "longest_span": each(longest_span),
        "words": each(lambda _, own: word_count(own)),
        "words_per_tag": each(lambda _, own: word_count(own) / len(own) if own else 0.0),
    }
    return found | ({"found_by_meaning": found_by_meaning(texts, tags, second)} if second else {})


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text.casefold())


def copied_share(text: str, tags: Tags) -> float:
    """Share of the tags' words that stand in the text, in [0, 1]; 0 without words."""
    own, said = set(words_of(text)), [word for tag in tags for word in words_of(tag)]
    return sum(word in own for word in said) / len(said) if said else 0.0


def longest_span(text: str, tags: Tags) -> int:
    """Words of the longest run that stands in the text as it stands in the tags, read one after the other."""
    said = [word for tag in tags for word in words_of(tag)]
    return SequenceMatcher(None, words_of(text), said, autojunk=False).find_longest_match().size


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
    own = [[*map(str.casefold, tags)] for tags in tags_N]
    numbers = {tag: number for number, tag in enumerate(dict.fromkeys(chain(*own)))}

    def counts_of(tags: Iterable[str]) -> np.ndarray:
        return np.bincount(np.array([numbers[tag] for tag in tags], dtype=int), minlength=len(numbers))

    all_V = counts_of(chain(*own))
    rests = (all_V - counts_of(tags) for tags in own)  # with each text taken away
    without_N_2 = np.array([(np.count_nonzero(rest_V), _entropy(rest_V)) for rest_V in rests]).reshape(-1, 2)
    return {
        "tags": int(all_V.sum()),
        "distinct": jackknife(len(numbers), without_N_2[:, 0])._asdict(),
        "entropy_bits": jackknife(_entropy(all_V), without_N_2[:, 1], correct=True)._asdict(),
    }


def _entropy(counts_V: np.ndarray) -> float:
    """Entropy in bits of what is counted; 0 without any."""
    return float(entropy(counts_V, base=2)) if counts_V.any() else 0.0


def agreement(keys_N: Sequence[Sequence[str]], tags_N: Sequence[Sequence[str]], embed: Embed) -> dict[str, np.ndarray]:
    """Agreement of each text's tags with its keyphrases, each of shape [N] in [0, 1] (semantic F1 from -1).

    `exact_f1`: of phrases that are the same, case and white space aside. `stemmed_f1`: the same of their English
    stems. `recall_at_3`: share of the keyphrases whose stems are among the first three tags. `semantic_f1`: harmonic
    mean of how close each tag is to its closest keyphrase, and each keyphrase to its closest tag, by cosine
    (BERTScore's greedy matching, Zhang et al. 2020, equation 1, of phrases in place of tokens).
    """
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def stem(phrase: str) -> str:
        return " ".join(stemmer.stemWords(words_of(phrase)))

    def phrases(of: Callable[[str], str]) -> list[tuple[list[str], list[str]]]:
        return [([*map(of, keys)], [*map(of, tags)]) for keys, tags in texts]

    texts = list(zip(keys_N, tags_N, strict=True))
    stemmed, plain = phrases(stem), phrases(_plain)
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
    directions, found = directions_of(embed), np.zeros(len(texts))
    directions([phrase for keys, tags in texts for phrase in (*keys, *tags)])  # which it remembers, in one call
    for index, (keys, tags) in enumerate(texts):
        if keys and tags:
            cosines = directions(tags) @ directions(keys).T
            precision, recall = cosines.max(axis=1).mean(), cosines.max(axis=0).mean()
            total = precision + recall
            found[index] = 2 * precision * recall / total if total > 0 else 0.0
    return found
