"""Do tags sort texts into topics? Clusters of texts, of tags, and of both, named by what is frequent in them alone.

Shapes: N texts, T topics, V terms (words, or whole tags), D embedding dimensions. Topic -1 holds the outliers.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from semtag.evaluation.documents import Documents, TagLists, directions_of, ways_to_read
from semtag.evaluation.measures import words_of
from semtag.evaluation.statistics import Interval, bootstrap, bootstrap_mean, jackknife, wilson
from semtag.evaluation.topic_map import hierarchy, over_time, plane, points, reduced
from semtag.scoring.similarity import Embed

FEWEST = 40  # texts
RESAMPLES = 200  # of each figure
TOP = 10  # words of a topic that count
SEPARATOR = "\x1f"  # between tags; BERTopic takes line ends for spaces
DRAWN = "tuned"  # the arm of the map


class Clustering(NamedTuple):
    """Topics in order of falling size, numbered from 0."""

    topic_N: np.ndarray
    terms: list[list[str]]  # of each topic, the most typical first
    weights_T_V: np.ndarray  # class-based TF-IDF
    vocabulary: list[str]


def topics(
    texts: list[str],
    labels: list[str | None],
    dates: list[str | None],
    tags: dict[str, TagLists],
    embed: Embed,
    seed: int,
) -> dict[str, Any] | None:
    """Topics for each way to read the texts, and a map of those of one arm on both; None with fewer than FEWEST texts.

    `nmi` and `ari` compare with the labels on all texts that have one; the outliers are one cluster more. Where tags
    are so few or so alike that nothing can be clustered or named, all texts are outliers.
    """
    if len(texts) < FEWEST:
        return None
    directions, word_sets = directions_of(embed), [set(words_of(text)) for text in texts]
    drawn = next((arm for arm in (DRAWN, *tags) if arm in tags), "text")
    rows, drawing = [], None
    for way in ways_to_read(texts, tags):
        vectors_N_D = directions(way.strings)
        found = cluster(way, tags.get(way.arm), vectors_N_D, seed)
        rows.append({"arm": way.arm, "on": way.on} | figures_of(found, labels, word_sets, RESAMPLES, seed))
        if way.arm == drawn and way.on != "tags":
            own = tags.get(drawn, [[] for _ in texts])
            drawing = {"arm": drawn, "points": points(plane(vectors_N_D, seed), found.topic_N, texts, own, labels)}
            drawing |= _named(found) | {"over_time": over_time(found.topic_N, dates)}
    return {"texts": len(texts), "rows": rows, "map": drawing}


def _named(found: Clustering) -> dict[str, Any]:
    sizes = [int((found.topic_N == topic).sum()) for topic in range(len(found.terms))]
    named = [
        {"id": topic, "name": ", ".join(terms[:3]), "size": size}
        for topic, (terms, size) in enumerate(zip(found.terms, sizes, strict=True))
    ]
    return {"topics": named, "hierarchy": hierarchy(found.weights_T_V, sizes, found.vocabulary)}


def cluster(way: Documents, tags_N: TagLists | None, vectors_N_D: np.ndarray, seed: int) -> Clustering:
    """BERTopic (Grootendorst 2022, arXiv 2203.05794): UMAP to five dimensions, HDBSCAN, class-based TF-IDF.

    The terms are the tags, whole, or the words of the texts where there are no tags. Empty documents are outliers.
    """
    from bertopic import BERTopic
    from hdbscan import HDBSCAN

    places = np.array([place for place, document in enumerate(way.strings) if document.strip()], dtype=int)
    topic_N = np.full(len(way.strings), -1)
    read = way.strings if tags_N is None else [SEPARATOR + SEPARATOR.join(tags) for tags in tags_N]
    documents, vectorizer = [read[place] for place in places], _vectorizer(words=tags_N is None)
    terms_of = vectorizer.build_analyzer()
    if len(places) < FEWEST or len({term for document in documents for term in terms_of(document)}) < 2:
        return Clustering(topic_N, [], np.zeros((0, 0)), [])  # BERTopic cannot weigh a single term
    model = BERTopic(
        language="multilingual",  # any other name for English has BERTopic drop all letters that are not ASCII
        umap_model=reduced(len(places), 5, 0.0, seed),
        hdbscan_model=HDBSCAN(min_cluster_size=max(5, len(places) // 50)),
        vectorizer_model=vectorizer,
        top_n_words=TOP,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        topic_N[places], _ = model.fit_transform(documents, vectors_N_D[places])
    count = int(topic_N.max()) + 1
    terms = [[term for term, _ in model.get_topic(topic) if term] for topic in range(count)]
    # A row for the outliers comes first, where there are any.
    weights_T_V = model.c_tf_idf_.toarray()[model.c_tf_idf_.shape[0] - count :]
    return Clustering(topic_N, terms, weights_T_V, list(vectorizer.get_feature_names_out()))


def _vectorizer(words: bool) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(stop_words="english") if words else CountVectorizer(analyzer=_tags_of)


def _tags_of(joined: str) -> list[str]:
    return [tag for part in joined.split(SEPARATOR) if (tag := part.strip().casefold())]


def figures_of(
    found: Clustering, labels: Sequence[str | None], word_sets: Sequence[set[str]], resamples: int, seed: int
) -> dict[str, Any]:
    """Count of topics, share of outliers, agreement with the labels, and how coherent and diverse the top words are.

    Intervals of the agreement are the bootstrap's over texts, whose clusters stay as they are; those of the top words
    are over topics. There is none of the count, which says what was found in these texts.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    top = [top_words(terms) for terms in found.terms]
    labelled = [place for place, label in enumerate(labels) if label is not None]
    given_N = np.unique([str(labels[place]) for place in labelled], return_inverse=True)[1]
    own_N = found.topic_N[labelled]
    agreement = {
        name: bootstrap(np.vectorize(score, signature="(n),(n)->()"), [given_N, own_N], resamples, seed)._asdict()
        for name, score in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score))
    }
    return {
        "topics": len(found.terms),
        "outliers": wilson(int((found.topic_N < 0).sum()), len(found.topic_N))._asdict(),
        **agreement,
        "coherence": bootstrap_mean(coherence(top, word_sets), resamples, seed)._asdict(),
        "diversity": diversity(top)._asdict(),
    }


def top_words(terms: Sequence[str]) -> list[str]:
    """The first TOP distinct words of a topic's terms, without English stop words and single letters."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = [word for term in terms for word in words_of(term) if len(word) > 1 and word not in ENGLISH_STOP_WORDS]
    return list(dict.fromkeys(words))[:TOP]


def coherence(top: Sequence[Sequence[str]], word_sets: Sequence[set[str]]) -> np.ndarray:
    """Of each topic the mean over pairs of its words of normalised pointwise mutual information, in [-1, 1].

    NPMI = ln(p(a, b) / (p(a) p(b))) / -ln p(a, b), p the share of texts that have the word or both; -1 where no text
    has both, 1 where all have (Bouma 2009, GSCL; Lau et al. 2014, EACL). Words that no text has say nothing on either
    side and are left out, as are topics without a pair.
    """
    means = []
    for words in top:
        has = {word: np.array([word in own for own in word_sets]) for word in words}
        pairs = itertools.combinations([has_N for has_N in has.values() if has_N.any()], 2)
        values = [npmi(float((a & b).mean()), float(a.mean()), float(b.mean())) for a, b in pairs]
        if values:
            means.append(sum(values) / len(values))
    return np.array(means)


def npmi(both: float, first: float, second: float) -> float:
    """Normalised pointwise mutual information of two events from their probabilities, in [-1, 1]."""
    if both in (0, 1):
        return 2 * both - 1
    return math.log(both / (first * second)) / -math.log(both)


def diversity(top: Sequence[Sequence[str]]) -> Interval:
    """Share of distinct words among the top words of all topics (Dieng et al. 2020, TACL 8:439); nothing without any.

    The interval is the jackknife's over topics.
    """
    if not any(top):
        return Interval(None, None, None)
    without = [own for place in range(len(top)) if any(own := [*top[:place], *top[place + 1 :]])]
    return jackknife(_distinct(top), np.array([_distinct(own) for own in without]), most=1.0)


def _distinct(top: Sequence[Sequence[str]]) -> float:
    words = [word for own in top for word in own]
    return len(set(words)) / len(words)
