"""What a report found, in sentences that claim no more than intervals and corrected p values do."""

from semtag.evaluation.page import SURE, Figures, between, effect, shown, words
from semtag.evaluation.terminal import failed_gates

ASKED = ("base", "base_plain", "base_vote")
EXTRACTORS = ("first_words", "yake", "keybert", "keybert_mmr")
SAID = {
    "well_formed": "more answers are well formed",
    "similarity": "similarity over all texts is higher",
    "found_by_words": "BM25 finds texts by their tags earlier",
}
GAINS = {"above": "a gain", "below": "a loss", "neither": "intervals that overlap", "unknown": "too few to say"}
NAMED = 3  # most arms that a sentence lists


def verdict(report: Figures) -> list[str]:
    """The summary: form, similarity, other arms, people, uses, gates."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    return [
        _form(report["held_out_texts"], arms["base"], arms["tuned"]),
        *_similarities(report["similarity"]),
        *_arms(arms),
        *_people(arms["tuned"]),
        *_uses(report["downstream"]),
        _gates(report),
    ]


def _form(texts: int, base: Figures, tuned: Figures) -> str:
    change = tuned["against"]["well_formed"]
    sure = "a difference that chance hardly makes" if change["p"] < SURE else "which chance may explain"
    value, low, high = (shown(change["difference"][name], "points") for name in ("value", "low", "high"))
    return (
        f"Of {texts} held-out texts the base model answers {base['well_formed']['value']:.1%} well formed, "
        f"the tuned model {tuned['well_formed']['value']:.1%}: {value} percentage points, 95 % interval {low} to "
        f"{high}, {sure} (exact McNemar p = {change['p']:.2g})."
    )


def _similarities(similarity: Figures) -> list[str]:
    sentences = []
    for name, where in (("both_valid", "where both answers are well formed"), ("all_texts", "over all texts")):
        difference = similarity[name]["difference"]
        if difference["value"] is None:
            sentences.append(f"There is no text to compare similarity on {where}.")
            continue
        if similarity[name]["texts"] == 1:
            sentences.append(f"There is but one text to compare similarity on {where}, which says nothing of others.")
            continue
        found = "rises" if difference["low"] > 0 else "falls" if difference["high"] < 0 else "may not have changed"
        sentences.append(
            f"Similarity of tags and text {where} {found}: {difference['value']:+.3f}, "
            f"95 % interval {difference['low']:+.3f} to {difference['high']:+.3f}."
        )
    return sentences


def _arms(arms: dict[str, Figures]) -> list[str]:
    """How the other arms stand to the tuned model, by intervals, and to the base model, by corrected tests."""
    sentences = []
    if asked := [arms[name] for name in ASKED if name in arms]:
        formed, similar = _best(asked, "well_formed"), _best(asked, "similarity")
        sentences.append(
            f"Without training, asking the base model in another way reaches at most "
            f"{between(formed['well_formed'], 'percent')} well formed ({words(formed['name'])}), "
            f"{_beside(formed['well_formed'], arms['tuned']['well_formed'], 'percent')}, and similarity "
            f"{between(similar['similarity'])} ({words(similar['name'])}), "
            f"{_beside(similar['similarity'], arms['tuned']['similarity'])}."
        )
    if extractors := [arms[name] for name in EXTRACTORS if name in arms]:
        best = _best(extractors, "similarity")
        aside = ", which picks phrases by the very model that scores," if "keybert" in best["name"] else ""
        sentences.append(
            f"Of the ways that need no language model {words(best['name'])}{aside} comes closest to the texts: "
            f"similarity {between(best['similarity'])}, {_beside(best['similarity'], arms['tuned']['similarity'])}."
        )
    return [*sentences, _tested(arms)]


def _best(arms: list[Figures], figure: str) -> Figures:
    return max(arms, key=lambda arm: arm[figure]["value"] or 0.0)


def _beside(interval: Figures, tuned: Figures, kind: str = "figure") -> str:
    """How an interval lies beside the tuned model's. Apart is more than different."""
    where = {"unknown": "beside", "neither": "not clearly apart from"}
    lies = _apart(interval, tuned)
    return f"{where.get(lies, lies)} the tuned model's {between(tuned, kind)}"


def _apart(one: Figures, other: Figures) -> str:
    """Whether an interval lies `above` or `below` another one, `neither`, or `unknown` where one has no ends."""
    if any(interval[end] is None for interval in (one, other) for end in ("low", "high")):
        return "unknown"
    if one["low"] > other["high"]:
        return "above"
    return "below" if one["high"] < other["low"] else "neither"


def _tested(arms: dict[str, Figures]) -> str:
    """What differs from the base model, arm by arm, after the correction for their number."""
    against = {name: arm["against"] for name, arm in arms.items() if arm["against"]}
    found, unclear = [], False
    for figure, said in SAID.items():
        tested = {words(name): effect(own[figure]) for name, own in against.items() if figure in own}
        if tested:
            worse = [name for name, kind in tested.items() if kind == "lower"]
            reverse = f", and the reverse holds for {_listed(worse)}" if worse else ""
            found.append(f"{said} for {_which(tested, 'higher')}{reverse}")
            unclear |= "unclear" in tested.values()
    many = f", corrected for {len(against)} arms (Holm)" if len(against) > 1 else ""
    rest = " The others do not clearly differ, which is no proof that they are the same." if unclear else ""
    return f"Against the base model{many}: {'; '.join(found)}.{rest}"


def _which(tested: dict[str, str], kind: str) -> str:
    """`tuned and keybert`, `all but yake`, or a number."""
    own, rest = ([name for name, is_ in tested.items() if (is_ == kind) is wanted] for wanted in (True, False))
    if not own:
        return "none"
    if len(own) <= NAMED:
        return _listed(own)
    if not rest:
        return f"all {len(own)}"
    return f"{len(own)}, all but {_listed(rest)}" if len(rest) <= NAMED else f"{len(own)} of {len(tested)}"


def _people(tuned: Figures) -> list[str]:
    if not tuned["agreement"]:
        return []
    own = f"Agreement of the tuned model's tags with people's keyphrases is {between(tuned['agreement']['stemmed_f1'])}"
    change = tuned["against"].get("stemmed_f1")
    if not change:
        return [f"{own} (F1 of stems)."]
    found = {"higher": "more than the base model's", "lower": "less than the base model's"}
    return [
        f"{own} (F1 of stems), {found.get(effect(change), 'not clearly different from the base model')}: "
        f"{between(change['difference'], 'signed')}, Holm's p {shown(change['p_holm'], 'p')}."
    ]


def _uses(downstream: Figures) -> list[str]:
    """What the tuned model's tags add to the text itself, by the intervals of both."""
    kinds = (
        ("search", "ndcg_at_10", "finding texts by questions (nDCG@10)"),
        ("classification", "macro_f1", "telling the class of a text (macro F1)"),
    )
    return [said for use, *what in kinds if downstream[use] and (said := _use(downstream[use], *what))]


def _use(use: Figures, figure: str, purpose: str) -> str:
    rows = {(row["arm"], row["on"], row["method"]): row[figure] for row in use["rows"]}
    found = []
    for method in dict.fromkeys(row["method"] for row in use["rows"]):
        alone, both = rows.get(("text", "text", method)), rows.get(("tuned", "both", method))
        if alone and both:
            gain = GAINS[_apart(both, alone)]
            found.append(f"{words(method)} {between(alone)} without them, {between(both)} with them, {gain}")
    return f"The tuned model's tags beside the text, for {purpose}: {'; '.join(found)}." if found else ""


def _gates(report: Figures) -> str:
    failed = failed_gates(report)
    all_ = f"{len(report['gates'])} gates against gaming it"
    return (
        "Similarity is also what the model was trained for, and it rewards words copied from the text. "
        + (f"Of {all_}, {len(failed)} failed: {', '.join(failed)}. " if failed else f"All {all_} passed. ")
        + "Read the examples before you trust it."
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
