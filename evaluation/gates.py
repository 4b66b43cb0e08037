"""Gates: does the tuned model tag better, or has it only learnt what raises the similarity that it was tuned for?

All compare both models on the texts that both answered well formed, so that a change of format, which is measured
elsewhere, hides nothing.
"""

from itertools import compress
from typing import Any

import numpy as np

from semtag.configs.schema import Evaluation
from semtag.evaluation.corpus import ALWAYS, Corpus
from semtag.evaluation.estimates import paired
from semtag.evaluation.measures import MEASURES, diversity
from semtag.evaluation.page import between


def independent(
    corpus: Corpus, measured: dict[str, dict[str, np.ndarray]], evaluation: Evaluation, seed: int
) -> dict[str, Any]:
    """`independent`: the measures of both models and their paired differences; `gates`: what follows from them.

    `measured` are the measures of each arm's answers, of `measures.measure`.
    """
    both, base, tuned = corpus.valid("base") & corpus.valid("tuned"), measured["base"], measured["tuned"]
    measures: list[dict[str, Any]] = [
        {"name": name, "means": meaning} | paired(base[name][both], tuned[name][both], evaluation.resamples, seed)
        for name, meaning in MEASURES.items()
        if name in base
    ]
    spread = {arm: diversity([*compress(corpus.tags(arm), both)]) for arm in ALWAYS}
    return {
        "independent": {"texts": int(both.sum()), "measures": measures, "diversity": spread},
        "gates": gates({one["name"]: one for one in measures}, spread, evaluation),
    }


def gates(
    measures: dict[str, dict[str, Any]], spread: dict[str, dict[str, Any]], evaluation: Evaluation
) -> list[dict[str, Any]]:
    """The gates: name, whether passed, and why, in words. Without texts to compare none passes."""
    if measures["similarity"]["base"]["value"] is None:
        return [{"name": "texts", "passed": False, "why": "there is no text that both models answered well formed"}]
    change = {name: one["difference"] for name, one in measures.items()}
    copied, span = change["copied_share"], change["longest_span"]
    ratio = measures["words"]["tuned"]["value"] / max(measures["words"]["base"]["value"], 1e-9)
    lost = spread["base"]["entropy_bits"]["value"] - spread["tuned"]["entropy_bits"]["value"]
    return [
        *_finding(change),
        {
            "name": "copying",
            "passed": copied["value"] <= evaluation.most_copied and span["value"] <= evaluation.most_span,
            "why": f"the copied share of the tags' words changed by {between(copied, 'signed')} "
            f"(at most +{evaluation.most_copied:g}), the longest copied run by {between(span, 'signed')} words "
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


def _finding(change: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The gates on who finds a text by its tags, of those who were asked."""
    rose = change["similarity"]["low"] > 0
    return [
        {
            "name": name,
            "passed": not rose or change[measured]["low"] > 0,
            "why": f"similarity {'rose' if rose else 'did not rise'}; the reciprocal rank at which {who} finds a "
            f"text by its tags changed by {between(change[measured], 'signed')}",
        }
        for name, measured, who in (
            ("independent score", "found_by_words", "BM25"),
            ("second model", "found_by_meaning", "an embedding model that training never saw"),
        )
        if measured in change
    ]
