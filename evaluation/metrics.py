"""From answers to figures: base against tuned on the same texts."""

from typing import Any

import numpy as np

from evaluation.corpus import ALWAYS, Corpus
from evaluation.statistics import bootstrap_d, bootstrap_mean, wins

Figures = dict[str, Any]


def compare(corpus: Corpus, resamples: int, seed: int) -> Figures:
    """Similarity of tags and text, where both models answer well formed and over all texts; and the scores of it."""
    base, tuned = corpus.scores("base"), corpus.scores("tuned")
    both = corpus.valid("base") & corpus.valid("tuned")
    return {
        "similarity": {
            "both_valid": _similarity(base[both], tuned[both], resamples, seed),
            "all_texts": _similarity(base, tuned, resamples, seed),
        },
        "histogram": {arm: corpus.scores(arm)[corpus.valid(arm)].round(4).tolist() for arm in ALWAYS},
        "differences": (tuned - base).round(4).tolist(),
    }


def examples(corpus: Corpus, count: int) -> list[Figures]:
    """Texts with all answers, spread evenly over the gain in score: the worst, the middle and the best."""
    gains = corpus.scores("tuned") - corpus.scores("base")
    order = np.argsort(gains, kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    found = []
    for index in order[places].tolist():
        answers = {arm: _shown(of_arm[index]) for arm, of_arm in corpus.answers.items()}
        both = {arm: answers.pop(arm) for arm in ALWAYS}
        found.append({"text": corpus.texts[index], "gain": round(float(gains[index]), 4), **both, "arms": answers})
    return found


def paired(base_N: np.ndarray, tuned_N: np.ndarray, resamples: int, seed: int) -> Figures:
    """Means of both models on the same N texts and of their differences, each with its interval."""
    means = {"base": base_N, "tuned": tuned_N, "difference": tuned_N - base_N}
    return {name: bootstrap_mean(values_N, resamples, seed)._asdict() for name, values_N in means.items()}


def _similarity(base_N: np.ndarray, tuned_N: np.ndarray, resamples: int, seed: int) -> Figures:
    several = len(base_N) > 1
    return {
        "texts": len(base_N),
        **paired(base_N, tuned_N, resamples, seed),
        "sd": {
            "base": float(base_N.std(ddof=1)) if several else None,
            "tuned": float(tuned_N.std(ddof=1)) if several else None,
        },
        "win_rate": bootstrap_mean(wins(tuned_N - base_N), resamples, seed)._asdict(),
        "cohens_d": bootstrap_d(base_N, tuned_N, resamples, seed)._asdict(),
    }


def _shown(answer: dict[str, Any]) -> Figures:
    return {name: answer[name] for name in ("completion", "format", "reason", "score", "tags")}
