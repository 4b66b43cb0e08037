"""Do tags help to find a text by a question that it answers? By words, by meaning, by both, and by a reranker.

Shapes: N documents, Q queries, P passages, D embedding dimensions.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.schema import Evaluation
from semtag.evaluation.documents import RESAMPLES, Directions, TagLists, directions_of, ways_to_read
from semtag.evaluation.measures import stems
from semtag.evaluation.statistics import bootstrap_mean
from semtag.scoring.similarity import Embed
from semtag.store.locations import local_folder

DEPTH = 100  # most hits of a query
PASSAGE, OVERLAP = 200, 50  # words
RERANKED = 50  # hits that the cross-encoder reads

Hits = list[np.ndarray]  # for each query the places of the documents found, best first
Judge = Callable[[list[tuple[str, str]]], np.ndarray]  # pairs of query and document to scores


def search(
    texts: list[str],
    questions: list[list[str]],
    tags: dict[str, TagLists],
    embed: Embed,
    evaluation: Evaluation,
    seed: int,
) -> dict[str, Any] | None:
    """How well each question finds the texts that it was asked about among all; None without questions.

    A row for each way to read the texts and each method, with the mean over the questions of average precision,
    nDCG@10 and recall@10, cut at rank 100.
    """
    asked = _relevant(questions)
    if not asked:
        return None
    directions, judge = directions_of(embed), cross_encoder(evaluation.reranker) if evaluation.reranker else None
    rows = []
    for arm, on, documents in ways_to_read(texts, tags):
        for method, hits in _hits(list(asked), documents, directions, judge).items():
            figures = {
                name: bootstrap_mean(values_Q, min(evaluation.resamples, RESAMPLES), seed)._asdict()
                for name, values_Q in figures_of(hits, list(asked.values())).items()
            }
            rows.append({"arm": arm, "on": on, "method": method} | figures)
    return {"texts": len(texts), "queries": len(asked), "rows": rows}


def _relevant(questions: list[list[str]]) -> dict[str, list[int]]:
    """Each distinct question with the places of the texts that it was asked about."""
    asked: dict[str, list[int]] = {}
    for place, own in enumerate(questions):
        for question in dict.fromkeys(own):
            asked.setdefault(question, []).append(place)
    return asked


def _hits(queries: list[str], documents: list[str], directions: Directions, judge: Judge | None) -> dict[str, Hits]:
    by_words, by_meaning = hits_by_words(queries, documents), hits_by_meaning(queries, documents, directions)
    fused = [fusion([*both]) for both in zip(by_words, by_meaning, strict=True)]
    hits = {"bm25": by_words, "dense": by_meaning, "fusion": fused}
    return hits | ({"reranked": reranked(queries, documents, fused, judge)} if judge else {})


def hits_by_words(queries: list[str], documents: list[str]) -> Hits:
    """BM25 as Lucene has it, over English stems (Robertson and Zaragoza 2009; Lu 2024, arXiv 2407.03618).

    A document that shares no word with the query is not found.
    """
    import bm25s

    words, index = stems(documents), bm25s.BM25()
    if not any(words):
        return [np.zeros(0, dtype=int) for _ in queries]
    index.index(words, show_progress=False)
    return [_best(index.get_scores(query), 0.0) if query else np.zeros(0, dtype=int) for query in stems(queries)]


def hits_by_meaning(queries: list[str], documents: list[str], directions: Directions) -> Hits:
    """By cosine of query and document, of whose passages the best counts (MaxP; Dai and Callan 2019, SIGIR).

    An empty document is not found.
    """
    cut = [(place, passage) for place, document in enumerate(documents) for passage in passages(document)]
    if not cut:
        return [np.zeros(0, dtype=int) for _ in queries]
    # Equal passages are compared once, so that their scores are equal to the last bit and ties are ties.
    number = {passage: index for index, passage in enumerate(dict.fromkeys(passage for _, passage in cut))}
    numbers = np.array([number[passage] for _, passage in cut])
    owners, starts = np.unique([place for place, _ in cut], return_index=True)
    hits, scores_N = [], np.full(len(documents), -np.inf)
    for scores_P in _cosines(directions(queries), directions(list(number))):
        scores_N[owners] = np.maximum.reduceat(scores_P[numbers], starts)
        hits.append(_best(scores_N, -np.inf))
    return hits


def passages(document: str) -> list[str]:
    """The document itself where it is short, else runs of PASSAGE words of which neighbours share OVERLAP."""
    words = document.split()
    if len(words) <= PASSAGE:
        return [document] if words else []
    return [" ".join(words[at : at + PASSAGE]) for at in range(0, len(words) - OVERLAP, PASSAGE - OVERLAP)]


def _cosines(queries_Q_D: np.ndarray, passages_P_D: np.ndarray) -> Iterator[np.ndarray]:
    """Of each query its cosine with each passage, shape [P]; some queries at a time, to bound the memory."""
    for start in range(0, len(queries_Q_D), 256):
        yield from queries_Q_D[start : start + 256] @ passages_P_D.T


def _best(scores_N: np.ndarray, above: float) -> np.ndarray:
    """Places of the DEPTH highest scores that are above a bound, highest first, equal ones in their order."""
    least = np.partition(scores_N, -DEPTH)[-DEPTH] if len(scores_N) > DEPTH else -np.inf
    near = np.flatnonzero((scores_N >= least) & (scores_N > above))
    return near[np.argsort(-scores_N[near], kind="stable")][:DEPTH]


def fusion(rankings: list[np.ndarray], k: int = 60) -> np.ndarray:
    """Reciprocal rank fusion: the sum over rankings of 1 / (k + rank), ranks from 1 (Cormack et al. 2009, SIGIR)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking.tolist(), 1):
            scores[place] = scores.get(place, 0.0) + 1 / (k + rank)
    return np.array(sorted(scores, key=lambda place: (-scores[place], place))[:DEPTH], dtype=int)


def reranked(queries: list[str], documents: list[str], hits: Hits, judge: Judge) -> Hits:
    """The first RERANKED hits of each query in the order of the judge's scores, the others behind them as they were."""
    read = [own[:RERANKED] for own in hits]
    pairs = [(query, documents[place]) for query, own in zip(queries, read, strict=True) for place in own]
    scores = np.split(judge(pairs) if pairs else np.zeros(0), np.cumsum([len(own) for own in read])[:-1])
    ordered = [own[np.argsort(-given, kind="stable")] for own, given in zip(read, scores, strict=True)]
    return [np.concatenate([first, own[RERANKED:]]) for first, own in zip(ordered, hits, strict=True)]


def cross_encoder(name: str) -> Judge:
    """A model that reads query and document together (Nogueira and Cho 2019, arXiv 1901.04085).

    Raises UserError when it cannot be loaded or does not give one score.
    """
    import torch
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(local_folder(name), trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        what = f"Cannot load the reranker {name}: {str(error).splitlines()[0]}"
        raise UserError(what, "Check evaluation.reranker.") from None
    if model.num_labels != 1:
        raise UserError(f"The reranker {name} gives {model.num_labels} scores, not one.", "Check evaluation.reranker.")
    # Scores as they leave the model: a sigmoid makes ties of all that are high.
    return lambda pairs: np.asarray(model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False))


def figures_of(hits: Hits, relevant: list[list[int]]) -> dict[str, np.ndarray]:
    """Average precision, nDCG@10 and recall@10 of each query, shape [Q], in [0, 1], as trec_eval has them."""
    from ir_measures import AP, R, iter_calc, nDCG

    names = {AP: "map", nDCG @ 10: "ndcg_at_10", R @ 10: "recall_at_10"}
    wanted = {str(query): {str(place): 1 for place in own} for query, own in enumerate(relevant)}
    run = {
        str(query): {str(place): float(-rank) for rank, place in enumerate(own.tolist())}
        for query, own in enumerate(hits)
    }
    figures = {name: np.zeros(len(relevant)) for name in names.values()}
    for figure in iter_calc(list(names), wanted, run):
        figures[names[figure.measure]][int(figure.query_id)] = figure.value
    return figures
