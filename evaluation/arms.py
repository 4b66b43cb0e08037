"""Every arm's figures, and how far each differs from the base model's on the same texts."""

from typing import Any

import numpy as np

from configs.schema import Evaluation
from evaluation.agreement import agreement
from evaluation.corpus import Arm, Corpus
from evaluation.independent import diversity
from evaluation.metrics import defects_of, format_change
from evaluation.statistics import bootstrap_mean, holm, mcnemar_exact, sign_flip, wilson
from scoring.similarity import Embed

REFERENCE = "base"
RANKS = ("found_by_words", "found_by_meaning")  # of all texts; what describes tags is of the valid answers alone
Values = dict[str, np.ndarray]


def compare_arms(
    corpus: Corpus, arms: list[Arm], values: dict[str, Values], evaluation: Evaluation, seed: int, embed: Embed
) -> list[dict[str, Any]]:
    """A row an arm: its figures with their intervals, and its paired differences from the reference arm.

    `values` are the measures of each arm's answers, of `gates.measure`. The p values of a measure are corrected for
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
        "defects": defects_of(answers),
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
    found: dict[str, dict[str, Any]] = {}
    for name, values_N in own.items():
        if name == "well_formed":
            change, only_reference, only_own = format_change(reference[name], values_N)
            found[name] = {"difference": change._asdict(), "p": mcnemar_exact(only_reference, only_own)}
        else:
            differences_N = values_N - reference[name]
            change = bootstrap_mean(differences_N, resamples, seed)
            found[name] = {"difference": change._asdict(), "p": sign_flip(differences_N, resamples, seed)}
    return found


def _correct(against: list[dict[str, dict[str, Any]]]) -> None:
    for name in against[0]:
        adjusted = holm([own[name]["p"] for own in against])
        for own, p in zip(against, adjusted, strict=True):
            own[name]["p_holm"] = p
