"""Gates: does the tuned model tag better, or has it only learnt what raises the similarity that it was tuned for?

All compare both models on the texts that both answered well formed, so that a change of format, which is measured
elsewhere, hides nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from configs.schema import Evaluation
from evaluation.independent import (
    Tags,
    copied_share,
    diversity,
    found_by_words,
    longest_span,
    specificity,
    word_count,
)
from evaluation.metrics import Answers
from evaluation.statistics import Interval, bootstrap_mean

MEASURES = {
    "similarity": "similarity of tags and text, the score of training",
    "found_by_words": "reciprocal rank of the text when BM25 looks for its tags",
    "specificity": "inverse document frequency of the tags' words",
    "copied_share": "share of the tags' words that stand in the text",
    "longest_span": "words of the longest run copied from the text",
    "words": "words of an answer",
}


def independent(answers: Answers, evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """`independent`: the measures of both models and their paired differences; `gates`: what follows from them."""
    both = np.flatnonzero(answers.valid("base") & answers.valid("tuned"))
    # Every text is looked for among all held-out texts, not only among those that count.
    values = {arm: _measure(answers, arm, both) for arm in ("base", "tuned")}
    tags = {arm: [getattr(answers, arm)[place]["tags"] for place in both] for arm in values}
    measures: list[dict[str, Any]] = [
        {
            "name": name,
            "means": meaning,
            **{arm: float(values[arm][name].mean()) if len(both) else None for arm in values},
            "difference": bootstrap_mean(
                values["tuned"][name] - values["base"][name], evaluation.resamples, seed
            )._asdict(),
        }
        for name, meaning in MEASURES.items()
    ]
    spread = {arm: diversity(own) for arm, own in tags.items()}
    return {
        "independent": {"texts": len(both), "measures": measures, "diversity": spread},
        "gates": gates({one["name"]: one for one in measures}, spread, evaluation),
    }


def _measure(answers: Answers, arm: str, both: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of one model on the texts `both`."""
    tags: list[Tags] = [answer["tags"] for answer in getattr(answers, arm)]

    def each(measure: Callable[[str, Tags], float]) -> np.ndarray:
        return np.array([measure(answers.texts[place], tags[place]) for place in both], dtype=float)

    return {
        "similarity": answers.scores(arm)[both],
        "found_by_words": found_by_words(answers.texts, tags)[both],
        "specificity": specificity(answers.texts, tags)[both],
        "copied_share": each(copied_share),
        "longest_span": each(longest_span),
        "words": each(lambda _, own: word_count(own)),
    }


def gates(
    measures: dict[str, dict[str, Any]], spread: dict[str, dict[str, float]], evaluation: Evaluation
) -> list[dict[str, Any]]:
    """The gates: name, whether passed, and why, in words. Without texts to compare none passes."""
    if measures["similarity"]["base"] is None:
        return [{"name": "texts", "passed": False, "why": "there is no text that both models answered well formed"}]
    change = {name: Interval(**one["difference"]) for name, one in measures.items()}
    rose = _low(change["similarity"]) > 0
    found, copied, span = (change[name] for name in ("found_by_words", "copied_share", "longest_span"))
    ratio = measures["words"]["tuned"] / max(measures["words"]["base"], 1e-9)
    lost = spread["base"]["entropy_bits"] - spread["tuned"]["entropy_bits"]
    return [
        {
            "name": "independent score",
            "passed": not rose or _low(found) > 0,
            "why": f"similarity {'rose' if rose else 'did not rise'}; the rank at which BM25 finds a text by its tags "
            f"changed by {_said(found)}",
        },
        {
            "name": "copying",
            "passed": _value(copied) <= evaluation.most_copied and _value(span) <= evaluation.most_span,
            "why": f"the copied share of the tags' words changed by {_said(copied)} "
            f"(at most +{evaluation.most_copied:g}), the longest copied run by {_said(span)} words "
            f"(at most +{evaluation.most_span:g})",
        },
        {
            "name": "length",
            "passed": ratio <= evaluation.most_length,
            "why": f"answers have {ratio:.2f} times as many words (at most {evaluation.most_length:g})",
        },
        {
            "name": "diversity",
            "passed": lost <= evaluation.most_entropy_lost,
            "why": f"the entropy of all tags changed by {-lost:+.2f} bits (at least -{evaluation.most_entropy_lost:g})",
        },
    ]


def _value(interval: Interval) -> float:
    return interval.value or 0.0


def _low(interval: Interval) -> float:
    return interval.low or 0.0


def _said(interval: Interval) -> str:
    return f"{_value(interval):+.3f} [{_low(interval):+.3f}, {interval.high or 0.0:+.3f}]"
