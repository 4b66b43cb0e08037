"""From measures of answers to figures with their intervals: every arm, and how far it differs from the base model."""

from collections import Counter
from typing import Any

import numpy as np

from semtag.configs.schema import Evaluation
from semtag.evaluation.corpus import ALWAYS, Arm, Corpus
from semtag.evaluation.measures import agreement, diversity
from semtag.evaluation.statistics import (
    bootstrap_d,
    bootstrap_mean,
    holm,
    newcombe_paired,
    sign_flip,
    sign_test,
    wilson,
    wins,
)
from semtag.scoring.similarity import Embed

REFERENCE = "base"
RANKS = ("found_by_words", "found_by_meaning")  # of all texts; what describes tags is of the valid answers alone
Values = dict[str, np.ndarray]


def compare_arms(
    corpus: Corpus, arms: list[Arm], values: dict[str, Values], evaluation: Evaluation, seed: int, embed: Embed
) -> list[dict[str, Any]]:
    """A row an arm: its figures with their intervals, and its paired differences from the reference arm.

    `values` are the measures of each arm's answers, of `measures.measure`. The p values of a measure are corrected for
    the number of arms (Holm).
    """
    judged = _agreement(corpus, arms, evaluation.keys_column, embed)
    rows = [_row(corpus, arm, values[arm.name], judged.get(arm.name), evaluation.resamples, seed) for arm in arms]
    tested = {arm.name: _tested(corpus, arm.name, values[arm.name], judged.get(arm.name)) for arm in arms}
    for row in rows:
        if row["name"] != REFERENCE:
            row["against"] = _differences(tested[REFERENCE], tested[row["name"]], evaluation.resamples, seed)
    _correct([row["against"] for row in rows if row["against"]])
    return rows


def _row(corpus: Corpus, arm: Arm, values: Values, judged: Values | None, resamples: int, seed: int) -> dict[str, Any]:
    answers, valid, scores = corpus.answers[arm.name], corpus.valid(arm.name), corpus.scores(arm.name)

    def interval(values_N: np.ndarray) -> dict[str, float | None]:
        return bootstrap_mean(values_N, resamples, seed)._asdict()

    return {
        "name": arm.name,
        "means": arm.means,
        "missing": sum("missing" in answer for answer in answers),
        "well_formed": wilson(int(valid.sum()), len(valid))._asdict(),
        "similarity": interval(scores),
        "similarity_valid": interval(scores[valid]),
        "measures": {
            name: interval(own if name in RANKS else own[valid]) for name, own in values.items() if name != "similarity"
        },
        "diversity": diversity(corpus.tags(arm.name)),
        "defects": dict(Counter(answer["reason"] for answer in answers if answer["reason"]).most_common()),
        "agreement": judged and {name: interval(own) for name, own in judged.items()},
        "against": None,
    }


def _agreement(corpus: Corpus, arms: list[Arm], column: str, embed: Embed) -> dict[str, Values]:
    """Agreement of each arm with people's keyphrases, on the texts that have any; nothing where none has."""
    keys = corpus.lists(column)
    places = [place for place, own in enumerate(keys) if own]
    if not places:
        return {}
    return {
        arm.name: agreement([keys[i] for i in places], [corpus.tags(arm.name)[i] for i in places], embed)
        for arm in arms
    }


def _tested(corpus: Corpus, arm: str, values: Values, judged: Values | None) -> Values:
    """What is compared with the reference arm, text by text."""
    tested = {"well_formed": corpus.valid(arm), "similarity": corpus.scores(arm)}
    tested |= {name: values[name] for name in RANKS if name in values}
    return tested | ({"stemmed_f1": judged["stemmed_f1"]} if judged else {})


def _differences(reference: Values, own: Values, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    scores = {name: values_N for name, values_N in own.items() if name != "well_formed"}
    changes = {name: _change(reference[name], values_N, resamples, seed) for name, values_N in scores.items()}
    return {"well_formed": format_change(reference["well_formed"], own["well_formed"])} | changes


def format_change(reference_N: np.ndarray, own_N: np.ndarray) -> dict[str, Any]:
    """Change of the share of valid answers, bool [N], and how many texts only the reference and only the arm has."""
    only_reference, only_arm = int((reference_N & ~own_N).sum()), int((own_N & ~reference_N).sum())
    both, neither = int((reference_N & own_N).sum()), int((~reference_N & ~own_N).sum())
    return {
        "difference": newcombe_paired(both, only_reference, only_arm, neither)._asdict(),
        "p": sign_test(only_reference, only_arm),
        "only_reference": only_reference,
        "only_arm": only_arm,
    }


def _change(reference_N: np.ndarray, own_N: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    differences_N = own_N - reference_N
    return {
        "difference": bootstrap_mean(differences_N, resamples, seed)._asdict(),
        "p": sign_flip(differences_N, resamples, seed),
    }


def _correct(against: list[dict[str, dict[str, Any]]]) -> None:
    for name in against[0]:
        adjusted = holm([own[name]["p"] for own in against])
        for own, p in zip(against, adjusted, strict=True):
            own[name]["p_holm"] = p


def compare(corpus: Corpus, resamples: int, seed: int) -> dict[str, Any]:
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


def examples(corpus: Corpus, count: int) -> list[dict[str, Any]]:
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


def paired(base_N: np.ndarray, tuned_N: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Means of both models on the same N texts and of their differences, each with its interval."""
    means = {"base": base_N, "tuned": tuned_N, "difference": tuned_N - base_N}
    return {name: bootstrap_mean(values_N, resamples, seed)._asdict() for name, values_N in means.items()}


def _similarity(base_N: np.ndarray, tuned_N: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
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


def _shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("completion", "format", "reason", "score", "tags")}
