"""Topics: clusters of texts, of tags, and of both. The map shows the clusters of both.

As BERTopic does (Grootendorst 2022, arXiv 2203.05794): UMAP, HDBSCAN and class-based TF-IDF. Suffixes of array names:
N texts, S seeds, T topics, V distinct tags, D embedding dimensions. Topic -1 holds the outliers.
"""

import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from semtag.evaluation.answers import Corpus
from semtag.evaluation.arms import TUNED
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.measures import Lists
from semtag.evaluation.report.records import Point, TopicFigures, TopicMap, TopicName, Topics
from semtag.evaluation.rows import Key, Series
from semtag.evaluation.tasks.inputs import Documents, ways_to_read

FEWEST = 40  # texts
SEEDS = 5  # clusterings of one way to read the texts, since UMAP's seed changes much
MOST_POINTS = 2000
SHOWN = 200  # characters of a text


class Groups(NamedTuple):
    """What topics are compared with: `labels` or `titles` of N texts, or nothing under an empty name."""

    name: str
    labels: Sequence[str | None]


def find_topics(
    corpus: Corpus, groups: Groups, tags: Mapping[str, Lists], judge: Judge, seed: int
) -> tuple[list[Series], Topics | None]:
    """Find the topics of each way to read the texts, over SEEDS seeds; nothing with fewer than FEWEST texts.

    The series hold the topics of the first seed, which are those of the map of the tagger's tags and texts.
    """
    if len(corpus.texts) < FEWEST:
        return [], None
    series, rows, drawn = [], [], None
    for way in ways_to_read(corpus.texts, tags):
        vectors_N_D = judge.passages(way.strings)
        topics_S_N = np.array([cluster(vectors_N_D, seed + number) for number in range(SEEDS)])
        told = [str(topic) for topic in topics_S_N[0]]
        key, nothing_N = Key(way.arm, way.input, "topics", "seed 0", "topic"), np.full(len(told), np.nan)
        series.append(Series(key, np.array(corpus.ids), corpus.clusters_N, nothing_N, told))
        rows.append(figures_of(way, topics_S_N, groups.labels))
        if (way.arm, way.input) == (TUNED, "both"):
            plane_N_2 = reduced(vectors_N_D[:MOST_POINTS], 2, 0.1, seed)
            drawn = map_of(plane_N_2, topics_S_N[0], corpus.texts, tags[TUNED], groups.labels)
    return series, Topics(seeds=SEEDS, labels=groups.name, rows=rows, map=drawn)


def cluster(vectors_N_D: np.ndarray, seed: int) -> np.ndarray:
    """Return the topic of each text, shape [N], from 0 in order of falling size.

    Rows of zeros, which are empty documents, are outliers; so are all where fewer than FEWEST documents are left.
    """
    from sklearn.cluster import HDBSCAN

    topic_N, read_N = np.full(len(vectors_N_D), -1), vectors_N_D.any(axis=1)
    count = int(read_N.sum())
    if count >= FEWEST:
        dense = HDBSCAN(min_cluster_size=max(5, count // 50), copy=True)
        found = dense.fit_predict(reduced(vectors_N_D[read_N], 5, 0.0, seed))
        ranks_T = np.argsort(np.argsort(-np.bincount(found[found >= 0]), kind="stable"))
        topic_N[read_N] = np.append(ranks_T, -1)[np.maximum(found, -1)]  # outliers read the last
    return topic_N


def reduced(vectors_N_D: np.ndarray, dimensions: int, spread: float, seed: int) -> np.ndarray:
    """Reduce vectors by UMAP (McInnes et al. 2018, arXiv 1802.03426), shape [N, dimensions]; the same for a seed."""
    from umap import UMAP

    umap = UMAP(n_components=dimensions, min_dist=spread, metric="cosine", random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(umap.fit_transform(vectors_N_D))


def figures_of(way: Documents, topics_S_N: np.ndarray, labels: Sequence[str | None]) -> TopicFigures:
    """Compute the means over seeds of a way's figures."""
    return TopicFigures(
        arm=way.arm,
        input=way.input,
        texts=sum(bool(document.strip()) for document in way.strings),
        topics=float((topics_S_N.max(axis=1) + 1).mean()),
        outliers=float((topics_S_N < 0).mean()),
        ami=_mean(ami(labels, topic_N, least=-1) for topic_N in topics_S_N),
        ami_inliers=_mean(ami(labels, topic_N, least=0) for topic_N in topics_S_N),
    )


def ami(labels: Sequence[str | None], topic_N: np.ndarray, least: int) -> float | None:
    """Compute the adjusted mutual information of labels and topics over the texts with a label, at most 1.

    Its expectation is 0 for labels and topics that have nothing to do with each other (Vinh et al. 2010, JMLR 11:2837).
    `least` is the lowest topic that counts: -1 takes the outliers as one topic more, 0 leaves them out. None where
    there are fewer than two labels.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    known = [place for place, label in enumerate(labels) if label is not None and topic_N[place] >= least]
    given = [labels[place] for place in known]
    return float(adjusted_mutual_info_score(given, topic_N[known])) if len(set(given)) > 1 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def map_of(
    plane_N_2: np.ndarray, topic_N: np.ndarray, texts: Sequence[str], tags_N: Lists, labels: Sequence[str | None]
) -> TopicMap:
    """Make the map of as many first texts as have a place in the plane; a topic's size counts all its texts."""
    rows = zip(plane_N_2.tolist(), topic_N.tolist(), texts, tags_N, labels, strict=False)
    points = [
        Point(x=round(x, 3), y=round(y, 3), topic=topic, text=text[:SHOWN], tags=list(tags), label=label)
        for (x, y), topic, text, tags, label in rows
    ]
    sizes = np.bincount(topic_N[topic_N >= 0]).tolist()
    named = enumerate(zip(names_of(topic_N, tags_N), sizes, strict=True))
    topics = [TopicName(id=topic, name=name, size=size) for topic, (name, size) in named]
    return TopicMap(arm=TUNED, points=points, topics=topics)


def names_of(topic_N: np.ndarray, tags_N: Lists) -> list[str]:
    """Name each topic by the three tags, case-folded, of the highest class-based TF-IDF; empty without tags.

    TF-IDF = tf * ln(1 + A / f): tf in the topic, f in all topics, A the mean number of tags of a topic (Grootendorst
    2022, equation 2). The outliers are a topic more.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    said: list[list[str]] = [[] for _ in range(int(topic_N.max()) + 2)]  # the outliers come last
    for topic, tags in zip(topic_N, tags_N, strict=True):
        said[topic] += [tag.casefold() for tag in tags]
    if not any(said):
        return [""] * (len(said) - 1)
    vectorizer = CountVectorizer(analyzer=list)
    counts_T_V = vectorizer.fit_transform(said).toarray()
    weights_T_V = counts_T_V * np.log1p(counts_T_V.sum(axis=1).mean() / counts_T_V.sum(axis=0))
    tags_V, names = vectorizer.get_feature_names_out(), []
    for own_V in weights_T_V[:-1]:
        best = np.argsort(-own_V, kind="stable")[: min(3, np.count_nonzero(own_V))]
        names.append(", ".join(tags_V[best]))
    return names
