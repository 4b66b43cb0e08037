"""From answers to figures: base against tuned on the same texts."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.statistics import Interval, bootstrap_d, bootstrap_mean, mcnemar_exact, newcombe_paired, wilson, wins

Example = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The answers of both models to N texts, in the same order of texts."""

    texts: list[str]
    base: list[dict[str, Any]]
    tuned: list[dict[str, Any]]

    def valid(self, arm: str) -> np.ndarray:
        """Whether each answer is valid, shape [N] bool."""
        return valid_of(getattr(self, arm))

    def scores(self, arm: str) -> np.ndarray:
        """Score of each answer with malformed ones at 0, shape [N]."""
        return scores_of(getattr(self, arm))


def valid_of(answers: list[dict[str, Any]]) -> np.ndarray:
    """Whether each answer is valid, shape [N] bool. Repaired answers are malformed ones."""
    return np.array([answer["format"] == "valid" for answer in answers], dtype=bool)


def scores_of(answers: list[dict[str, Any]]) -> np.ndarray:
    """Score of each answer with malformed ones at 0, shape [N]."""
    return np.array([answer["score"] if answer["format"] == "valid" else 0.0 for answer in answers], dtype=float)


def format_change(first_N: np.ndarray, second_N: np.ndarray) -> tuple[Interval, int, int]:
    """Change of the share of valid answers on the same texts, and how many only the first and only the second has."""
    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    both, neither = int((first_N & second_N).sum()), int((~first_N & ~second_N).sum())
    return newcombe_paired(both, only_first, only_second, neither), only_first, only_second


def compare(answers: Answers, resamples: int, seed: int) -> dict[str, Any]:
    """All figures of one decoding: format rate, similarity on both-valid and on all texts, defects."""
    base_valid, tuned_valid = answers.valid("base"), answers.valid("tuned")
    base, tuned = answers.scores("base"), answers.scores("tuned")
    both = base_valid & tuned_valid
    change, only_base, only_tuned = format_change(base_valid, tuned_valid)
    return {
        "format_rate": {
            "base": _interval(wilson(int(base_valid.sum()), len(base_valid))),
            "tuned": _interval(wilson(int(tuned_valid.sum()), len(tuned_valid))),
            "difference": _interval(change),
            "only_base": only_base,
            "only_tuned": only_tuned,
            "mcnemar_p": mcnemar_exact(only_base, only_tuned),
        },
        "similarity": {
            "both_valid": _similarity(base[both], tuned[both], resamples, seed),
            "all_texts": _similarity(base, tuned, resamples, seed),
        },
        "defects": {arm: defects_of(getattr(answers, arm)) for arm in ("base", "tuned")},
        "histogram": {
            arm: [round(float(score), 4) for score in answers.scores(arm)[answers.valid(arm)]]
            for arm in ("base", "tuned")
        },
    }


def examples(answers: Answers, count: int, others: dict[str, list[dict[str, Any]]] | None = None) -> list[Example]:
    """Texts with both answers, spread evenly over the gain in score: the worst, the middle and the best.

    `others` are the answers of further arms, which are shown beside them.
    """
    gains = answers.scores("tuned") - answers.scores("base")
    order = np.argsort(gains, kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [
        {
            "text": answers.texts[index],
            "gain": round(float(gains[index]), 4),
            "base": _shown(answers.base[index]),
            "tuned": _shown(answers.tuned[index]),
            "arms": {arm: _shown(own[index]) for arm, own in (others or {}).items()},
        }
        for index in (int(order[place]) for place in places)
    ]


def _similarity(base_N: np.ndarray, tuned_N: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    differences, effect = tuned_N - base_N, bootstrap_d(base_N, tuned_N, resamples, seed)
    return {
        "texts": len(differences),
        "base": _mean_sd(base_N, resamples, seed),
        "tuned": _mean_sd(tuned_N, resamples, seed),
        "difference": _interval(bootstrap_mean(differences, resamples, seed)),
        "win_rate": _interval(bootstrap_mean(wins(differences), resamples, seed)),
        "cohens_d": effect.value,
        "cohens_d_interval": _interval(effect),
    }


def _mean_sd(values_N: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    mean = bootstrap_mean(values_N, resamples, seed)
    sd = float(values_N.std(ddof=1)) if len(values_N) > 1 else None
    return {"mean": mean.value, "interval": _interval(mean), "sd": sd}


def defects_of(answers: list[dict[str, Any]]) -> dict[str, int]:
    """How many answers are malformed for each reason."""
    return dict(Counter(answer["reason"] for answer in answers if answer["reason"]).most_common())


def _shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("completion", "format", "reason", "score")}


def _interval(interval: Interval) -> dict[str, float | None]:
    return interval._asdict()
