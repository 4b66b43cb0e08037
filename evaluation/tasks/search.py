"""Do tags help to find a text by a question that it answers? By words, by meaning, by both, and by a cross-encoder.

Suffixes of array names: N documents, Q questions, P passages, D embedding dimensions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from semtag.configs.evaluation import Evaluation
from semtag.evaluation.answers import Corpus
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.measures import Lists, WordSearch
from semtag.evaluation.rows import Key, Series
from semtag.evaluation.tasks.inputs import Documents, ways_to_read
from semtag.scoring.criteria import cross_encoder
from semtag.scoring.similarity import DIGITS
from semtag.store.hashing import hash64

DEPTH = 100  # most hits of a question
PASSAGE, OVERLAP = 150, 50  # words; so many fit into the 256 tokens that small embedding models read
RERANKED = 50  # hits that the cross-encoder reads

Hits = list[np.ndarray]  # for each question the places of the documents found, best first
Reranker = Callable[[list[tuple[str, str]]], np.ndarray]  # pairs of question and passage to scores


class Question(NamedTuple):
    """A question, the places of the texts that it was asked about, and the order of documents that tie, shape [N]."""

    id: int
    words: str
    places: list[int]
    ties_N: np.ndarray


def search(corpus: Corpus, tags: Mapping[str, Lists], judge: Judge, evaluation: Evaluation) -> list[Series]:
    """Measure how well each question finds the texts that it was asked about; empty without questions.

    A series for each way to read the texts, each method and each measure. Other texts that answer a question as well
    count as errors. A question about a text that people did not label has no value for people. Figures are of the first
    DEPTH hits. Raises UserError when the cross-encoder cannot be loaded.
    """
    asked = questions_of(corpus.lists(evaluation.questions_column), corpus.ids)
    if not asked:
        return []
    rerank = cross_encoder(evaluation.reranker, "evaluation.reranker") if evaluation.reranker else None
    relevant = [question.places for question in asked]
    ids_Q, clusters_Q = np.array([question.id for question in asked]), corpus.clusters_N[[own[0] for own in relevant]]
    series = []
    for way in ways_to_read(corpus.texts, tags):
        unlabelled_N = corpus.unlabelled_N(way.arm)
        unlabelled_Q = [unlabelled_N[places].any() for places in relevant]
        for method, hits in _hits(asked, way, judge, rerank):
            for measure, values_Q in figures_of(hits, relevant):
                key = Key(way.arm, way.input, "search", method, measure)
                series.append(Series(key, ids_Q, clusters_Q, np.where(unlabelled_Q, np.nan, values_Q)))
    return series


def questions_of(questions_N: Lists, ids: Sequence[int]) -> list[Question]:
    """Return each distinct question of N texts.

    Documents that tie are in an order of chance that the text's id and the question give, so that no way to read the
    texts gains by the order of the file.
    """
    asked: dict[str, list[int]] = {}
    for place, own in enumerate(questions_N):
        for words in dict.fromkeys(own):
            asked.setdefault(words, []).append(place)
    hashes_N = np.array([hash64(id_) for id_ in ids])
    named = [(hash64("question", words), words, places) for words, places in asked.items()]
    # The product of the hashes, modulo 2^64: another order for each question.
    return [Question(id_, words, places, hashes_N * (id_ | 1)) for id_, words, places in named]


def _hits(asked: list[Question], way: Documents, judge: Judge, rerank: Reranker | None) -> Iterator[tuple[str, Hits]]:
    """Yield each method and what each question finds by it."""
    passages_N = [passages(document) for document in way.strings]
    by_words, by_meaning = hits_by_words(asked, way.strings), hits_by_meaning(asked, passages_N, judge)
    fused = [fusion(both, own.ties_N) for own, *both in zip(asked, by_words, by_meaning, strict=True)]
    yield from (("bm25", by_words), ("dense", by_meaning), ("fusion", fused))
    if rerank:
        pairs = zip(asked, fused, strict=True)
        yield "reranked", [reranked(own.words, passages_N, ranking, rerank) for own, ranking in pairs]


def hits_by_words(asked: list[Question], documents: Sequence[str]) -> Hits:
    """Find documents by BM25. A document that shares no word with the question is not found."""
    scores = WordSearch(documents)
    return [_best(scores(question.words), 0.0, question.ties_N) for question in asked]


def hits_by_meaning(asked: list[Question], passages_N: Lists, judge: Judge) -> Hits:
    """Find documents by the cosine of the question and their best passage (MaxP; Dai and Callan 2019, SIGIR).

    An empty document is not found.
    """
    read = [place for place, own in enumerate(passages_N) if own]
    if not read:
        return [np.zeros(0, dtype=int) for _ in asked]
    cut = [passages_N[place] for place in read]
    passages_P_D = judge.passages([passage for own in cut for passage in own])
    hits, scores_N = [], np.full(len(passages_N), -np.inf)
    for start in range(0, len(asked), 256):  # some questions at a time, to bound the memory
        some = asked[start : start + 256]
        cosines = judge.queries([question.words for question in some]) @ passages_P_D.T
        # Further decimals depend on the batch, and equal documents shall tie.
        for question, scores_P in zip(some, cosines.round(DIGITS["float32"]), strict=True):
            scores_N[read] = _best_passages(scores_P, cut)
            hits.append(_best(scores_N, -np.inf, question.ties_N))
    return hits


def passages(document: str) -> list[str]:
    """Return the document itself where it is short, else runs of PASSAGE words of which neighbours share OVERLAP."""
    words = document.split()
    if len(words) <= PASSAGE:
        return [document] if words else []
    return [" ".join(words[at : at + PASSAGE]) for at in range(0, len(words) - OVERLAP, PASSAGE - OVERLAP)]


def _best_passages(scores_P: np.ndarray, cut: Lists) -> np.ndarray:
    """Return the highest score of each document's passages; each has one at least."""
    return np.asarray(np.maximum.reduceat(scores_P, np.cumsum([0, *map(len, cut)])[:-1]))


def _best(scores_N: np.ndarray, above: float, ties_N: np.ndarray) -> np.ndarray:
    """Return the places of the DEPTH highest scores that are above a bound, highest first, equal ones by `ties_N`."""
    least = np.partition(scores_N, -DEPTH)[-DEPTH] if len(scores_N) > DEPTH else -np.inf
    near = np.flatnonzero((scores_N >= least) & (scores_N > above))
    return near[np.lexsort((ties_N[near], -scores_N[near]))][:DEPTH]


def fusion(rankings: Sequence[np.ndarray], ties_N: np.ndarray, k: int = 60) -> np.ndarray:
    """Fuse rankings by the sum of 1 / (k + rank), ranks from 1 (reciprocal rank fusion; Cormack et al. 2009, SIGIR)."""
    scores_N = np.zeros(len(ties_N))
    for ranking in rankings:
        scores_N[ranking] += 1 / (k + 1 + np.arange(len(ranking)))
    return _best(scores_N, 0.0, ties_N)


def reranked(words: str, passages_N: Lists, ranking: np.ndarray, rerank: Reranker) -> np.ndarray:
    """Order the first RERANKED hits of a question by the score of their best passage; the others stay behind them."""
    first = ranking[:RERANKED]
    if not len(first):
        return ranking
    cut = [passages_N[place] for place in first]
    scores = _best_passages(rerank([(words, passage) for own in cut for passage in own]), cut)
    return np.concatenate([first[np.argsort(-scores, kind="stable")], ranking[RERANKED:]])


def figures_of(hits: Hits, relevant: Sequence[Sequence[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield nDCG@10, recall@10 and average precision of each question, each of shape [Q] in [0, 1], by ir-measures."""
    from ir_measures import AP, R, iter_calc, nDCG

    names = {nDCG @ 10: "ndcg_at_10", R @ 10: "recall_at_10", AP: "map"}
    wanted, run = {}, {}
    for number, (places, own) in enumerate(zip(relevant, hits, strict=True)):
        wanted[str(number)] = {str(place): 1 for place in places}
        run[str(number)] = {str(place): float(-rank) for rank, place in enumerate(own.tolist())}
    values = {name: np.zeros(len(relevant)) for name in names.values()}
    for figure in iter_calc(list(names), wanted, run):
        values[names[figure.measure]][int(figure.query_id)] = figure.value
    yield from values.items()
