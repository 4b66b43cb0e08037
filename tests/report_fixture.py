"""A report with all that one can have, made by hand, and words in it that would like to run."""

from pathlib import Path
from typing import Any

from semtag.configs.load import load_config
from semtag.evaluation.corpus import Corpus
from semtag.evaluation.estimates import compare, examples
from semtag.generation.parse import parse
from tests.test_gates import judged

ATTACK = "<script>alert(1)</script>"
ESCAPES = f"{ATTACK}</script><!--<img src=x onerror=alert(2)>&amp;\u2028"  # what would end a script of data
OTHERS = ("base_plain", "base_vote", "round_1", "tuned_constrained", "tuned_vote", "yake", "keybert")
CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"


def answer(format_: str, score: float | None, completion: str = "[a]") -> dict[str, Any]:
    reason = None if format_ == "valid" else "extra_text"
    tags = list(parse(completion).tags)
    return {"format": format_, "score": score, "completion": completion, "reason": reason, "tags": tags}


def some_corpus() -> Corpus:
    base = [
        answer("valid", 0.4, f"[same][{ATTACK}]"),
        answer("valid", 0.2),
        answer("repaired", 0.9, "[a] so"),
        answer("invalid", None, ATTACK),
    ]
    tuned = [
        answer("valid", 0.5, "[Same][other]"),
        answer("invalid", None, "none"),
        answer("valid", 0.6),
        answer("valid", 0.3),
    ]
    others = {name: [answer("valid", 0.5, f"[{name} tag][a]")] * 4 for name in OTHERS}
    texts = [f"text {i} {ATTACK}" for i in range(4)]
    return Corpus([*range(4)], texts, [{} for _ in texts], {"base": base, "tuned": tuned} | others)


def interval(value: float | None, reach: float = 0.1) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - reach, "high": value + reach}


def arm(name: str, similarity: float, p_holm: float = 0.01, judged: bool = True) -> dict[str, Any]:
    change = {"difference": interval(similarity - 0.4, 0.05), "p": p_holm / 2, "p_holm": p_holm}
    form = change | {"p": 1.0, "only_reference": 1, "only_arm": 2}
    measures = ("found_by_words", "found_by_meaning", "specificity", "copied_share", "longest_span",
                "words", "words_per_tag")  # fmt: skip
    tested = ("well_formed", "similarity", "found_by_words", *(["stemmed_f1"] if judged else []))
    agreed = {key: interval(0.3) for key in ("exact_f1", "stemmed_f1", "semantic_f1", "recall_at_3")}
    return {
        "name": name,
        "means": f"what {name} means",
        "missing": 0,
        "well_formed": interval(0.8, 0.05),
        "similarity": interval(similarity, 0.05),
        "similarity_valid": interval(None if name == "keybert" else similarity),
        "measures": {key: interval(0.6) for key in measures},
        "diversity": {"tags": 12, "distinct": interval(7.0), "entropy_bits": interval(2.5)},
        "defects": {"extra_text": 1},
        "agreement": agreed if judged else None,
        "against": None if name == "base" else dict.fromkeys(tested, change) | {"well_formed": form},
    }


def some_arms() -> list[dict[str, Any]]:
    others = [arm(name, 0.4 + 0.02 * place, 0.2) for place, name in enumerate(OTHERS)]
    return [arm("base", 0.4), arm("tuned", 0.6), *others[:-1], arm("keybert", 0.8)]


def some_uses() -> dict[str, Any]:
    ways = (("text", "text"), ("base", "tags"), ("base", "both"), ("tuned", "tags"), ("tuned", "both"))
    classes = [ATTACK, "ships"]
    per_class = {
        name: {"precision": interval(None), "recall": interval(0.6), "f1": interval(0.55), "support": 2}
        for name in classes
    }
    told = {"per_class": per_class, "confusion": [[2, 0], [1, 1]]}
    drawn = {
        "arm": "tuned",
        "points": [
            {"x": 0.5 * place, "y": 1.0 - place, "topic": place % 3 - 1, "text": f"spot {place} {ESCAPES}"}
            | {"tags": [ATTACK, f"tag {place}"], "label": ATTACK if place else None}
            for place in range(9)
        ],
        "topics": [{"id": 0, "name": ATTACK, "size": 3}, {"id": 1, "name": "ships, sails", "size": 3}],
        "hierarchy": [{"left": 0, "right": 1, "distance": 0.7, "name": "ships"}],
        "over_time": [
            {"period": "2019", "topic": 0, "count": 2},
            {"period": "2020", "topic": 0, "count": 1},
            {"period": "2020", "topic": -1, "count": 3},
        ],
    }
    figures = {name: interval(0.7) for name in ("map", "ndcg_at_10", "recall_at_10")}
    judged = {"accuracy": interval(0.7), "macro_f1": interval(0.6)} | told
    agreed = {"outliers": interval(0.1), "nmi": interval(0.5), "ari": interval(None)}
    scored = {"topics": 2, "coherence": interval(None), "diversity": interval(0.9)} | agreed
    return {
        "search": {
            "texts": 4,
            "queries": 6,
            "rows": [{"arm": arm, "on": on, "method": "bm25"} | figures for arm, on in ways],
        },
        "classification": {
            "texts": 4,
            "classes": classes,
            "rows": [{"arm": arm, "on": on, "method": "zero_shot"} | judged for arm, on in ways],
        },
        "topics": {"texts": 4, "rows": [{"arm": arm, "on": on} | scored for arm, on in ways], "map": drawn},
    }


def some_rounds() -> list[dict[str, Any]]:
    """A warm start, and a preference round that was not validated."""
    gained = {"texts": 9, "well_formed": 0.75, "mean_score": 0.4375, "gain": interval(0.2)}
    first = {"round": 1, "loss": "likelihood", "beta": 1.0, "learns_from": "20 lists", "steps": 5}
    second = first | {"round": 2, "loss": "ipo", "learns_from": "1,234 pairs", "steps": 7}
    references = {"from_sampling": 2468, "recomputed": 17}
    return [first | {"references": {}, "validation": gained}, second | {"references": references, "validation": None}]


def some_report() -> dict[str, Any]:
    corpus = some_corpus()
    curve = [{"loss": 1.0, **{f"nats_per_token/{n}": 0.1 for n in ("chosen", "rejected", "margin", "target")}}] * 3
    config = load_config(CONFIG, [f"prompt.system={ATTACK}"])
    return {
        "schema": 8,
        "run": f"demo {ATTACK}",
        "held_out_texts": 4,
        **compare(corpus, 200, 0),
        "reference_arm": "base",
        "arms": some_arms(),
        **judged(corpus, 200),
        "downstream": some_uses(),
        "examples": examples(corpus, 4),
        "curve": curve,
        "margins": {"edges": [0.0, 0.1, 0.2], "counts": [3, 1], "format": 2},
        "rounds": some_rounds(),
        "ledger": {"rank-1": {"texts": {"in": 5, "out": 4, "dropped": {"too_long": 1}}}},
        "config": config.model_dump(mode="json"),
        "stages": {
            "rank-1": {"config": {"model.base": "SmolLM2-135M-Instruct", "model.weights": "blake2b:0ba7"}},
            "train-1": {"config": {}, "counts": {"steps": 3}},
        },
        "versions": {"ray": "1"},
    }
